package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/process"
)

const (
	// olderRoom bounds the trees that wait; the rescan finds those beyond it.
	olderRoom = 1024
	// olderNamed bounds the connections of a process that the log names.
	olderNamed = 8
)

// older ends the connections that are older than the enrolment of their owners,
// in trees that the kernel began by itself. The reader of events only says which:
// it must not wait for lists of sockets. The zero value is ready.
type older struct {
	once  sync.Once
	queue chan process.ID
	full  atomic.Uint64 // trees that there was no room for

	mu   sync.Mutex
	done map[process.ID]bool // roots of trees that are finished with
}

// olderKernel is what it needs of the kernel side.
type olderKernel interface {
	EndOlder(ctx context.Context, roots ...process.ID) ([]kernel.Ended, error)
	Enrolled() ([]kernel.Enrolment, error)
}

func (o *older) waiting() chan process.ID {
	o.once.Do(func() { o.queue = make(chan process.ID, olderRoom) })
	return o.queue
}

// add never waits.
func (o *older) add(root process.ID) {
	select {
	case o.waiting() <- root:
	default:
		o.full.Add(1)
	}
}

// run takes the trees in turn until ctx ends.
func (o *older) run(ctx context.Context, k olderKernel, log zerolog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case root := <-o.waiting():
			o.end(ctx, k, log, o.others(root))
		}
	}
}

// others returns the root with those that wait behind it: one list of sockets
// does for all.
func (o *older) others(root process.ID) []process.ID {
	roots := []process.ID{root}
	for {
		select {
		case next := <-o.waiting():
			roots = append(roots, next)
		default:
			return roots
		}
	}
}

func (o *older) end(ctx context.Context, k olderKernel, log zerolog.Logger, roots []process.ID) {
	ended, err := k.EndOlder(ctx, roots...)
	report(log, ended)
	switch {
	case errors.Is(err, kernel.ErrObserving) || errors.Is(err, context.Canceled):
		return // the rescan asks again
	case err != nil:
		log.Error().Err(err).Int("trees", len(roots)).Msg("connections from before the enrolment may go on")
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done == nil {
		o.done = make(map[process.ID]bool)
	}
	for _, root := range roots {
		o.done[root] = true
	}
}

func report(log zerolog.Logger, ended []kernel.Ended) {
	counts := make(map[process.ID]int)
	names := make(map[process.ID][]string)
	for _, e := range ended {
		counts[e.Process]++
		if len(names[e.Process]) < olderNamed {
			names[e.Process] = append(names[e.Process], fmt.Sprintf("%v %v", e.Transport, e.Remote))
		}
	}
	for id, n := range counts {
		log.Info().Uint32("pid", id.PID).Int("connections", n).Strs("to", names[id]).Msg("connections from before the enrolment ended")
	}
}

// rest adds the trees that are not finished with: what was enrolled before the
// daemon ran, or while refusals were only observed, or when events were lost or
// too many at once.
func (o *older) rest(k olderKernel, log zerolog.Logger) {
	if n := o.full.Swap(0); n > 0 {
		log.Warn().Uint64("trees", n).Msg("more trees began at once than there is room for; their older connections end late")
	}
	enrolled, err := k.Enrolled()
	if err != nil {
		log.Error().Err(err).Msg("connections from before the enrolment not looked for")
		return
	}
	roots := make(map[process.ID]bool)
	for _, e := range enrolled {
		roots[e.Root] = true
	}
	o.mu.Lock()
	for root := range o.done {
		if !roots[root] {
			delete(o.done, root) // all of the tree is gone
		}
	}
	for root := range o.done {
		delete(roots, root)
	}
	o.mu.Unlock()
	for root := range roots {
		o.add(root)
	}
}
