package main

import (
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsThatOfTheTightestCgroup(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
		fails bool
	}{
		{"none", nil, math.MaxInt64, false},
		{"unlimited", map[string]string{"/cg/a/b/memory.max": "max\n", "/cg/a/b/memory.high": "max\n"}, math.MaxInt64, false},
		{"own", map[string]string{"/cg/a/b/memory.max": "1000\n"}, 1000, false},
		{"of one above", map[string]string{"/cg/a/b/memory.max": "1000\n", "/cg/a/memory.max": "500\n"}, 500, false},
		{"throttled before", map[string]string{"/cg/a/b/memory.max": "1000\n", "/cg/a/b/memory.high": "800\n"}, 800, false},
		{"unreadable", map[string]string{"/cg/a/b/memory.max": "many\n", "/cg/a/memory.max": "500\n"}, 500, true},
		{"of a container", map[string]string{"/cg/memory.max": "700\n", "/cg/a/memory.max": "900\n"}, 700, false},
	} {
		got, err := leastOf("/cg", "/a/b", func(path string) ([]byte, error) {
			text, ok := c.files[path]
			if !ok {
				return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
			}
			return []byte(text), nil
		})
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: got %d, %v", c.name, got, err)
		}
	}
}

func TestDescriptorsAreEnoughForFewerSessions(t *testing.T) {
	for descriptors, want := range map[uint64]uint64{0: 0, 100: 0, 1024: 274, 30_200: 10_000, 1 << 20: 349_458} {
		if got := sessionsFor(descriptors); got != want {
			t.Errorf("%d descriptors: %d sessions, want %d", descriptors, got, want)
		}
	}
}

// heapOf is memory that the compiler must not do without.
var heapOf []byte

func TestMemoryIsGivenBackOnceWhenNoMoreConnectionsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given atomic.Int64
		tidy := newTidy(func() { given.Add(1) })
		defer tidy.timer.Stop()
		take := func() {
			runtime.GC() // so that what is live is what is live now
			_, live := heap()
			heapOf = make([]byte, max(worthwhile, live)+1<<20)
			heapOf = nil
		}
		rest := func(d time.Duration) {
			<-time.After(d) // of the bubble
			synctest.Wait()
		}
		take()
		rest(time.Hour)
		if given.Load() != 0 {
			t.Fatal("memory was given back though nobody came")
		}
		for range 10 {
			tidy.stir()
			rest(quietAfter / 2)
			if given.Load() != 0 {
				t.Fatal("memory was given back while connections came")
			}
		}
		rest(2 * quietAfter)
		if given.Load() != 1 {
			t.Fatalf("memory was given back %d times", given.Load())
		}
		tidy.stir()
		rest(time.Hour)
		if given.Load() != 1 {
			t.Error("memory was given back for next to nothing")
		}
		take()
		tidy.stir()
		rest(time.Hour)
		if given.Load() != 2 {
			t.Error("memory was not given back the second time")
		}
	})
}
