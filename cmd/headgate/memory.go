package main

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate/headgate/pkg/cgroup"
)

// boundMemory tells the runtime how much memory there is, and says how many
// sessions the descriptors are enough for. The environment's GOMEMLIMIT counts more
// than what is found. How often garbage is collected short of the limit is left to
// the runtime, and to GOGC: less often, more stays between what sessions hold on to.
func (d *daemon) boundMemory(context.Context) error {
	limit, err := memoryLimit(os.ReadFile)
	if err != nil {
		d.log.Warn().Err(err).Msg("limit of memory not found; none is assumed")
	}
	if os.Getenv("GOMEMLIMIT") == "" && limit < math.MaxInt64 {
		// The rest is for what the runtime does not count: what the kernel keeps for
		// the daemon, sockets' buffers above all, and the parser's code.
		debug.SetMemoryLimit(limit / 5 * 4)
		d.log.Info().Int64("bytes", limit).Msg("memory is limited")
	}
	d.checkDescriptors()
	return nil
}

// memoryLimit returns what the cgroups that the process is in let it have, in
// bytes; math.MaxInt64 where none has a limit.
func memoryLimit(read readFile) (int64, error) {
	mount, err := cgroup.Mount()
	if err != nil {
		return math.MaxInt64, err
	}
	path, err := cgroup.Of(os.Getpid())
	if err != nil {
		return math.MaxInt64, err
	}
	return leastOf(mount, path, read)
}

// leastOf returns the least limit of a cgroup and those above it. The root of the
// whole tree has none; that of a container has.
func leastOf(mount, path string, read readFile) (int64, error) {
	least := int64(math.MaxInt64)
	var errs []error
	for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
		for _, name := range []string{"memory.max", "memory.high"} {
			text, err := read(filepath.Join(mount, path, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // the controller is not switched on there
			}
			value := strings.TrimSpace(string(text))
			if err == nil && value != "max" {
				var n int64
				if n, err = strconv.ParseInt(value, 10, 64); err == nil {
					least = min(least, n)
				}
			}
			errs = append(errs, err)
		}
		if path == "/" {
			return least, errors.Join(errs...)
		}
	}
}

const (
	// sessionFiles is how many descriptors a session may have: two sockets and its
	// recording.
	sessionFiles = 3
	// ownFiles is how many the daemon keeps for everything else.
	ownFiles = 200
)

// checkDescriptors says so where there are fewer descriptors than the sessions of
// the configuration may need. The runtime has raised the limit to the hard one.
func (d *daemon) checkDescriptors() {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		d.log.Warn().Err(err).Msg("limit of descriptors not found")
		return
	}
	if enough := sessionsFor(limit.Cur); enough < uint64(d.cfg.Limits.Sessions) {
		d.log.Warn().Uint64("descriptors", limit.Cur).Uint64("sessions", enough).Uint32("limits.sessions", d.cfg.Limits.Sessions).
			Str("remedy", "give the daemon a higher limit (LimitNOFILE= in its unit), or lower limits.sessions").
			Msg("descriptors may run out before limits.sessions is reached; what comes then waits in the queue until others end")
	}
}

// sessionsFor returns for how many sessions descriptors are enough.
func sessionsFor(descriptors uint64) uint64 {
	return (max(descriptors, ownFiles) - ownFiles) / sessionFiles
}

const (
	// quietAfter is how long no connection must have come for memory to be given
	// back.
	quietAfter = time.Second
	// worthwhile is how much must have been allocated since it was done last, in
	// bytes, and at least half of what is in use.
	worthwhile = 8 << 20
)

// tidy gives memory back to the machine when connections have come and no more do:
// what it took to open them would stay for minutes, and so would the stacks that
// it has grown. Nothing wakes up while none come. It is safe for concurrent use.
type tidy struct {
	timer    *time.Timer
	armed    atomic.Bool
	arrived  atomic.Uint64
	giveBack func()

	mu   sync.Mutex // held while memory is given back
	seen uint64     // of arrived, when the timer fired last
	done uint64     // bytes that had been allocated when it was done last
}

// newTidy returns one that is at rest.
func newTidy(giveBack func()) *tidy {
	t := &tidy{giveBack: giveBack}
	t.timer = time.AfterFunc(math.MaxInt64, t.look)
	return t
}

// stir says that a connection has come.
func (t *tidy) stir() {
	t.arrived.Add(1)
	if !t.armed.Load() && t.armed.CompareAndSwap(false, true) {
		t.timer.Reset(quietAfter)
	}
}

// look is called by the timer.
func (t *tidy) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.arrived.Load(); n != t.seen {
		t.seen = n
		t.timer.Reset(quietAfter)
		return
	}
	t.armed.Store(false)
	if allocated, live := heap(); allocated-t.done >= max(worthwhile, live/2) {
		t.giveBack()
		t.done, _ = heap()
	}
}

// heap returns how many bytes were ever allocated, and how many were in use when
// garbage was collected last.
func heap() (allocated, live uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}

// collect collects garbage and gives what is free back. Twice, since pools let go
// of what nobody uses the second time, and stacks shrink by half each time.
func collect() {
	runtime.GC()
	debug.FreeOSMemory()
}
