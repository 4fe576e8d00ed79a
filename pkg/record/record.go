package record

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// MaxEntryBytes is the most that one entry's JSON object may have.
	MaxEntryBytes = 1 << 20
	// DefaultSegmentBytes is the size of segments unless [Options] say more.
	DefaultSegmentBytes = 64 << 20
)

// Durability tells what an entry has survived once Append has returned it.
type Durability uint8

const (
	// Write means that the kernel has the entry, in a file or in the pages of a
	// shared mapping: it survives the death of the process, but not that of the
	// machine.
	Write Durability = iota
	// Sync means that the entry is on stable storage. Appends that run at the
	// same time share one fsync.
	Sync
	// Deferred means that an entry is on stable storage once a [Log.Sync] that
	// began after it has returned. The names of the log and of its segments
	// are so from the beginning.
	Deferred
)

// Options configure [Open]. The zero Options are usable.
type Options struct {
	// SegmentBytes is the size, in bytes, beyond which a new segment is
	// started. Zero means DefaultSegmentBytes. A segment holds at least one
	// entry, so that a larger one is still written.
	SegmentBytes int64
	// Durability is Write unless said otherwise.
	Durability Durability
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Admit is asked before an entry is written that takes size bytes of disk,
	// besides the ahead bytes of entries that are in no segment yet.
	// e has no Hash and no Body. An error refuses the entry and leaves the log
	// as it was. Admit must not call the log; logs that share it call it at the
	// same time. Nil admits everything.
	Admit func(e Entry, size, ahead int64) error
	// Late is told why what [Log.Later] took could not be written in time, each
	// time that this was tried in vain. It is called by a goroutine of its own,
	// which holds no lock of the log. Nil is told nothing.
	Late func(error)
}

// Recovery tells what Open found.
type Recovery struct {
	// TornBytes is the length of the unfinished last line that was cut.
	TornBytes int64
	// File is the segment from which it was cut.
	File string
	// JournalBytes is how much of the journal was not what comes next in this
	// log, and was cut.
	JournalBytes int64
}

// Log is a log that is open for appending. There is at most one per directory.
// Its methods may be called concurrently. A nil Log refuses every append.
type Log struct {
	durability   Durability
	segmentBytes int64
	now          func() time.Time
	admit        func(e Entry, size, ahead int64) error
	late         func(error)
	// create starts the segment with this number, and remove takes it back;
	// tests replace them.
	create func(n uint64) (file, error)
	remove func(n uint64) error
	// createJournal is called by the first Append, and then is nil; as it is
	// from the beginning where no journal is wanted. Tests replace it.
	createJournal func() (*journal, error)
	path          string
	// root and dir are the directory at path. dir carries the lock, and its
	// fsync makes new segments durable. Both are nil in what Create returns.
	root     *os.Root
	dir      *os.File
	encoders sync.Pool

	syncMu   sync.Mutex // taken before mu
	syncDone *sync.Cond // syncing became false
	syncing  bool       // somebody syncs, or closes
	synced   uint64     // last entry on stable storage

	mu      sync.Mutex
	failed  error // set once; every later append returns it
	short   error // for want of what the last append was refused, or nil
	segment uint64
	file    file
	retired []file // full segments that were not synced yet; Sync only
	size    int64  // of the current segment, complete lines only
	entries uint64 // in the current segment
	seq     uint64
	hash    [32]byte
	written head   // what of that is in the file or in the journal
	waiting []byte // complete lines that are not
	journal *journal
	armed   bool // timer runs
	timer   *time.Timer
	second  second // of the last entry
}

// file is what a Log needs of a segment's os.File.
type file interface {
	io.WriteCloser
	Stat() (os.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// Open opens the log in dir for appending and creates it where there is none.
// It verifies the last two segments, moves to the last one what a process that died
// left in the journal, and cuts an unfinished last line; the whole log is verified
// by [Verify]. Everything else that is wrong with the log is a [BrokenError], and a
// log that somebody appends to is [ErrLocked].
func Open(dir string, opts Options) (*Log, Recovery, error) {
	l, recovery, err := open(dir, opts)
	if err != nil {
		return nil, recovery, fmt.Errorf("open log %s: %w", dir, err)
	}
	return l, recovery, nil
}

func open(dir string, opts Options) (*Log, Recovery, error) {
	l := newLog(dir, opts)
	if opts.Durability == Write {
		l.createJournal = func() (*journal, error) { return createJournal(l.root) }
	}
	if err := l.enter(); err != nil {
		return nil, Recovery{}, err
	}
	recovery, err := l.start()
	if err != nil {
		return nil, recovery, errors.Join(err, l.release())
	}
	if l.durability != Write {
		// The log's own name must survive too.
		if err := syncPath(filepath.Dir(dir)); err != nil {
			return nil, recovery, errors.Join(err, l.Close())
		}
	}
	return l, recovery, nil
}

// Create begins a log in dir, where there must be none ([fs.ErrExist]). The log
// has one segment, of any size, and keeps one descriptor instead of the three
// of [Open], and no journal: for logs of which many are open at a time. It takes
// no lock: the caller promises that nobody else appends to the log. After an error
// there is no log, and Create may be called again.
func Create(dir string, opts Options) (*Log, error) {
	opts.SegmentBytes = math.MaxInt64
	l := newLog(dir, opts)
	if err := l.begin(); err != nil {
		return nil, fmt.Errorf("create log %s: %w", dir, err)
	}
	return l, nil
}

func (l *Log) begin() error {
	if err := os.Mkdir(l.path, dirMode); err == nil {
		return l.beginIn()
	}
	// It is there already, or what it should be in is not.
	if err := l.enter(); err != nil {
		return err
	}
	_, err := lastSegment(l.root)
	if err == nil {
		err = l.startSegment(1)
	}
	if err != nil {
		return errors.Join(err, l.release())
	}
	if l.durability != Write {
		err = syncPath(filepath.Dir(l.path))
	}
	if err = errors.Join(err, l.leave()); err != nil {
		return errors.Join(err, l.release(), os.Remove(filepath.Join(l.path, segmentName(1))))
	}
	return nil
}

// beginIn begins the log in its directory, which is new: nobody has to look what
// is in it, nor to keep it open.
func (l *Log) beginIn() error {
	name := filepath.Join(l.path, segmentName(1))
	l.create = func(uint64) (file, error) {
		return os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, fileMode)
	}
	l.remove = func(uint64) error { return os.Remove(name) }
	err := l.startSegment(1)
	if err == nil && l.durability != Write {
		if err = syncPath(filepath.Dir(l.path)); err != nil {
			err = errors.Join(err, l.release(), os.Remove(name))
		}
	}
	if err != nil {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

func newLog(dir string, opts Options) *Log {
	l := &Log{
		durability:   opts.Durability,
		segmentBytes: opts.SegmentBytes,
		now:          opts.Now,
		admit:        opts.Admit,
		late:         opts.Late,
		path:         dir,
	}
	if l.segmentBytes <= 0 {
		l.segmentBytes = DefaultSegmentBytes
	}
	if l.now == nil {
		l.now = time.Now
	}
	l.create, l.remove = l.createSegment, l.removeSegment
	l.syncDone = sync.NewCond(&l.syncMu)
	l.encoders.New = func() any { return newEncoder() }
	return l
}

// start takes the lock and finds the end of the log.
func (l *Log) start() (Recovery, error) {
	if err := lock(l.dir); err != nil {
		return Recovery{}, err
	}
	lines, err := readJournal(l.root)
	if err != nil {
		return Recovery{}, err
	}
	last, err := lastSegment(l.root)
	if err != nil {
		return Recovery{}, err
	}
	var recovery Recovery
	if last == 0 {
		recovery.JournalBytes = int64(len(lines))
		err = l.startSegment(1)
	} else {
		recovery, err = l.resume(walker{root: l.root, last: last, journal: lines})
	}
	if err != nil {
		return recovery, err
	}
	// Nothing is in the journal now that is in no segment.
	if err := l.root.Remove(journalName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return recovery, err
	}
	return recovery, nil
}

// resume continues the last segment of w.
func (l *Log) resume(w walker) (Recovery, error) {
	n := w.last
	err := w.walk(max(n-1, 1), func(Entry) bool { return true })
	if err != nil && !errors.Is(err, ErrTorn) {
		return Recovery{}, err
	}
	f, err := l.root.OpenFile(segmentName(n), os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return Recovery{}, err
	}
	l.file, l.segment, l.size, l.entries = f, n, w.offset, w.entries
	l.seq, l.hash = w.chain.next-1, w.chain.hash
	l.synced, l.written = l.seq, head{l.seq, l.hash}
	recovery := Recovery{JournalBytes: w.strange()}
	if w.torn > 0 {
		if !w.completed() {
			recovery.TornBytes, recovery.File = w.torn, segmentName(n)
		}
		if err := f.Truncate(w.offset); err != nil {
			return recovery, err
		}
	}
	if w.offset == 0 {
		// The segment was created, but its header never became complete.
		if err := l.writeHeader(); err != nil {
			return recovery, err
		}
	}
	if len(w.moved) > 0 {
		if err := l.writeOut(w.moved); err != nil {
			return recovery, fmt.Errorf("move entries from the journal: %w", err)
		}
	}
	if l.durability != Write {
		// What an earlier process wrote may not be on stable storage yet.
		return recovery, errors.Join(f.Sync(), l.dir.Sync())
	}
	return recovery, nil
}

// Head returns the sequence number of the last entry that was written, to the journal
// or to a segment, zero if there is none, and the hash of the last line. With Sync that line may not be on stable
// storage yet.
func (l *Log) Head() (seq uint64, hash [32]byte) {
	if l == nil {
		return 0, hash
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.seq, l.written.hash
}

// Err returns nil unless something is known to keep entries from being written:
// what poisoned the log ([ErrFailed]), [ErrClosed], or the shortage for which
// the last append was refused. What [Options].Admit refused does not count.
func (l *Log) Err() error {
	if l == nil {
		return ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	return l.short
}

// Sync brings the current segment onto stable storage, whatever the log's
// Durability. With [Write] and [Deferred], that is the whole log as long as it
// has only one segment. An error poisons the log, unless it is a shortage that keeps
// from being written what [Log.Later] has left or the journal holds.
func (l *Log) Sync() error {
	if l == nil {
		return ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	if err := l.flush(); err != nil {
		return l.refuse(err)
	}
	err := l.file.Sync()
	if err == nil && l.durability == Write {
		// Otherwise startSegment saw to the names.
		err = l.syncDir()
	}
	if err != nil {
		return l.fail(fmt.Errorf("sync: %w", err))
	}
	return nil
}

// Close ends appending and gives up the lock. Entries that Append returned are
// as durable as they were: a journal that cannot be moved stays for the next Open,
// and the error says so. Appends that run at the same time fail or succeed.
// Closing twice is [ErrClosed].
func (l *Log) Close() error {
	if l == nil {
		return ErrClosed
	}
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	for l.syncing {
		l.syncDone.Wait()
	}
	// Whoever waits finds its entry synced, or the log closed.
	defer l.syncDone.Broadcast()
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, ErrClosed) {
		return ErrClosed
	}
	err := l.rest()
	if l.durability == Sync && l.failed == nil {
		if synced := syncAll(append(l.retired, l.file)); synced != nil {
			err = errors.Join(err, synced)
		} else {
			l.synced = l.written.seq
		}
	}
	l.failed = ErrClosed
	return errors.Join(err, l.release())
}

// release closes whatever is open.
func (l *Log) release() error {
	var errs []error
	for _, f := range append(l.retired, l.file) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	l.retired, l.file = nil, nil
	errs = append(errs, l.closeJournal())
	return errors.Join(append(errs, l.leave())...)
}

func syncAll(files []file) error {
	for _, f := range files {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}
