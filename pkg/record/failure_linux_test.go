package record

import (
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// faulty is a segment file whose calls fail on demand.
type faulty struct {
	file
	short    int   // bytes that a write lets through before it fails; -1: all
	write    error // what it fails with; ENOSPC unless set
	sync     error
	truncate error
	keep     bool // Truncate does nothing and says that it did
	syncs    atomic.Int64
}

func (f *faulty) Write(b []byte) (int, error) {
	if f.short < 0 {
		return f.file.Write(b)
	}
	n, err := f.file.Write(b[:min(f.short, len(b))])
	if f.write != nil {
		return n, errors.Join(err, f.write)
	}
	return n, errors.Join(err, syscall.ENOSPC)
}

func (f *faulty) Sync() error {
	f.syncs.Add(1)
	if f.sync != nil {
		return f.sync
	}
	return f.file.Sync()
}

func (f *faulty) Truncate(size int64) error {
	if f.truncate != nil || f.keep {
		return f.truncate
	}
	return f.file.Truncate(size)
}

// mustStayFailed checks that a log has failed for good, and that what was
// appended before is all there after a new Open.
func mustStayFailed(t *testing.T, l *Log, dir string, want []int) {
	t.Helper()
	for range 3 {
		if _, err := l.Append("event", event{N: -1}); !errors.Is(err, ErrFailed) {
			t.Errorf("append to a failed log: %v", err)
		}
	}
	mustClose(t, l)
	mustClose(t, mustOpen(t, dir, Options{}))
	if diff := cmp.Diff(want, numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestFailedWriteThatIsNoShortageIsRolledBackAndPoisonsTheLog(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenPlain(t, dir, Options{})
	mustAppend(t, l, 1, 2)
	before := mustRead(t, filepath.Join(dir, "000001.log"))
	f := &faulty{file: l.file, short: 20, write: syscall.EIO}
	l.file = f
	if _, err := l.Append("event", event{N: 3}); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("append: %v", err)
	}
	if err := l.Err(); !errors.Is(err, ErrFailed) {
		t.Errorf("the log says %v", err)
	}
	if diff := cmp.Diff(string(before), string(mustRead(t, filepath.Join(dir, "000001.log")))); diff != "" {
		t.Errorf("not rolled back: -want +got\n%s", diff)
	}
	f.short = -1 // writes work again, but nobody may use them
	mustStayFailed(t, l, dir, count(2))
}

func TestWriteThatCannotBeRolledBackIsCutByTheNextOpen(t *testing.T) {
	for name, f := range map[string]*faulty{
		"truncate fails":          {short: 20, truncate: syscall.EIO},
		"truncate only claims to": {short: 20, keep: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpenPlain(t, dir, Options{})
			mustAppend(t, l, 1, 2)
			f.file = l.file
			l.file = f
			if _, err := l.Append("event", event{N: 3}); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("append: %v", err)
			}
			if report, err := Verify(dir); err != nil || report.TornBytes != 20 {
				t.Errorf("report %+v, %v", report, err)
			}
			f.short = -1
			mustStayFailed(t, l, dir, count(2))
		})
	}
}

func TestFailedSyncPoisonsTheLog(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Durability: Sync})
	mustAppend(t, l, 1, 2)
	l.file = &faulty{file: l.file, short: -1, sync: syscall.EIO}
	if _, err := l.Append("event", event{N: 3}); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("append: %v", err)
	}
	// The entry was written, and nobody was told that it was.
	mustStayFailed(t, l, dir, count(3))
}

func TestAppendsAtTheSameTimeShareSyncs(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Durability: Sync})
	f := &faulty{file: l.file, short: -1}
	l.file = f
	// Hold the sync until all have written: they must then need one only.
	const appenders = 16
	holdSync(l)
	var wg sync.WaitGroup
	for n := range appenders {
		wg.Go(func() {
			if _, err := l.Append("event", event{N: n}); err != nil {
				t.Error(err)
			}
		})
	}
	for seq := uint64(0); seq < appenders; seq, _ = l.Head() {
		runtime.Gosched()
	}
	releaseSync(l)
	wg.Wait()
	if n := f.syncs.Load(); n != 1 {
		t.Errorf("%d syncs for %d appends", n, appenders)
	}
}

// holdSync makes all committers wait, as if somebody else was syncing.
func holdSync(l *Log) {
	l.syncMu.Lock()
	l.syncing = true
	l.syncMu.Unlock()
}

func releaseSync(l *Log) {
	l.syncMu.Lock()
	l.syncing = false
	l.syncDone.Broadcast()
	l.syncMu.Unlock()
}

func TestSyncCoversTheSegmentsBefore(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Durability: Sync, SegmentBytes: 400})
	f := &faulty{file: l.file, short: -1}
	l.file = f
	holdSync(l)
	var wg sync.WaitGroup
	wg.Go(func() { mustAppendError(t, l, 1) })
	wg.Go(func() { mustAppendError(t, l, 2) })
	for seq := uint64(0); seq < 2; seq, _ = l.Head() {
		runtime.Gosched()
	}
	releaseSync(l)
	wg.Wait()
	if n := f.syncs.Load(); n != 1 {
		t.Errorf("the full segment was synced %d times", n)
	}
	if len(l.retired) != 0 {
		t.Errorf("%d segments still open", len(l.retired))
	}
}

func mustAppendError(t *testing.T, l *Log, n int) {
	if _, err := l.Append("event", event{N: n}); err != nil {
		t.Error(err)
	}
}
