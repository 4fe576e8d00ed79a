package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type event struct {
	N    int    `json:"n"`
	Text string `json:"text,omitempty"`
}

func clock() func() time.Time {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC)
	return func() time.Time {
		at = at.Add(time.Millisecond)
		return at
	}
}

func mustOpen(tb testing.TB, dir string, opts Options) *Log {
	tb.Helper()
	l, _, err := Open(dir, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, ErrClosed) {
			tb.Error(err)
		}
	})
	return l
}

// mustOpenPlain opens a log that does without a journal.
func mustOpenPlain(tb testing.TB, dir string, opts Options) *Log {
	tb.Helper()
	l := mustOpen(tb, dir, opts)
	l.createJournal = nil
	return l
}

func mustAppend(tb testing.TB, l *Log, from, to int) {
	tb.Helper()
	for n := from; n <= to; n++ {
		if _, err := l.Append("event", event{N: n}); err != nil {
			tb.Fatal(err)
		}
	}
}

func mustClose(tb testing.TB, l *Log) {
	tb.Helper()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

func mustRead(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func mustWrite(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// numbers returns the n of all entries of a log that must be good.
func numbers(tb testing.TB, dir string) []int {
	tb.Helper()
	var ns []int
	for e, err := range Read(dir) {
		if err != nil {
			tb.Fatal(err)
		}
		var v event
		if err := json.Unmarshal(e.Body, &v); err != nil {
			tb.Fatal(err)
		}
		ns = append(ns, v.N)
	}
	return ns
}

func count(n int) []int {
	var ns []int
	for i := 1; i <= n; i++ {
		ns = append(ns, i)
	}
	return ns
}

func TestLinesAreWhatTheDocumentationSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := mustOpen(t, dir, Options{Now: clock()})
	if _, err := l.Append("event", event{N: 1, Text: "<a> & \x1b[2J \u009b \x7f é"}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)

	want := []string{
		`{"segment":1,"format":1,"created":"2026-03-04T05:06:07.00100089Z","next":1,"previous":"` + strings.Repeat("0", 64) + `"}`,
		`{"seq":1,"time":"2026-03-04T05:06:07.00200089Z","kind":"event","body":{"n":1,"text":"<a> & \u001b[2J \u009b \u007f é"}}`,
	}
	var got []string
	previous := make([]byte, 32)
	for line := range strings.Lines(string(mustRead(t, filepath.Join(dir, "000001.log")))) {
		hash, object, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		sum := link([32]byte(previous), []byte(object))
		if hash != hex.EncodeToString(sum[:]) {
			t.Errorf("hash of %s is %s", object, hash)
		}
		previous = sum[:]
		got = append(got, object)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "000001.log"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, want %v", path, info.Mode().Perm(), want)
		}
	}
}

func TestEntriesComeBackInOrderOverSegmentsAndReopening(t *testing.T) {
	for _, durability := range []Durability{Write, Sync} {
		dir := t.TempDir()
		opts := Options{SegmentBytes: 600, Durability: durability}
		for from := 1; from <= 30; from += 10 {
			l := mustOpen(t, dir, opts)
			mustAppend(t, l, from, from+9)
			mustClose(t, l)
		}
		if diff := cmp.Diff(count(30), numbers(t, dir)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		report, err := Verify(dir)
		if err != nil {
			t.Fatal(err)
		}
		if report.Segments < 3 || report.Entries != 30 || report.Seq != 30 {
			t.Errorf("report is %+v", report)
		}
		l := mustOpen(t, dir, opts)
		if seq, hash := l.Head(); seq != report.Seq || hash != report.Head {
			t.Errorf("head is %d %x, report says %d %x", seq, hash, report.Seq, report.Head)
		}
	}
}

func TestReadingFromALaterSegmentSkipsTheEarlierOnes(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentBytes: 600})
	mustAppend(t, l, 1, 20)
	last, err := Segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	first := uint64(0)
	for e, err := range ReadFrom(dir, last) {
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = e.Seq
		}
	}
	if first <= 1 || first > 20 {
		t.Errorf("segment %d begins with seq %d", last, first)
	}
	for _, err := range ReadFrom(dir, last+1) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("reading past the end: %v", err)
		}
	}
}

func TestTornLastLineIsCutAtEveryOffset(t *testing.T) {
	source := t.TempDir()
	l := mustOpen(t, source, Options{})
	mustAppend(t, l, 1, 3)
	mustClose(t, l)
	whole := mustRead(t, filepath.Join(source, "000001.log"))
	lines := bytes.SplitAfter(whole, []byte("\n"))
	// Both an entry and the header of a segment may be torn.
	for _, c := range []struct{ first, last, remain int }{{len(whole) - len(lines[3]), len(whole), 2}, {0, len(lines[0]), 0}} {
		for cut := c.first; cut < c.last; cut++ {
			for _, nuls := range []int{0, 7} {
				dir := t.TempDir()
				path := filepath.Join(dir, "000001.log")
				mustWrite(t, path, append(bytes.Clone(whole[:cut]), make([]byte, nuls)...))
				report, err := Verify(dir)
				torn := int64(cut - c.first + nuls)
				if err != nil || report.TornBytes != torn {
					t.Fatalf("cut at %d: verify says %+v, %v", cut, report, err)
				}
				l, recovery, err := Open(dir, Options{})
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				if recovery.TornBytes != torn {
					t.Errorf("cut at %d: recovered %+v, want %d bytes", cut, recovery, torn)
				}
				mustAppend(t, l, c.remain+1, 5)
				mustClose(t, l)
				if diff := cmp.Diff(count(5), numbers(t, dir)); diff != "" {
					t.Errorf("cut at %d: -want +got\n%s", cut, diff)
				}
			}
		}
	}
}

func TestTornHeaderOfALaterSegmentIsWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	mustAppend(t, l, 1, 3)
	mustClose(t, l)
	mustWrite(t, filepath.Join(dir, "000002.log"), []byte("0123"))
	l, recovery, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Recovery{TornBytes: 4, File: "000002.log"}, recovery); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	mustAppend(t, l, 4, 5)
	mustClose(t, l)
	if diff := cmp.Diff(count(5), numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	mustClose(t, l)
	mustClose(t, mustOpen(t, dir, Options{}))
}

func TestNilAndClosedLogsRefuse(t *testing.T) {
	var none *Log
	if _, err := none.Append("event", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("nil log: %v", err)
	}
	if err := none.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("nil log: %v", err)
	}
	if err := none.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("nil log: %v", err)
	}
	l := mustOpen(t, t.TempDir(), Options{})
	mustClose(t, l)
	if err := l.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed log: %v", err)
	}
	if _, err := l.Append("event", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("closed log: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed log: %v", err)
	}
}

func TestRefusedEntriesLeaveTheLogGood(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	mustAppend(t, l, 1, 1)
	if _, err := l.Append("event", strings.Repeat("a", MaxEntryBytes)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := l.Append("event", func() {}); err == nil {
		t.Error("a function was accepted as a body")
	}
	for _, kind := range []string{"", "Event", `a","body":1}`, strings.Repeat("a", 65)} {
		if _, err := l.Append(kind, 1); err == nil {
			t.Errorf("kind %q was accepted", kind)
		}
	}
	mustAppend(t, l, 2, 2)
	mustClose(t, l)
	if diff := cmp.Diff(count(2), numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestEntriesThatAreNotAdmittedLeaveTheLogAsItWas(t *testing.T) {
	dir := t.TempDir()
	refusal := errors.New("no")
	var asked []string
	var admitted int64
	l := mustOpen(t, dir, Options{SegmentBytes: 600, Admit: func(e Entry, size, _ int64) error {
		asked = append(asked, fmt.Sprintf("%d %s", e.Seq, e.Kind))
		if e.Time.IsZero() || e.Kind == "other" {
			return refusal
		}
		admitted += size
		return nil
	}})
	for n := 1; n <= 3; n++ {
		if _, err := l.Append("other", 0); !errors.Is(err, refusal) || errors.Is(err, ErrFailed) {
			t.Errorf("append: %v", err)
		}
		if err := l.Err(); err != nil {
			t.Errorf("the log says %v", err)
		}
		mustAppend(t, l, n, n)
	}
	mustClose(t, l)
	if diff := cmp.Diff(count(3), numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1 other", "1 event", "2 other", "2 event", "3 other", "3 event"}, asked); diff != "" {
		t.Errorf("asked: -want +got\n%s", diff)
	}
	var lines int64
	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		text := mustRead(t, s)
		lines += int64(len(text) - bytes.IndexByte(text, '\n') - 1)
	}
	if admitted != lines {
		t.Errorf("%d bytes were admitted, the entries take %d", admitted, lines)
	}
}

func TestLargestEntryFitsAndGetsASegmentOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentBytes: 1000})
	mustAppend(t, l, 1, 1)
	overhead := len(appendFront(nil, &Entry{Seq: 2, Time: time.Unix(0, 111111111).UTC(), Kind: "event"}, new(second))) + len(`""}`)
	l.now = func() time.Time { return time.Unix(0, 111111111) }
	if _, err := l.Append("event", strings.Repeat("a", MaxEntryBytes-overhead)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append("event", strings.Repeat("a", MaxEntryBytes-overhead+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
	mustClose(t, l)
	report, err := Verify(dir)
	if err != nil || report.Entries != 2 || report.Segments != 2 {
		t.Errorf("report %+v, %v", report, err)
	}
}

func TestConcurrentAppendsFormOneChain(t *testing.T) {
	for _, durability := range []Durability{Write, Sync} {
		dir := t.TempDir()
		l := mustOpen(t, dir, Options{SegmentBytes: 4000, Durability: durability})
		const writers, each = 8, 25
		var wg sync.WaitGroup
		seqs := make([][]uint64, writers)
		for w := range writers {
			wg.Go(func() {
				for range each {
					e, err := l.Append("event", event{N: w})
					if err != nil {
						t.Error(err)
						return
					}
					seqs[w] = append(seqs[w], e.Seq)
				}
			})
		}
		wg.Wait()
		if durability == Sync && l.synced != writers*each {
			t.Errorf("synced up to %d", l.synced)
		}
		mustClose(t, l)
		seen := map[uint64]int{}
		for e, err := range Read(dir) {
			if err != nil {
				t.Fatal(err)
			}
			var v event
			if err := json.Unmarshal(e.Body, &v); err != nil {
				t.Fatal(err)
			}
			seen[e.Seq] = v.N
		}
		if len(seen) != writers*each {
			t.Errorf("%d entries", len(seen))
		}
		for w := range writers {
			for _, seq := range seqs[w] {
				if seen[seq] != w {
					t.Errorf("seq %d belongs to %d, the log says %d", seq, w, seen[seq])
				}
			}
		}
	}
}

func TestReadingWhileSomebodyAppends(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentBytes: 3000})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 300 {
			if _, err := l.Append("event", event{N: n}); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := Verify(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsWrittenTogetherIsSyncedOnce(t *testing.T) {
	l := mustOpen(t, filepath.Join(t.TempDir(), "log"), Options{Durability: Sync})
	f := &countingFile{file: l.file}
	l.file = f
	var last Entry
	for range 3 {
		var err error
		if last, err = l.Write("event", 1); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs != 0 {
		t.Errorf("%d syncs before anybody asked for one", f.syncs)
	}
	for range 2 {
		if err := l.Commit(last.Seq); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs != 1 {
		t.Errorf("%d syncs for what was committed twice", f.syncs)
	}
	l.file = &failingSync{l.file}
	last, err := l.Write("event", 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Commit(last.Seq); !errors.Is(err, ErrFailed) {
			t.Errorf("commit of what cannot be synced: %v", err)
		}
	}
	if _, err := l.Write("event", 1); !errors.Is(err, ErrFailed) {
		t.Errorf("write after that: %v", err)
	}
	if err := (*Log)(nil).Commit(1); !errors.Is(err, ErrClosed) {
		t.Errorf("commit to no log: %v", err)
	}
}

type failingSync struct{ file }

func (*failingSync) Sync() error { return errors.New("the disk is gone") }
