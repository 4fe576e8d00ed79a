package audit

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path/filepath"
	"time"

	"github.com/headgate/headgate/pkg/record"
)

// followInterval is how often a log is looked at that is followed.
const followInterval = 500 * time.Millisecond

// FollowFlows is [Flows], and goes on with what is written from then on until ctx
// ends, which is no error. The log is read again from the beginning of its last
// segment whenever it has grown; so that this takes a twentieth of one processor
// at most, flows of a large log that grows all the time come some seconds late.
func FollowFlows(ctx context.Context, stateDir string, s FlowFilter) iter.Seq2[Flow, error] {
	return followFlows(ctx, stateDir, s, pause)
}

// pause waits and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wait.C:
		return true
	}
}

func followFlows(ctx context.Context, stateDir string, s FlowFilter, pause func(context.Context, time.Duration) bool) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		f := follower{dir: filepath.Join(stateDir, auditDir), segment: 1}
		f.filter, f.open = s, map[string]*openFlow{}
		for {
			began := time.Now()
			more, err := f.look(ctx, yield)
			if err != nil && ctx.Err() == nil {
				yield(Flow{}, err)
			}
			if !more || err != nil || !pause(ctx, max(followInterval, 20*time.Since(began))) {
				return
			}
		}
	}
}

// follower reads what a log has got since it looked last.
type follower struct {
	flowReader
	dir     string
	segment uint64 // to go on from
	looked  bool
	mark    record.Mark // of the log at the last look
}

func (f *follower) look(ctx context.Context, yield func(Flow, error) bool) (bool, error) {
	mark, err := record.Look(f.dir)
	if err != nil || f.looked && mark == f.mark {
		return true, err
	}
	last, err := record.Segments(f.dir)
	if err != nil {
		return false, err
	}
	more, err := f.read(f.dir, f.segment, func(flow Flow, err error) bool { return ctx.Err() == nil && yield(flow, err) })
	if errors.Is(err, fs.ErrNotExist) && f.segment > 1 {
		// A writer that lacked room for a segment took it back.
		f.segment--
		return true, nil
	}
	if err != nil {
		return false, err
	}
	f.segment, f.looked, f.mark = max(last, 1), true, mark
	return more, nil
}
