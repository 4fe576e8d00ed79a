package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// mustJournal opens a log with a journal whose lines stay there: the clock that
// moves them is as good as stopped.
func mustJournal(tb testing.TB, dir string, opts Options) *Log {
	tb.Helper()
	l := mustOpen(tb, dir, opts)
	l.armed = true
	mustAppend(tb, l, 1, 1)
	if l.journal == nil {
		tb.Fatal("the log has no journal")
	}
	return l
}

// mustDie leaves a log as the death of its process does, and copies what its files
// hold then to another directory, which is returned.
func mustDie(tb testing.TB, l *Log, dir string) string {
	tb.Helper()
	copied := mustCopy(tb, dir)
	mustClose(tb, l)
	return copied
}

func mustCopy(tb testing.TB, dir string) string {
	tb.Helper()
	copied := tb.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		tb.Fatal(err)
	}
	return copied
}

func setJournal(tb testing.TB, dir string, round uint32, lines []byte) {
	tb.Helper()
	b := make([]byte, journalBytes)
	binary.LittleEndian.PutUint64(b, stateWord(round, len(lines)))
	copy(b[journalHead:], lines)
	mustWrite(tb, filepath.Join(dir, journalName), b)
}

func mustRecover(tb testing.TB, dir string, want Recovery) *Log {
	tb.Helper()
	l, got, err := Open(dir, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("recovery: -want +got\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(dir, journalName)); !errors.Is(err, fs.ErrNotExist) {
		tb.Errorf("the journal that was recovered is still there: %v", err)
	}
	return l
}

func mustHold(tb testing.TB, dir string, want []int) {
	tb.Helper()
	if diff := cmp.Diff(want, numbers(tb, dir)); diff != "" {
		tb.Errorf("-want +got\n%s", diff)
	}
}

func TestWhatIsInTheJournalIsReadAtOnce(t *testing.T) {
	dir := t.TempDir()
	l := mustJournal(t, dir, Options{})
	mustAppend(t, l, 2, 5)
	if _, err := l.Later("event", event{N: 6}); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(mustRead(t, filepath.Join(dir, "000001.log")), []byte("\n")); n != 1 {
		t.Errorf("%d lines are in the segment", n)
	}
	mustHold(t, dir, count(6))
	seq, hash := l.Head()
	if r, err := Verify(dir); err != nil || r.Seq != seq || r.Head != hash || seq != 6 || r.TornBytes != 0 {
		t.Errorf("%+v, %v; the head is %d", r, err, seq)
	}
	info, err := os.Stat(filepath.Join(dir, journalName))
	if err != nil || info.Mode() != 0o600 || info.Size() != journalBytes {
		t.Errorf("%v, %v", info, err)
	}
	mustClose(t, l)
	mustHold(t, dir, count(6))
	if n := bytes.Count(mustRead(t, filepath.Join(dir, "000001.log")), []byte("\n")); n != 7 {
		t.Errorf("%d lines are in the segment", n)
	}
	if _, err := os.Stat(filepath.Join(dir, journalName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a closed log has a journal: %v", err)
	}
}

func TestMarkChangesWithEveryEntry(t *testing.T) {
	dir := t.TempDir()
	l := mustJournal(t, dir, Options{})
	seen := map[Mark]int{}
	for n := 1; n < 200; n++ {
		m, err := Look(dir)
		if err != nil {
			t.Fatal(err)
		}
		if before := seen[m]; before > 0 {
			t.Errorf("%d entries have the mark of %d", n, before)
		}
		seen[m] = n
		if again, err := Look(dir); err != nil || again != m {
			t.Errorf("nothing was appended: %v, %v, %v", m, again, err)
		}
		if n%3 == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		mustAppend(t, l, n+1, n+1)
	}
	if _, err := Look(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestJournalIsMovedByItself(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	mustAppend(t, l, 1, 2)
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
		if strings.Count(inFile(t, dir), "\n") == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was moved")
		}
	}
	mustHold(t, dir, count(2))
}

func TestJournalIsMovedWhenItIsFullAndBeforeALineThatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	l := mustJournal(t, dir, Options{SegmentBytes: 3 * journalBytes})
	n := 1
	for _, size := range []int{journalBytes / 3, journalBytes / 3, journalBytes / 3, journalBytes, 10, 2 * journalBytes, 10, journalBytes / 2} {
		n++
		if _, err := l.Append("event", event{N: n, Text: strings.Repeat("x", size)}); err != nil {
			t.Fatal(err)
		}
		mustHold(t, dir, count(n))
	}
	mustHaveSegments(t, dir, 2)
	mustClose(t, mustRecover(t, mustDie(t, l, dir), Recovery{}))
	mustHold(t, dir, count(n))
}

func TestOpenMovesWhatADeadProcessLeft(t *testing.T) {
	for _, segment := range []int64{500, DefaultSegmentBytes} {
		dir := t.TempDir()
		l := mustJournal(t, dir, Options{SegmentBytes: segment})
		mustAppend(t, l, 2, 20)
		left := mustDie(t, l, dir)
		for _, durability := range []Durability{Sync, Write} {
			again := mustCopy(t, left)
			l, recovery, err := Open(again, Options{Durability: durability})
			if err != nil || recovery != (Recovery{}) {
				t.Fatalf("%+v, %v", recovery, err)
			}
			mustAppend(t, l, 21, 22)
			mustClose(t, l)
			mustHold(t, again, count(22))
		}
	}
}

// TestDeathWithinAMoveLosesAndRepeatsNothing lets a process die while it
// moves lines: the segment has any number of their bytes, the journal still all.
func TestDeathWithinAMoveLosesAndRepeatsNothing(t *testing.T) {
	dir := t.TempDir()
	l := mustJournal(t, dir, Options{})
	mustAppend(t, l, 2, 4)
	left := mustDie(t, l, dir)
	before := len(mustRead(t, filepath.Join(left, "000001.log")))
	after := mustRead(t, filepath.Join(dir, "000001.log"))
	for at := before; at <= len(after); at++ {
		if n := at - before; n%10 > 1 && after[at-1] != '\n' && after[min(at, len(after)-1)] != '\n' {
			continue // each begin of a line, and a sample of the rest
		}
		mustWrite(t, filepath.Join(left, "000001.log"), after[:at])
		mustHold(t, left, count(4))
		if r, err := Verify(left); err != nil || r.Entries != 4 || r.TornBytes != 0 {
			t.Fatalf("%d bytes: %+v, %v", at, r, err)
		}
		again := mustCopy(t, left)
		l := mustRecover(t, again, Recovery{})
		if got := mustRead(t, filepath.Join(again, "000001.log")); !bytes.Equal(got, after) {
			t.Fatalf("%d bytes: the segment holds\n%s", at, got)
		}
		mustAppend(t, l, 5, 5)
		mustClose(t, l)
		mustHold(t, again, count(5))
	}
}

func TestWhatDoesNotGoOnInAJournalIsCutAndReported(t *testing.T) {
	source := t.TempDir()
	l := mustJournal(t, source, Options{})
	mustAppend(t, l, 2, 6)
	left := mustDie(t, l, source)
	lines := bytes.SplitAfter(mustRead(t, filepath.Join(source, "000001.log")), []byte("\n"))
	lines = lines[1 : len(lines)-1] // entries 1 to 6
	join := func(from, to int) []byte { return bytes.Join(lines[from-1:to], nil) }
	foreign := t.TempDir()
	l = mustJournal(t, foreign, Options{})
	mustAppend(t, l, 2, 6)
	other, err := readJournal(l.root)
	if err != nil || len(other) == 0 {
		t.Fatal(err)
	}
	flipped := join(1, 6)
	flipped[len(join(1, 2))+80] ^= 1
	for name, c := range map[string]struct {
		segment, journal []byte
		good             int
		cut              int
	}{
		"torn":                  {nil, join(1, 6)[:len(join(1, 3))+70], 3, 70},
		"torn in the first":     {nil, join(1, 1)[:70], 0, 70},
		"flipped":               {nil, flipped, 2, len(join(3, 6))},
		"with NULs":             {nil, append(join(1, 2), make([]byte, 99)...), 2, 99},
		"of another log":        {nil, other, 0, len(other)},
		"of another log, older": {join(1, 6), other, 6, len(other)},
		"with a gap":            {join(1, 2), join(4, 6), 2, len(join(4, 6))},
		"from before":           {join(1, 5), join(1, 3), 5, len(join(1, 3))},
		"moved":                 {join(1, 6), join(3, 6), 6, 0},
		"moved in part":         {join(1, 4), join(3, 6), 6, 0},
		"twice the same":        {nil, append(join(1, 2), join(2, 3)...), 2, len(join(2, 3))},
		"empty":                 {join(1, 2), nil, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			header := mustRead(t, filepath.Join(left, "000001.log"))
			mustWrite(t, filepath.Join(dir, "000001.log"), append(bytes.Clone(header), c.segment...))
			setJournal(t, dir, 7, c.journal)
			r, err := Verify(dir)
			if err != nil || r.Entries != uint64(c.good) {
				t.Errorf("verify: %+v, %v", r, err)
			}
			// A reader cannot tell what is older from what was moved meanwhile.
			if older := strings.HasSuffix(name, "older") || name == "from before"; !older && r.TornBytes != int64(c.cut) {
				t.Errorf("%d bytes are torn, want %d", r.TornBytes, c.cut)
			}
			l := mustRecover(t, dir, Recovery{JournalBytes: int64(c.cut)})
			mustAppend(t, l, c.good+1, c.good+1)
			mustClose(t, l)
			mustHold(t, dir, count(c.good+1))
		})
	}
}

func TestTamperedSegmentIsFoundBesideAJournal(t *testing.T) {
	dir := t.TempDir()
	l := mustJournal(t, dir, Options{})
	mustAppend(t, l, 2, 3)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 4, 5)
	left := mustDie(t, l, dir)
	path := filepath.Join(left, "000001.log")
	good := mustRead(t, path)
	for _, bad := range [][]byte{bytes.Replace(good, []byte(`"n":3`), []byte(`"n":9`), 1), append(bytes.Clone(good), "rm -rf"...)} {
		mustWrite(t, path, bad)
		if _, err := Verify(left); !errors.Is(err, ErrBroken) {
			t.Errorf("verify: %v", err)
		}
		if _, _, err := Open(left, Options{}); !errors.Is(err, ErrBroken) {
			t.Errorf("open: %v", err)
		}
	}
	// Without its last line the segment is one that the journal does not go on from.
	mustWrite(t, path, good[:bytes.LastIndexByte(good[:len(good)-1], '\n')+1])
	if r, err := Verify(left); err != nil || r.Entries != 2 || r.TornBytes == 0 {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

func TestJournalThatIsNoFileIsBroken(t *testing.T) {
	dir := t.TempDir()
	mustClose(t, mustOpen(t, dir, Options{}))
	if err := os.Symlink("000001.log", filepath.Join(dir, journalName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrBroken) {
		t.Errorf("verify: %v", err)
	}
	if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrBroken) {
		t.Errorf("open: %v", err)
	}
}

func TestLogWithoutAJournalWritesAtOnce(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	l.createJournal = func() (*journal, error) { return nil, syscall.EOPNOTSUPP }
	mustAppend(t, l, 1, 3)
	if n := strings.Count(inFile(t, dir), "\n"); n != 4 || l.Err() != nil {
		t.Errorf("%d lines, %v", n, l.Err())
	}
	for _, durability := range []Durability{Sync, Deferred} {
		l := mustOpen(t, t.TempDir(), Options{Durability: durability})
		mustAppend(t, l, 1, 1)
		if l.journal != nil {
			t.Errorf("durability %d has a journal", durability)
		}
	}
}

func TestShortageWhileTheJournalIsMovedKeepsEntriesAndRefusesWhatComes(t *testing.T) {
	for _, shortage := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		dir := t.TempDir()
		l := mustJournal(t, dir, Options{})
		mustAppend(t, l, 2, 3)
		f := &faulty{file: l.file, short: 20, write: shortage}
		l.file = f
		l.lapse()
		if err := l.Err(); !errors.Is(err, shortage) || errors.Is(err, ErrFailed) {
			t.Errorf("the log says %v", err)
		}
		for range 3 {
			mustRefuse(t, l, -1, shortage)
			mustHold(t, dir, count(3))
		}
		if err := l.Flush(); !errors.Is(err, shortage) {
			t.Errorf("flush: %v", err)
		}
		// What tells of the past is taken as long as the journal has room.
		if _, err := l.Later("event", event{N: 4}); err != nil {
			t.Errorf("later: %v", err)
		}
		mustClose(t, mustRecover(t, mustCopy(t, dir), Recovery{}))
		f.short = -1
		mustAppend(t, l, 5, 6)
		if err := l.Err(); err != nil {
			t.Errorf("a log that works says %v", err)
		}
		mustClose(t, l)
		mustHold(t, dir, count(6))
	}
}

func TestShortageEndsTheFillingOfAJournal(t *testing.T) {
	dir := t.TempDir()
	l := mustJournal(t, dir, Options{})
	f := &faulty{file: l.file, short: 0}
	l.file = f
	n, err := 1, error(nil)
	for ; err == nil && n < journalBytes; n++ {
		_, err = l.Later("event", event{N: n + 1})
	}
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
		t.Fatalf("after %d entries: %v", n, err)
	}
	mustRefuse(t, l, -1, syscall.ENOSPC)
	mustHold(t, dir, count(n-1))
	// The journal outlives a log that cannot get rid of it.
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("close: %v", err)
	}
	mustHold(t, dir, count(n-1))
	mustClose(t, mustRecover(t, dir, Recovery{}))
	mustHold(t, dir, count(n-1))
}

func TestFailureWhileTheJournalIsMovedPoisonsTheLogAndLosesNothing(t *testing.T) {
	for name, f := range map[string]*faulty{
		"write":    {short: 20, write: syscall.EIO},
		"truncate": {short: 300, truncate: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustJournal(t, dir, Options{})
			mustAppend(t, l, 2, 3)
			f.file = l.file
			l.file = f
			if err := l.Flush(); !errors.Is(err, ErrFailed) {
				t.Errorf("flush: %v", err)
			}
			mustStayFailed(t, l, dir, count(3))
		})
	}
}

func TestFaultInTheJournalPoisonsTheLog(t *testing.T) {
	for _, size := range []int64{0, 4096} {
		dir := t.TempDir()
		l := mustJournal(t, dir, Options{})
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		// Behind its end, a store is answered with SIGBUS, as it is for want of a block.
		if err := os.Truncate(filepath.Join(dir, journalName), size); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append("event", event{N: 2, Text: strings.Repeat("x", 5000)}); !errors.Is(err, ErrFailed) {
			t.Errorf("append: %v", err)
		}
		mustStayFailed(t, l, dir, count(1))
	}
}
