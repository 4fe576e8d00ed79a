package record

import (
	"errors"
	"fmt"
	"time"
)

const (
	// lag is how long an entry of Later may wait, or stay in the journal.
	lag = 50 * time.Millisecond
	// writeAt is from how many bytes on nothing waits any longer, and maxWaiting
	// beyond how many nothing is taken that would have to wait.
	writeAt    = 16 << 10
	maxWaiting = 64 << 10
)

// head is where a log ends.
type head struct {
	seq  uint64
	hash [32]byte
}

// Later is Append for what tells of something that is over: the entry has its
// place in the chain at once, and is written with the next one that Append writes,
// by [Log.Flush], [Log.Sync] or [Log.Close], or by itself after 50 ms. Should the
// process die before that, it is lost; what Append returns never is. With
// [Sync] it is brought onto stable storage in the same time. A journal takes it
// like any other entry.
//
// Errors are those of Append. A shortage that hits what waits is reported by
// [Log.Err] and [Options].Late, and refuses what comes later once 64 KiB wait, or the
// journal is full.
func (l *Log) Later(kind string, body any) (Entry, error) { return l.place(kind, body, (*Log).await) }

// await gives the entry its place in the chain, and writes it if there is a lot.
func (l *Log) await(kind string, d *draft) (Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > maxWaiting && l.failed == nil {
		if err := l.flush(); err != nil {
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
		return e, nil
	}
	l.put(&e, d)
	if len(l.waiting) < writeAt {
		l.arm()
		return e, nil
	}
	err = l.flush()
	if l.failed != nil {
		return Entry{}, l.failed
	}
	l.short = err
	if err != nil || l.durability == Sync {
		l.arm() // it is not written, or not on stable storage
	}
	return e, nil
}

// arm sees to it that what waits is written. mu is held.
func (l *Log) arm() {
	if l.armed {
		return
	}
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(lag, l.lapse)
		return
	}
	l.timer.Reset(lag)
}

// lapse writes what has waited for long enough.
func (l *Log) lapse() {
	l.mu.Lock()
	l.armed = false
	if l.failed != nil {
		l.mu.Unlock()
		return
	}
	waited := l.pending() > 0
	err := l.flush()
	if err == nil {
		if waited { // otherwise nothing was tried
			l.short = nil
		}
		l.waiting = nil // an idle log holds little
	} else if l.failed == nil {
		l.short = err
		l.arm()
	}
	written := l.written.seq
	l.mu.Unlock()
	if err != nil && l.late != nil {
		l.late(err)
	}
	if l.durability == Sync {
		// What goes wrong poisons the log: whoever appends next is told.
		_ = l.commit(written)
	}
}

// Flush writes to the segment what [Log.Later] has left and the journal holds.
func (l *Log) Flush() error {
	if l == nil {
		return ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	if err := l.flush(); err != nil {
		return fmt.Errorf("write entries: %w", l.refuse(err))
	}
	return nil
}

// rest writes what still waits when the log is closed, and stops the clock. mu is
// held.
func (l *Log) rest() error {
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.failed != nil {
		return nil
	}
	if err := l.flush(); err != nil {
		lost := fmt.Errorf("close log: %d bytes of entries were not written, %d are still in the journal", len(l.waiting), len(l.journal.lines()))
		return errors.Join(err, lost)
	}
	return nil
}
