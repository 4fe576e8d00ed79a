package record

import (
	"errors"
	"fmt"
	"runtime/debug"
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

// add adds a line. After an error the line is not in the
// journal, of which it is uncertain then what it holds.
func (j *journal) add(line []byte) (err error) {
	defer caught(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	used := j.used + copy(j.mem[journalHead+j.used:], line)
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

// keep puts the entry that was prepared into the journal and moves the head to it,
// unless there is none, the line is larger than it, or others wait that come
// first. mu is held.
func (l *Log) keep(e *Entry, d *draft) (bool, error) {
	if l.createJournal != nil {
		// What keeps it from being made is no reason to refuse anything.
		if j, err := l.createJournal(); err == nil {
			l.journal = j
		}
		l.createJournal = nil
	}
	size := d.lineBytes()
	if l.journal == nil || len(l.waiting) > 0 || size > journalBytes-journalHead {
		return false, nil
	}
	if !l.journal.fits(size) {
		if err := l.move(); err != nil {
			return false, err
		}
	}
	e.Hash = d.link(l.hash)
	if err := l.journal.add(d.line()); err != nil {
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
