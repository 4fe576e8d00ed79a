package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/record"
)

const crashState = "HEADGATE_TEST_CRASH_STATE"

// TestCrashHelper is the process that the next test kills. It appends for ever
// and prints the number of each session once it is written.
func TestCrashHelper(t *testing.T) {
	state := os.Getenv(crashState)
	if state == "" {
		t.Skip("runs only as a helper of another test")
	}
	l, err := OpenLog(state, Options{SegmentBytes: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		id := fmt.Sprintf("s%d", n)
		mustAppend(t, l, KindSessionOpen, opening(id))
		r, err := l.Record(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Append(Frame{Kind: FrameData, Text: strings.Repeat("x", 500)}); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, KindDecision, decision(id, "1", "SELECT 1", policy.Allow))
		if _, err := fmt.Println(crashState, n); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 {
			continue // stays open; its descriptors die with the process
		}
		anchor, err := r.Close()
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, KindSessionEnd, SessionEnd{Session: id, Reason: "closed", Recording: anchor})
	}
}

func TestKilledDaemonLosesNothingThatItAcknowledged(t *testing.T) {
	for round := range 4 {
		state := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashHelper$")
		cmd.Env = append(os.Environ(), crashState+"="+state)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := readUntil(t, out, 40+13*round)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		last = max(last, readUntil(t, out, -1))
		// It was killed: that is its error.
		_ = cmd.Wait()

		mustClose(t, mustOpen(t, state, Options{}))
		if r := mustVerify(t, state); !r.OK() || r.Open != 0 {
			t.Errorf("verify: %+v", r)
		}
		sessions, err := Sessions(state, Filter{})
		if err != nil {
			t.Fatal(err)
		}
		byID := map[string]SessionSummary{}
		for _, s := range sessions {
			byID[s.ID] = s
		}
		for n := range last + 1 {
			s := byID[fmt.Sprintf("s%d", n)]
			// The frame of a session may have waited to be written.
			if s.Decisions != 1 || s.End == nil || s.End.Recording != nil && s.End.Recording.Entries > 1 {
				t.Errorf("session %d of %d: %+v", n, last, s)
			}
		}
	}
}

// readUntil reads what the helper prints, up to the number n or to the end, and
// returns the last complete one.
func readUntil(tb testing.TB, r io.Reader, n int) int {
	tb.Helper()
	last := -1
	in := bufio.NewReaderSize(r, 16)
	for last != n || n < 0 {
		line, err := in.ReadString('\n')
		if err != nil {
			if n >= 0 {
				tb.Fatalf("the helper ended after %d: %v", last, err)
			}
			return last
		}
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), crashState+" "); ok {
			if v, err := strconv.Atoi(rest); err == nil {
				last = v
			}
		}
	}
	return last
}

func TestTenThousandEventsAreReadBack(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	began := time.Now()
	for n := range 2500 {
		mustRecordEvents(t, l, fmt.Sprintf("s%d", n))
	}
	written := time.Now()
	sessions, err := Sessions(state, Filter{})
	if err != nil || len(sessions) != 2500 {
		t.Fatalf("%d sessions, %v", len(sessions), err)
	}
	listed := time.Now()
	if r := mustVerify(t, state); !r.OK() {
		t.Errorf("verify: %+v", r)
	}
	t.Logf("10,000 events: written in %v, listed in %v, verified in %v", written.Sub(began), listed.Sub(written), time.Since(listed))
}

func mustRecordEvents(tb testing.TB, l *Log, id string) {
	tb.Helper()
	mustAppend(tb, l, KindSessionOpen, opening(id))
	mustAppend(tb, l, KindDecision, decision(id, "1", "SELECT 1", policy.Allow))
	mustAppend(tb, l, KindResult, Result{Session: id, Op: "1", Outcome: OutcomeOK})
	mustAppend(tb, l, KindSessionEnd, SessionEnd{Session: id, Reason: "closed"})
}

func TestDeviceIsNotTakenForASegment(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skipf("needs /dev/full: %v", err)
	}
	state := t.TempDir()
	if err := os.MkdirAll(filepath.Join(state, auditDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", filepath.Join(state, auditDir, "000001.log")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLog(state, Options{}); !errors.Is(err, record.ErrBroken) {
		t.Errorf("a device was taken for a segment: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	body := decision("0mfr2k3l1abcdefgh", "17", "SELECT id, total FROM invoices WHERE customer = $1", policy.Allow)
	b.Run("write", func(b *testing.B) {
		l := mustOpen(b, b.TempDir(), Options{})
		b.ReportAllocs()
		for b.Loop() {
			mustAppend(b, l, KindDecision, body)
		}
	})
	b.Run("sync-64", func(b *testing.B) {
		l := mustOpen(b, b.TempDir(), Options{Durability: record.Sync})
		b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := l.Append(KindDecision, body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	// What two decisions of one flight cost eight sessions, with an fsync waited for
	// after each or after both.
	for _, together := range []bool{false, true} {
		b.Run(map[bool]string{false: "sync-8-apart", true: "sync-8-together"}[together], func(b *testing.B) {
			l := mustOpen(b, b.TempDir(), Options{Durability: record.Sync})
			b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					first, err := l.Announce(KindDecision, body)
					if err == nil && !together {
						err = l.Settle(first)
					}
					second, err2 := l.Announce(KindDecision, body)
					if err = errors.Join(err, err2, l.Settle(second)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	b.Run("session-open", func(b *testing.B) {
		l := mustOpen(b, b.TempDir(), Options{})
		open := opening("a1")
		b.ReportAllocs()
		for b.Loop() {
			mustAppend(b, l, KindSessionOpen, open)
		}
	})
}
