package audit

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/record"
)

// DefaultMinFree is how many bytes the disk must have free for what agents
// cause, unless [Options] say otherwise or the disk is small.
const DefaultMinFree = 64 << 20

// ErrLowDisk means that the disk of the state directory has less room than
// [Options].MinFree. Once there is more again, within a second events are
// taken again.
var ErrLowDisk = errors.New("disk is nearly full")

const (
	// smallDisk: of a small disk, the default floor is one part in so many.
	smallDisk = 20
	// The disk is looked at once in so many bytes, or after so much time.
	floorBytes    = 1 << 20
	floorInterval = time.Second
)

// floor keeps the rest of the disk for what the daemon itself has to write
// down, however much agents do. The audit log and the recordings share one. Its
// methods may be called concurrently.
type floor struct {
	// disk returns what is free and what there is in all, in bytes; a total of
	// zero means that nobody knows.
	disk func() (free, total uint64, err error)
	// min is Options.MinFree.
	min int64

	mu     sync.Mutex
	looked time.Time
	left   int64 // bytes that may be written before the next look
	err    error // what the last look found
	ahead  int64 // bytes of events that the disk does not show as taken yet
}

// admit is [record.Options].Admit of the audit log.
func (f *floor) admit(e record.Entry, size, ahead int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead = ahead
	return f.take(e, size)
}

// admitFrame is [record.Options].Admit of recordings.
func (f *floor) admitFrame(e record.Entry, size, _ int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.take(e, size)
}

// take counts what is written, and refuses what may not be. mu is held.
func (f *floor) take(e record.Entry, size int64) error {
	f.left -= size
	if lastWord(e.Kind) {
		return nil
	}
	return f.check(e.Time, size)
}

// now returns why an agent's event would be refused at that time, if it would.
func (f *floor) now(at time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.check(at, 0)
}

// check looks at the disk if it is time to. mu is held.
func (f *floor) check(at time.Time, size int64) error {
	if f.min < 0 {
		return nil
	}
	// A clock that was set back must not put off the next look.
	since := at.Sub(f.looked)
	recent := since >= 0 && since < floorInterval
	if !recent || f.left < 0 {
		f.looked = at
		f.err = f.look(size)
	}
	return f.err
}

func (f *floor) look(size int64) error {
	f.left = floorBytes
	free, total, err := f.disk()
	if err != nil {
		return fmt.Errorf("look how much of the disk is free: %w", err)
	}
	if total == 0 {
		return nil
	}
	least := uint64(f.min)
	if f.min == 0 {
		least = min(DefaultMinFree, total/smallDisk)
	}
	ahead := uint64(f.ahead)
	if free < least+ahead+uint64(size) {
		return fmt.Errorf("%w: %d bytes are free, the last %d are kept", ErrLowDisk, free, least)
	}
	// Others write too: the closer, the more often.
	f.left = int64(min((free-least-ahead)/2, floorBytes))
	return nil
}

// lastWord reports whether events of this kind may use what is kept free. None
// of them can be had by asking for it: each ends or answers something that was
// admitted before, or comes from the operator. Enrolments are none of them;
// what is not known is none either.
func lastWord(kind string) bool {
	switch kind {
	case KindResult, KindSessionEnd, KindPolicy, KindDaemonStart, KindDaemonStop, KindRecovered, KindLogOpen:
		return true
	}
	return false
}
