package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inFile returns what the first segment holds.
func inFile(tb testing.TB, dir string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func later(tb testing.TB, l *Log, body string) Entry {
	tb.Helper()
	e, err := l.Later("late", body)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func TestWhatWaitsIsWrittenInFrontOfTheNextEntry(t *testing.T) {
	for _, durability := range []Durability{Write, Sync, Deferred} {
		dir := filepath.Join(t.TempDir(), "log")
		l := mustOpenPlain(t, dir, Options{Durability: durability})
		first := later(t, l, "one")
		later(t, l, "two")
		if seq, _ := l.Head(); seq != 0 {
			t.Errorf("the head is at %d, and nothing is written", seq)
		}
		e, err := l.Append("now", "three")
		if err != nil || e.Seq != 3 || first.Seq != 1 {
			t.Fatalf("%+v, %v", e, err)
		}
		if seq, hash := l.Head(); seq != 3 || hash != e.Hash {
			t.Errorf("the head is at %d", seq)
		}
		if text := inFile(t, dir); strings.Count(text, "\n") != 4 || strings.Index(text, `"two"`) > strings.Index(text, `"three"`) {
			t.Errorf("written:\n%s", text)
		}
		later(t, l, "four")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(dir); err != nil || r.Entries != 4 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

func TestWhatWaitsIsWrittenByItself(t *testing.T) {
	for _, durability := range []Durability{Write, Sync} {
		dir := filepath.Join(t.TempDir(), "log")
		l, _, err := Open(dir, Options{Durability: durability})
		if err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			later(t, l, "late")
			for deadline := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
				if seq, _ := l.Head(); seq == uint64(round+1) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("nothing was written")
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALotDoesNotWait(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, _, err := Open(dir, Options{SegmentBytes: 4 * writeAt})
	if err != nil {
		t.Fatal(err)
	}
	const n = 40
	for i := range n {
		later(t, l, strings.Repeat("x", writeAt/4))
		l.mu.Lock() // the clock may be running out
		waiting := len(l.waiting)
		l.mu.Unlock()
		if waiting > maxWaiting {
			t.Fatalf("%d bytes wait after %d entries", waiting, i+1)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Verify(dir)
	if err != nil || r.Entries != n || r.Segments < 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWhatDoesNotWaitIsSyncedByItselfToo(t *testing.T) {
	l, _, err := Open(filepath.Join(t.TempDir(), "log"), Options{Durability: Sync})
	if err != nil {
		t.Fatal(err)
	}
	later(t, l, strings.Repeat("x", 2*writeAt))
	if seq, _ := l.Head(); seq != 1 {
		t.Fatalf("the head is at %d", seq)
	}
	synced := func() uint64 {
		l.syncMu.Lock()
		defer l.syncMu.Unlock()
		return l.synced
	}
	for deadline := time.Now().Add(20 * time.Second); synced() != 1; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was synced")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// scarce is a file on a disk that has no room as long as full is set.
type scarce struct {
	file
	full bool
}

func (s *scarce) Write(p []byte) (int, error) {
	if s.full {
		return 0, syscall.ENOSPC
	}
	return s.file.Write(p)
}

func TestAShortageKeepsWhatWaitsAndRefusesWhatComes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := mustOpenPlain(t, dir, Options{})
	f := &scarce{file: l.file, full: true}
	l.mu.Lock()
	l.file = f
	l.mu.Unlock()
	later(t, l, "kept")
	if _, err := l.Append("now", "refused"); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	taken := 0
	for ; ; taken++ {
		if _, err := l.Later("late", strings.Repeat("x", 1000)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		if taken > 2*maxWaiting/1000 {
			t.Fatal("there is no end to what waits")
		}
	}
	if err := l.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the log says %v", err)
	}
	if err := l.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("flush: %v", err)
	}
	l.mu.Lock()
	f.full = false
	l.mu.Unlock()
	if _, err := l.Append("now", "again"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Err(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(dir); err != nil || r.Entries != uint64(taken)+2 {
		t.Errorf("%+v, %v; %d were taken", r, err, taken)
	}
	if text := inFile(t, dir); strings.Contains(text, "refused") || !strings.Contains(text, "kept") {
		t.Error("what was refused is there, or what was taken is not")
	}
}

func TestAShortageIsNotForgottenWhereNothingWaits(t *testing.T) {
	l := mustOpenPlain(t, filepath.Join(t.TempDir(), "log"), Options{})
	f := &scarce{file: l.file}
	l.mu.Lock()
	l.file = f
	l.mu.Unlock()
	later(t, l, "late")
	if _, err := l.Append("now", "takes it along"); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	f.full = true
	l.mu.Unlock()
	if _, err := l.Append("now", "refused"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	l.lapse() // as the clock that runs for what waited
	if err := l.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the log says %v", err)
	}
	l.mu.Lock()
	f.full = false
	l.mu.Unlock()
	later(t, l, strings.Repeat("x", writeAt))
	if err := errors.Join(l.Err(), l.Close()); err != nil {
		t.Error(err)
	}
}

func TestAPoisonedLogTakesNothingForLater(t *testing.T) {
	l, _, err := Open(filepath.Join(t.TempDir(), "log"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	failure := l.fail(syscall.EIO)
	l.mu.Unlock()
	if _, err := l.Later("late", "x"); !errors.Is(err, failure) {
		t.Error(err)
	}
	if err := l.Flush(); !errors.Is(err, failure) {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	var none *Log
	_, err = none.Later("late", "x")
	if !errors.Is(err, ErrClosed) || !errors.Is(none.Flush(), ErrClosed) {
		t.Error(err)
	}
}

func BenchmarkLater(b *testing.B) {
	for name, append := range map[string]func(*Log, any) error{
		"Append": func(l *Log, body any) error { _, err := l.Append("result", body); return err },
		"Later":  func(l *Log, body any) error { _, err := l.Later("result", body); return err },
	} {
		b.Run(name, func(b *testing.B) {
			l, _, err := Open(filepath.Join(b.TempDir(), "log"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			body := map[string]string{"session": "s-12345", "op": fmt.Sprint("s-12345-", 17), "outcome": "ok", "tag": "SELECT 1"}
			for b.Loop() {
				if err := append(l, body); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
