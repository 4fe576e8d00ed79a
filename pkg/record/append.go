package record

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"
)

// Append stores one entry in the journal or, where there is none, writes it with
// what [Log.Later] has left by one write(2), and returns once it is as durable as
// the log's [Durability] says. body is an [Appender], or anything that encoding/json takes;
// kind is 1 to 64 of a-z, 0-9 and "_". The returned Entry has no Body.
//
// After an error the entry is not in the log, or the log is poisoned: this and
// all later calls return [ErrFailed] then. What poisons it is a failed fsync,
// and whatever else leaves it uncertain what the files hold. An entry whose
// fsync failed may still be found in the log, so that an action which did not
// happen may look as if it was about to; never the other way round.
//
// All other errors leave the log as it was, and the next call is a new attempt:
// a body that JSON refuses, [ErrTooLarge], what [Options].Admit says, and a
// shortage. That is a disk without room (ENOSPC, EDQUOT) for a line, of which
// nothing was left behind, or whatever kept the next segment from being
// created, as a lack of descriptors does. What the journal holds stays there
// meanwhile, and nothing is appended to it before that has moved.
func (l *Log) Append(kind string, body any) (Entry, error) {
	e, err := l.Write(kind, body)
	if err == nil {
		if err = l.Commit(e.Seq); err != nil {
			return Entry{}, fmt.Errorf("append %s: %w", kind, err)
		}
	}
	return e, err
}

// Write is Append that waits for no fsync: with [Sync], the entry is as durable as
// with [Durability] Write, until [Log.Commit] has returned. Errors are those of Append.
func (l *Log) Write(kind string, body any) (Entry, error) { return l.place(kind, body, (*Log).write) }

// Commit returns once the entry seq of [Log.Write], with all before it, is as durable as
// the log's [Durability] says. An error means that it is not known to be; it poisons the
// log.
func (l *Log) Commit(seq uint64) error {
	if l == nil {
		return ErrClosed
	}
	if l.durability != Sync {
		return nil
	}
	return l.commit(seq)
}

// place has put give an entry its place.
func (l *Log) place(kind string, body any, put func(l *Log, kind string, d *draft) (Entry, error)) (Entry, error) {
	if l == nil {
		return Entry{}, ErrClosed
	}
	if !validKind(kind) {
		return Entry{}, fmt.Errorf("append entry: kind %s is not made of a-z, 0-9 and _", quote(kind))
	}
	enc, ok := l.encoders.Get().(*encoder)
	if !ok {
		return Entry{}, fmt.Errorf("append %s: no encoder", kind)
	}
	defer l.encoders.Put(enc)
	err := enc.encode(body)
	var e Entry
	if err == nil {
		e, err = put(l, kind, &enc.draft)
	}
	enc.shrink()
	if err != nil {
		return Entry{}, fmt.Errorf("append %s: %w", kind, err)
	}
	return e, nil
}

// write gives the entry its place in the chain and writes its line, and what waits
// in front of it.
func (l *Log) write(kind string, d *draft) (Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.short != nil && l.failed == nil {
		// Where there is no room for what the journal holds, it takes no more.
		if err := l.move(); err != nil {
			return Entry{}, l.refuse(err)
		}
	}
	e, err := l.prepare(kind, d)
	if err != nil {
		return Entry{}, err
	}
	if ok, err := l.keep(&e, d); ok || err != nil {
		if err != nil {
			return Entry{}, l.refuse(err)
		}
		l.short = nil
		return e, nil
	}
	seq, hash, waiting := l.seq, l.hash, len(l.waiting)
	l.put(&e, d)
	if err := l.flush(); err != nil {
		l.seq, l.hash, l.waiting = seq, hash, l.waiting[:waiting]
		l.entries--
		return Entry{}, l.refuse(err)
	}
	l.short = nil
	return e, nil
}

// prepare makes d the next entry, and room for it in the segment. mu is held.
func (l *Log) prepare(kind string, d *draft) (Entry, error) {
	if l.failed != nil {
		return Entry{}, l.failed
	}
	e := Entry{Seq: l.seq + 1, Time: l.now().UTC(), Kind: kind}
	if y := e.Time.Year(); y < 1 || y > 9999 {
		return Entry{}, fmt.Errorf("year %d has no RFC 3339 form", y)
	}
	d.lead(&e, &l.second)
	if n := len(d.object()); n > MaxEntryBytes {
		return Entry{}, fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, n, MaxEntryBytes)
	}
	size := int64(d.lineBytes())
	if l.admit != nil {
		if err := l.admit(e, size, int64(l.pending())); err != nil {
			return Entry{}, err
		}
	}
	if l.entries > 0 && l.size+int64(l.pending())+size > l.segmentBytes {
		err := l.flush()
		if err == nil {
			err = l.rotate()
		}
		if err != nil {
			return Entry{}, l.refuse(err)
		}
	}
	return e, nil
}

// put moves the head to the entry that was prepared, whose line waits from now on.
// mu is held.
func (l *Log) put(e *Entry, d *draft) {
	e.Hash = d.link(l.hash)
	l.waiting = append(l.waiting, d.line()...)
	l.seq, l.hash = e.Seq, e.Hash
	l.entries++
}

// pending returns how many bytes of lines are in no segment yet. mu is held.
func (l *Log) pending() int { return len(l.journal.lines()) + len(l.waiting) }

// flush writes to the segment the lines of the journal and those that wait. After an
// error they stay where they are, or the log is poisoned. mu is held.
func (l *Log) flush() error {
	if err := l.move(); err != nil {
		return err
	}
	if len(l.waiting) == 0 {
		return nil
	}
	if err := l.writeOut(l.waiting); err != nil {
		return err
	}
	l.waiting = l.waiting[:0]
	if cap(l.waiting) > maxWaiting {
		l.waiting = nil
	}
	l.written = head{l.seq, l.hash}
	return nil
}

// writeOut writes complete lines. After an error nothing of them is there, or the
// log is poisoned.
func (l *Log) writeOut(lines []byte) error {
	n, err := l.file.Write(lines)
	if err == nil && n < len(lines) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(lines))
	}
	if err == nil {
		l.size += int64(n)
		return nil
	}
	// If the cut fails too, the next Open finds a torn line and cuts it.
	if cut := l.cut(); cut != nil || !noRoom(err) {
		return l.fail(errors.Join(err, cut))
	}
	return err
}

// cut takes away what follows the last complete line of the current segment,
// and makes sure that it is gone.
func (l *Log) cut() error {
	if err := l.file.Truncate(l.size); err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err == nil && info.Size() != l.size {
		err = fmt.Errorf("%d bytes instead of %d", info.Size(), l.size)
	}
	if err != nil {
		return fmt.Errorf("cut line: %w", err)
	}
	return nil
}

// refuse notes for want of what an entry is refused, unless the log is poisoned
// for it. mu is held.
func (l *Log) refuse(cause error) error {
	if l.failed != nil {
		return l.failed
	}
	l.short = cause
	return cause
}

// fail poisons the log. mu is held.
func (l *Log) fail(cause error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	}
	return l.failed
}

// rotate goes on to a new segment. After an error the old one is still the
// current one, or the log is poisoned. mu is held.
func (l *Log) rotate() error {
	old := l.file
	if err := l.startSegment(l.segment + 1); err != nil {
		return err
	}
	if l.durability == Sync {
		// Whoever runs the next fsync also syncs and closes this one.
		l.retired = append(l.retired, old)
		return nil
	}
	if err := old.Close(); err != nil {
		return l.fail(fmt.Errorf("close segment: %w", err))
	}
	return nil
}

// startSegment creates the segment n and writes its header. After an error
// there is no such segment, or the log is poisoned.
func (l *Log) startSegment(n uint64) error {
	f, err := l.create(n)
	if errors.Is(err, fs.ErrExist) {
		// Not ours, and yet the next Open would take it for the end of the log.
		return l.fail(fmt.Errorf("create segment: %w", err))
	}
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	old, segment, size, entries, hash, written := l.file, l.segment, l.size, l.entries, l.hash, l.written
	l.file, l.segment, l.size, l.entries = f, n, 0, 0
	err = l.writeHeader()
	if err == nil && l.durability != Write {
		if err = l.syncDir(); err != nil {
			err = l.fail(fmt.Errorf("sync: %w", err))
		}
	}
	if err == nil {
		return nil
	}
	// Go back, as if nothing had been tried.
	l.file, l.segment, l.size, l.entries, l.hash, l.written = old, segment, size, entries, hash, written
	err = errors.Join(err, f.Close())
	if gone := l.remove(n); gone != nil {
		return l.fail(errors.Join(err, fmt.Errorf("remove segment: %w", gone)))
	}
	return err
}

// writeHeader writes the header of the current segment, which is empty.
func (l *Log) writeHeader() error {
	object, err := newHeader(l.segment, l.seq+1, l.hash, l.now().Round(time.Nanosecond))
	if err != nil {
		return err
	}
	hash := link(l.hash, object)
	if err := l.writeOut(appendLine(nil, hash, object)); err != nil {
		return err
	}
	l.hash, l.written.hash = hash, hash
	return nil
}

// commit returns once the entry seq is on stable storage. One caller syncs for
// all that have written until then, while the others wait for it.
func (l *Log) commit(seq uint64) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	for l.syncing && l.synced < seq {
		l.syncDone.Wait()
	}
	if l.synced >= seq {
		return nil
	}
	l.syncing = true
	l.syncMu.Unlock()
	// Those that the previous sync released are about to append again: let
	// them, so that this sync covers them too.
	runtime.Gosched()
	written, err := l.sync()
	l.syncMu.Lock()
	l.syncing = false
	l.syncDone.Broadcast()
	if err != nil {
		return err
	}
	l.synced = written
	return nil
}

// sync brings everything that was written onto stable storage and returns the
// number of the last such entry. Only one runs at a time.
func (l *Log) sync() (uint64, error) {
	l.mu.Lock()
	if l.failed != nil {
		defer l.mu.Unlock()
		return 0, l.failed
	}
	written, current, retired := l.written.seq, l.file, l.retired
	l.retired = nil
	l.mu.Unlock()

	err := syncAll(append(retired, current))
	for _, f := range retired {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		// After a failed fsync the kernel may have dropped the pages; a second
		// one that succeeds would prove nothing.
		l.mu.Lock()
		defer l.mu.Unlock()
		return 0, l.fail(fmt.Errorf("sync: %w", err))
	}
	return written, nil
}
