package record

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

// Append writes one entry with one write(2) and returns once it is as durable
// as the log's [Durability] says. body is anything that encoding/json takes;
// kind is 1 to 64 of a-z, 0-9 and "_". The returned Entry has no Body.
//
// A body that JSON refuses and [ErrTooLarge] leave the log as it was. After any
// other error the log is poisoned: this and all later calls return [ErrFailed].
// What was written in part is cut off again where that is possible. An entry
// whose fsync failed may still be found in the log, so that an action which did
// not happen may look as if it was about to; never the other way round.
func (l *Log) Append(kind string, body any) (Entry, error) {
	if l == nil {
		return Entry{}, ErrClosed
	}
	if !validKind(kind) {
		return Entry{}, fmt.Errorf("append entry: kind %s is not made of a-z, 0-9 and _", quote(kind))
	}
	enc, ok := l.encoders.Get().(*encoder)
	if !ok {
		return Entry{}, errors.New("append entry: no encoder")
	}
	defer l.encoders.Put(enc)
	encoded, err := enc.encode(body)
	if err != nil {
		return Entry{}, fmt.Errorf("append %s: %w", kind, err)
	}
	e, err := l.write(kind, encoded)
	if err != nil {
		return Entry{}, fmt.Errorf("append %s: %w", kind, err)
	}
	if l.durability == Sync {
		if err := l.commit(e.Seq); err != nil {
			return Entry{}, fmt.Errorf("append %s: %w", kind, err)
		}
	}
	return e, nil
}

// write gives the entry its place in the chain and writes its line.
func (l *Log) write(kind string, body []byte) (Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return Entry{}, l.failed
	}
	e := Entry{Seq: l.seq + 1, Time: l.now().UTC(), Kind: kind}
	if y := e.Time.Year(); y < 1 || y > 9999 {
		return Entry{}, fmt.Errorf("year %d has no RFC 3339 form", y)
	}
	l.object = appendEntry(l.object[:0], e, body)
	if len(l.object) > MaxEntryBytes {
		err := fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, len(l.object), MaxEntryBytes)
		l.object = nil
		return Entry{}, err
	}
	if l.entries > 0 && l.size+int64(len(l.object)+hashDigits+2) > l.segmentBytes {
		if err := l.rotate(); err != nil {
			return Entry{}, l.fail(err)
		}
	}
	e.Hash = link(l.hash, l.object)
	if err := l.writeLine(e.Hash, l.object); err != nil {
		return Entry{}, err
	}
	l.seq = e.Seq
	l.entries++
	return e, nil
}

// writeLine writes one line and moves the head, or poisons the log.
func (l *Log) writeLine(hash [32]byte, object []byte) error {
	l.line = appendLine(l.line[:0], hash, object)
	n, err := l.file.Write(l.line)
	if err == nil && n < len(l.line) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(l.line))
	}
	if err != nil {
		// If the cut fails too, the next Open finds a torn line and cuts it.
		return l.fail(errors.Join(err, l.file.Truncate(l.size)))
	}
	l.size += int64(n)
	l.hash = hash
	return nil
}

// fail poisons the log. mu is held.
func (l *Log) fail(cause error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	}
	return l.failed
}

// rotate goes on to a new segment. mu is held.
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
	return old.Close()
}

// startSegment creates the segment n and writes its header.
func (l *Log) startSegment(n uint64) error {
	f, err := l.create(n)
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	if l.file == nil {
		l.file = f
	}
	old, segment, size, entries := l.file, l.segment, l.size, l.entries
	l.file, l.segment, l.size, l.entries = f, n, 0, 0
	err = l.writeHeader()
	if err == nil && l.durability == Sync {
		err = l.dir.Sync()
	}
	if err == nil {
		return nil
	}
	// The header never became complete: go back, as if nothing had been tried.
	l.file, l.segment, l.size, l.entries = old, segment, size, entries
	if f != old {
		err = errors.Join(err, f.Close())
	}
	if e := l.root.Remove(segmentName(n)); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// writeHeader writes the header of the current segment, which is empty.
func (l *Log) writeHeader() error {
	object, err := newHeader(l.segment, l.seq+1, l.hash, l.now().Round(time.Nanosecond))
	if err != nil {
		return err
	}
	return l.writeLine(link(l.hash, object), object)
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
	written, current, retired := l.seq, l.file, l.retired
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
