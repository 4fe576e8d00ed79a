package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
)

const (
	// journalName does not end in ".log": it is no segment.
	journalName = "journal"
	// journalBytes is the size of the whole file. Its lines begin behind its
	// first journalHead bytes, of which the first eight are its state.
	journalBytes = 128 << 10
	journalHead  = 64
)

// journal takes the lines of Append until many of them move to the segment with
// one write(2). It is a file that is mapped and shared: what was stored there is
// the kernel's, as after write(2), and outlives the process.
//
// Its state is one word, stored atomically behind the lines that it tells of: in
// its lower half how many bytes of lines there are, in its upper half how often
// the journal was emptied. Within one such generation, lines are only added.
//
// A nil journal is empty. The log's mutex guards it.
type journal struct {
	mem   []byte         // the file
	state *atomic.Uint64 // its first word
	used  int            // bytes of lines
	round uint32         // generation
}

// lines returns the lines that are in the journal and in no segment. They are
// valid until the next call of a method.
func (j *journal) lines() []byte {
	if j == nil {
		return nil
	}
	return j.mem[journalHead : journalHead+j.used]
}

// fits reports whether there is room for size bytes more.
func (j *journal) fits(size int) bool { return size <= len(j.mem)-journalHead-j.used }

// add adds the line that holds object. After an error the line is not in the
// journal, of which it is uncertain then what it holds.
func (j *journal) add(hash [32]byte, object []byte) (err error) {
	defer caught(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	at := journalHead + j.used
	at += hex.Encode(j.mem[at:], hash[:])
	j.mem[at] = ' '
	at += 1 + copy(j.mem[at+1:], object)
	j.mem[at] = '\n'
	used := at + 1 - journalHead
	j.state.Store(stateWord(j.round, used))
	j.used = used
	return nil
}

// empty drops the lines. After an error it is uncertain what the journal holds.
func (j *journal) empty() (err error) {
	defer caught(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	j.state.Store(stateWord(j.round+1, 0))
	j.round, j.used = j.round+1, 0
	return nil
}

// caught turns a fault of memory into an error. The blocks of a journal are there
// before it is used, but a disk may still fail to bring back one of its pages, a
// file system that writes elsewhere each time may lack room for that, and
// somebody may have cut the file.
func caught(err *error) {
	r := recover()
	if r == nil {
		return
	}
	fault, ok := r.(interface {
		error
		Addr() uintptr
	})
	if !ok {
		panic(r)
	}
	*err = fmt.Errorf("store in journal: %w", error(fault))
}

func stateWord(round uint32, used int) uint64 { return uint64(round)<<32 | uint64(uint32(used)) }

// readJournal returns the lines of the journal in a log's directory, nil if there
// are none. It must be called before the segments are read: what was in the
// journal then is in what it returns, or in a segment. It changes nothing, waits
// for nobody, and what it returns is not verified.
func readJournal(root *os.Root) ([]byte, error) {
	f, err := openJournal(root)
	if f == nil || err != nil {
		return nil, err
	}
	lines, err := journaled(f)
	return lines, errors.Join(err, f.Close())
}

// openJournal opens the journal for reading. It returns nil if there is none.
func openJournal(root *os.Root) (*os.File, error) {
	info, err := root.Lstat(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := regular(journalName, info.Mode()); err != nil {
		return nil, err
	}
	f, err := root.Open(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func journaled(f io.ReaderAt) ([]byte, error) {
	before, err := readState(f)
	if err != nil {
		return nil, err
	}
	used := min(uint32(before), journalBytes-journalHead)
	if used == 0 {
		return nil, nil
	}
	lines := make([]byte, used)
	n, err := f.ReadAt(lines, journalHead)
	if err != nil && err != io.EOF {
		return nil, err
	}
	after, err := readState(f)
	if err != nil {
		return nil, err
	}
	if before>>32 != after>>32 {
		// It was emptied meanwhile: everything that was in it when the reading
		// began is in a segment now.
		return nil, nil
	}
	return lines[:n], nil
}

// readState returns a journal's state, zero for one that was not finished. Nobody
// promises that a read of eight bytes takes place at once; two that are the same
// are not both halves of two.
func readState(f io.ReaderAt) (uint64, error) {
	var last uint64
	var b [8]byte
	for range 100 {
		n, err := f.ReadAt(b[:], 0)
		if n < len(b) && err == io.EOF {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		state := binary.LittleEndian.Uint64(b[:])
		if state == last {
			break
		}
		last = state
	}
	return last, nil
}

// fresh returns those of the lines that come after the entry seq, and of those
// before them the hash that the last one claims, if it is the entry seq.
func fresh(lines []byte, seq uint64) (rest, hash []byte) {
	for rest = lines; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		n, ok := claimedSeq(line)
		if !whole || !ok || n > seq {
			return rest, hash
		}
		if n == seq {
			hash = line[:hashDigits]
		}
		rest = after
	}
}

// claimedSeq returns which entry a line says it is.
func claimedSeq(line []byte) (uint64, bool) {
	const prefix = ` {"seq":`
	if len(line) < hashDigits {
		return 0, false
	}
	rest, ok := bytes.CutPrefix(line[hashDigits:], []byte(prefix))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(","))
	if !ok || len(digits) > 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}

// follow verifies and visits the lines of the journal that go on behind the last
// segment, and reports whether visit wants more.
func (w *walker) follow(visit func(Entry) bool) bool {
	rest, _ := fresh(w.journal, w.chain.next-1)
	begin := rest
	w.chain.file, w.chain.line = journalName, 0
	for len(rest) > 0 {
		w.chain.line++
		good := w.chain
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		e, err := w.chain.entry(line)
		if !whole || err != nil {
			w.chain, w.foreign = good, int64(len(rest))
			return true
		}
		rest = after
		w.moved = begin[:len(begin)-len(rest)]
		w.entries++
		w.total++
		if !visit(e) {
			return false
		}
	}
	return true
}

// completed reports whether the journal holds the whole of the line of which the
// last segment has a beginning: a process died while it moved it there.
func (w *walker) completed() bool { return len(w.moved) > 0 }

// strange returns how many bytes of the journal are not known to be of this log,
// provided that nobody appends to it. What was in the segments already must end
// where they do: the journal is emptied before anything else is written there.
func (w *walker) strange() int64 {
	if w.foreign > 0 || len(w.moved) > 0 || len(w.journal) == 0 {
		return w.foreign
	}
	_, claimed := fresh(w.journal, w.chain.next-1)
	if string(claimed) == hex.EncodeToString(w.chain.hash[:]) {
		return 0
	}
	return int64(len(w.journal))
}

// keep puts the entry that was prepared into the journal and moves the head to it,
// unless there is none, the line is larger than it, or others wait that come
// first. mu is held.
func (l *Log) keep(e *Entry) (bool, error) {
	if l.createJournal != nil {
		// What keeps it from being made is no reason to refuse anything.
		if j, err := l.createJournal(); err == nil {
			l.journal = j
		}
		l.createJournal = nil
	}
	size := hashDigits + 1 + len(l.object()) + 1
	if l.journal == nil || len(l.waiting) > 0 || size > journalBytes-journalHead {
		return false, nil
	}
	if !l.journal.fits(size) {
		if err := l.move(); err != nil {
			return false, err
		}
	}
	e.Hash = linked(l.hash, l.scratch)
	if err := l.journal.add(e.Hash, l.object()); err != nil {
		return false, l.fail(err)
	}
	l.seq, l.hash = e.Seq, e.Hash
	l.written = head{l.seq, l.hash}
	l.entries++
	l.arm()
	return true, nil
}

// move writes the journal's lines to the segment. After an error they are still in
// the journal, or the log is poisoned. mu is held.
func (l *Log) move() error {
	lines := l.journal.lines()
	if len(lines) == 0 {
		return nil
	}
	if err := l.writeOut(lines); err != nil {
		return err
	}
	if err := l.journal.empty(); err != nil {
		return l.fail(err)
	}
	return nil
}

// closeJournal removes the journal, unless it holds what is in no segment.
func (l *Log) closeJournal() error {
	if l.journal == nil {
		return nil
	}
	left := len(l.journal.lines())
	err := l.journal.close()
	l.journal = nil
	if left == 0 {
		err = errors.Join(err, l.root.Remove(journalName))
	}
	return err
}
