package record

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// FuzzRead feeds hostile segments to the reader. Whatever it accepts must be
// what a Log would have written, and a Log must be able to go on after it.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	l, _, err := Open(dir, Options{Now: clock()})
	if err != nil {
		f.Fatal(err)
	}
	mustAppend(f, l, 1, 3)
	mustClose(f, l)
	good := mustRead(f, filepath.Join(dir, "000001.log"))
	f.Add(good)
	f.Add(good[:len(good)-9])
	f.Add(append(bytes.Clone(good), 0, 0, 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "000001.log")
		mustWrite(t, path, b)
		report, err := Verify(dir)
		l, _, openErr := Open(dir, Options{})
		if err != nil {
			if !errors.Is(err, ErrBroken) || !errors.Is(openErr, ErrBroken) {
				t.Fatalf("verify: %v; open: %v", err, openErr)
			}
			return
		}
		if openErr != nil {
			t.Fatal(openErr)
		}
		if _, err := l.Append("event", 1); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		after, err := Verify(dir)
		if err != nil || after.Entries != report.Entries+1 {
			t.Fatalf("before %+v, after %+v, %v", report, after, err)
		}
		if kept := b[:len(b)-int(report.TornBytes)]; !bytes.HasPrefix(mustRead(t, path), kept) {
			t.Fatal("lines that were there are gone")
		}
	})
}

// FuzzParseEntry checks that an entry has one spelling.
func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-03-04T05:06:07.00200089Z","kind":"event","body":{"n":1}}`))
	f.Add([]byte(`{"seq":01,"time":"2026-03-04T05:06:07+00:00","kind":"event","body":1}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		e, ok := parseEntry(object)
		if !ok {
			return
		}
		if again := append(append(appendFront(nil, &e, new(second)), e.Body...), '}'); !bytes.Equal(again, object) {
			t.Errorf("%q is written as %q", object, again)
		}
	})
}

func FuzzEscapeControls(f *testing.F) {
	f.Add("a\u009bb\x7f\xff\x1b")
	f.Fuzz(func(t *testing.T, s string) {
		e := newEncoder()
		if err := e.encode(s); err != nil {
			t.Fatal(err)
		}
		b := e.b[front : len(e.b)-len("}\n")]
		for _, r := range string(b) {
			if r < ' ' || r >= 0x7f && r <= 0x9f {
				t.Errorf("%q holds %U", b, r)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	type decision struct{ Session, Op, Stage, Verdict, Rule, Text string }
	body := decision{"0mfr2k3l1abcdefgh", "17", "exchange", "allow", "read-invoices", "SELECT id, total FROM invoices WHERE customer = $1"}
	b.Run("write", func(b *testing.B) {
		l := mustOpen(b, b.TempDir(), Options{})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.Append("decision", body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("sync-64", func(b *testing.B) {
		l := mustOpen(b, b.TempDir(), Options{Durability: Sync})
		f := &countingFile{file: l.file}
		l.file = f
		b.SetParallelism(64 / max(1, runtime.GOMAXPROCS(0)))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := l.Append("decision", body); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/float64(max(1, f.syncs)), "ops/sync")
	})
}

// countingFile counts syncs; only one runs at a time.
type countingFile struct {
	file
	syncs int
}

func (f *countingFile) Sync() error {
	f.syncs++
	return f.file.Sync()
}

var _ file = (*os.File)(nil)
