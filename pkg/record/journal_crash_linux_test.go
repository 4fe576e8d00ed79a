package record

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const crashDir = "HEADGATE_TEST_RECORD_CRASH"

func TestReadersOfAJournalThatFillsAndEmptiesSeeAllThatWasAppended(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentBytes: 16 << 10})
	mustAppend(t, l, 1, 1)
	const entries = 30_000
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 2; n <= entries; n++ {
			if _, err := l.Append("event", event{N: n}); err != nil {
				t.Error(err)
			}
			if n%7 == 0 {
				if err := l.Flush(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 2 {
		wg.Go(func() {
			for seq := uint64(0); seq < entries && !t.Failed(); {
				seq, _ = l.Head()
				if read := mustReadOn(t, dir); read < seq {
					t.Errorf("%d was read, %d were appended", read, seq)
				}
			}
		})
	}
	wg.Wait()
	if r, err := Verify(dir); err != nil || r.Entries != entries || r.TornBytes != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// mustReadOn returns the last entry of a log to which somebody appends.
func mustReadOn(t *testing.T, dir string) uint64 {
	t.Helper()
	segments, err := Segments(dir)
	if err != nil {
		t.Error(err)
	}
	var read uint64
	for e, err := range ReadFrom(dir, max(segments, 2)-1) {
		// The last segment may have no header yet.
		if err != nil && (!errors.Is(err, ErrTorn) || strings.Contains(err.Error(), journalName)) {
			t.Error(err)
		}
		read = max(read, e.Seq)
	}
	return read
}

// TestCrashHelper is the process that the next test kills. It appends for ever and
// prints the number of each entry that Append returned.
func TestCrashHelper(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("runs only as a helper of another test")
	}
	l, _, err := Open(dir, Options{SegmentBytes: 300 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := l.Append("event", event{Text: strings.Repeat("x", rand.IntN(3000))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Println(crashDir, e.Seq); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKilledProcessLosesNothingThatAppendReturned(t *testing.T) {
	dir := t.TempDir()
	for round := range 8 {
		last := killHelper(t, dir, time.Duration(rand.IntN(60_000))*time.Microsecond)
		r, err := Verify(dir)
		if err != nil || r.Seq < last {
			t.Fatalf("round %d: %d were appended: %+v, %v", round, last, r, err)
		}
		l, recovery, err := Open(dir, Options{})
		if err != nil || recovery.JournalBytes != 0 {
			t.Fatalf("round %d: %+v, %v", round, recovery, err)
		}
		mustClose(t, l)
		after, err := Verify(dir)
		// A segment that had no header yet has one now.
		if err != nil || after.Seq != r.Seq || after.Head != r.Head && after.Segments == r.Segments {
			t.Fatalf("round %d: before %+v, after %+v, %v", round, r, after, err)
		}
	}
	var next uint64 = 1
	for e, err := range Read(dir) {
		if err != nil || e.Seq != next {
			t.Fatalf("%d instead of %d, %v", e.Seq, next, err)
		}
		next++
	}
}

// killHelper lets the helper append for a while, kills it and returns the number of
// the last entry that it told of.
func killHelper(t *testing.T, dir string, after time.Duration) (last uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashHelper$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	for in.Scan() {
		var seq uint64
		if n, err := fmt.Sscanf(in.Text(), crashDir+" %d", &seq); n != 1 || err != nil {
			continue
		}
		if last == 0 {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		last = seq
	}
	_ = cmd.Wait() // it was killed: that is its error
	if last == 0 {
		t.Fatal("the helper appended nothing")
	}
	return last
}

// FuzzJournal feeds hostile journals to readers and to Open, behind a segment of
// two entries.
func FuzzJournal(f *testing.F) {
	source := f.TempDir()
	l := mustOpen(f, source, Options{Now: clock()})
	mustAppend(f, l, 1, 5)
	mustClose(f, l)
	lines := bytes.SplitAfter(mustRead(f, filepath.Join(source, "000001.log")), []byte("\n"))
	segment, rest := bytes.Join(lines[:3], nil), bytes.Join(lines[3:], nil)
	state := func(n int, lines []byte) []byte {
		b := make([]byte, journalHead, journalHead+len(lines))
		binary.LittleEndian.PutUint64(b, stateWord(1, n))
		return append(b, lines...)
	}
	f.Add(state(len(rest), rest))
	f.Add(state(len(rest)-3, rest))
	f.Add(state(1<<31, rest))
	f.Add(state(len(segment), segment))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		mustWrite(t, filepath.Join(dir, "000001.log"), segment)
		mustWrite(t, filepath.Join(dir, journalName), b)
		report, err := Verify(dir)
		if err != nil || report.Entries < 2 {
			t.Fatalf("%+v, %v", report, err)
		}
		l, recovery, err := Open(dir, Options{})
		if err != nil || recovery.TornBytes != 0 {
			t.Fatalf("%+v, %v", recovery, err)
		}
		mustAppend(t, l, 1, 1)
		mustClose(t, l)
		after, err := Verify(dir)
		if err != nil || after.Entries != report.Entries+1 || after.TornBytes != 0 {
			t.Fatalf("before %+v, after %+v, %v", report, after, err)
		}
		if got := mustRead(t, filepath.Join(dir, "000001.log")); !bytes.HasPrefix(got, segment) {
			t.Fatal("lines that were there are gone")
		}
	})
}

func BenchmarkJournal(b *testing.B) {
	type decision struct{ Session, Op, Stage, Verdict, Rule, Text string }
	var body any = decision{"0mfr2k3l1abcdefgh", "17", "exchange", "allow", "read-invoices", "SELECT id, total FROM invoices WHERE customer = $1"}
	for _, name := range []string{"journal", "write"} {
		b.Run(name, func(b *testing.B) {
			l := mustOpen(b, b.TempDir(), Options{})
			if name == "write" {
				l.createJournal = nil
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Append("decision", body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
