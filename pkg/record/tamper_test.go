package record

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTornLineInAnEarlierSegmentIsBroken(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentBytes: 600})
	mustAppend(t, l, 1, 10)
	mustClose(t, l)
	path := filepath.Join(dir, "000001.log")
	b := mustRead(t, path)
	mustWrite(t, path, b[:len(b)-5])
	if _, err := Verify(dir); !errors.Is(err, ErrBroken) {
		t.Errorf("verify: %v", err)
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	source := t.TempDir()
	l := mustOpen(t, source, Options{SegmentBytes: 500})
	mustAppend(t, l, 1, 4)
	mustClose(t, l)
	files, err := filepath.Glob(filepath.Join(source, "*.log"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%d segments, %v", len(files), err)
	}
	for _, path := range files {
		good := mustRead(t, path)
		bad := bytes.Clone(good)
		for i := range bad {
			for bit := range 8 {
				bad[i] = good[i] ^ 1<<bit
				mustWrite(t, path, bad)
				_, err := Verify(source)
				var broken *BrokenError
				if !errors.As(err, &broken) {
					t.Fatalf("%s byte %d bit %d: %v", path, i, bit, err)
				}
				line := 1 + bytes.Count(good[:i], []byte("\n"))
				// A newline that is gone shows on its own line or on the next.
				if broken.File != filepath.Base(path) || broken.Line != line {
					t.Fatalf("%s byte %d bit %d is on line %d: %v", path, i, bit, line, err)
				}
			}
			bad[i] = good[i]
		}
		mustWrite(t, path, good)
	}
	if _, err := Verify(source); err != nil {
		t.Fatal(err)
	}
}

func TestMovedLinesAndSegmentsAreFound(t *testing.T) {
	cut := func(lines [][]byte, i int) [][]byte { return append(append([][]byte{}, lines[:i]...), lines[i+1:]...) }
	edits := map[string]func(t *testing.T, dir string, lines [][]byte) [][]byte{
		"line removed":    func(_ *testing.T, _ string, l [][]byte) [][]byte { return cut(l, 2) },
		"header removed":  func(_ *testing.T, _ string, l [][]byte) [][]byte { return l[1:] },
		"lines swapped":   func(_ *testing.T, _ string, l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l },
		"line duplicated": func(_ *testing.T, _ string, l [][]byte) [][]byte { return append(l[:2:2], l[1:]...) },
		"blank line":      func(_ *testing.T, _ string, l [][]byte) [][]byte { return append([][]byte{{'\n'}}, l...) },
		"emptied":         func(*testing.T, string, [][]byte) [][]byte { return nil },
		"segment removed": func(t *testing.T, dir string, l [][]byte) [][]byte {
			if err := os.Remove(filepath.Join(dir, "000002.log")); err != nil {
				t.Fatal(err)
			}
			return l
		},
		"segments renumbered": func(t *testing.T, dir string, l [][]byte) [][]byte {
			if err := os.Rename(filepath.Join(dir, "000003.log"), filepath.Join(dir, "000002.log")); err != nil {
				t.Fatal(err)
			}
			return l
		},
		"segment inserted": func(t *testing.T, dir string, l [][]byte) [][]byte {
			mustWrite(t, filepath.Join(dir, "000005.log"), mustRead(t, filepath.Join(dir, "000002.log")))
			return l
		},
		"segment under another name": func(t *testing.T, dir string, l [][]byte) [][]byte {
			mustWrite(t, filepath.Join(dir, "0000002.log"), mustRead(t, filepath.Join(dir, "000002.log")))
			return l
		},
		"segment is a link": func(t *testing.T, dir string, l [][]byte) [][]byte {
			if err := os.Rename(filepath.Join(dir, "000002.log"), filepath.Join(dir, "x")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("x", filepath.Join(dir, "000002.log")); err != nil {
				t.Fatal(err)
			}
			return l
		},
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{SegmentBytes: 700})
			for n := uint64(1); n < 4 || l.entries < 2; n, _ = Segments(dir) {
				mustAppend(t, l, 1, 1)
			}
			mustClose(t, l)
			path := filepath.Join(dir, "000001.log")
			lines := bytes.SplitAfter(mustRead(t, path), []byte("\n"))
			if len(lines) < 4 {
				t.Fatalf("%d lines", len(lines))
			}
			mustWrite(t, path, bytes.Join(edit(t, dir, lines[:len(lines)-1]), nil))
			_, err := Verify(dir)
			if !errors.Is(err, ErrBroken) {
				t.Errorf("verify: %v", err)
			}
			t.Log(err)
		})
	}
}

func TestGoodHashesDoNotExcuseWrongNumbers(t *testing.T) {
	const previous, entry = `"previous":"%064x"}`, `{"seq":%d,"time":"2026-01-01T00:00:00Z","kind":"event","body":1}`
	head := func(segment, format, next, hash int) string {
		return fmt.Sprintf(`{"segment":%d,"format":%d,"created":"2026-01-01T00:00:00Z","next":%d,`+previous, segment, format, next, hash)
	}
	seq := func(n int) string { return fmt.Sprintf(entry, n) }
	for name, objects := range map[string][]string{
		"good":                   {head(1, 1, 1, 0), seq(1), seq(2)},
		"seq skipped":            {head(1, 1, 1, 0), seq(1), seq(3)},
		"seq repeated":           {head(1, 1, 1, 0), seq(1), seq(1)},
		"seq begins late":        {head(1, 1, 1, 0), seq(2)},
		"header begins late":     {head(1, 1, 2, 0), seq(2)},
		"other segment":          {head(2, 1, 1, 0), seq(1)},
		"other format":           {head(1, 2, 1, 0), seq(1)},
		"other previous":         {head(1, 1, 1, 7), seq(1)},
		"second header":          {head(1, 1, 1, 0), head(1, 1, 1, 0)},
		"entry with two bodies":  {head(1, 1, 1, 0), strings.Replace(seq(1), "}", `,"body":2}`, 1)},
		"entry with white space": {head(1, 1, 1, 0), strings.Replace(seq(1), ",", ", ", 1)},
		"entry in local time":    {head(1, 1, 1, 0), strings.Replace(seq(1), "Z", "+01:00", 1)},
	} {
		dir := t.TempDir()
		var hash [32]byte
		var b []byte
		for _, object := range objects {
			hash = link(hash, []byte(object))
			b = appendLine(b, hash, []byte(object))
		}
		mustWrite(t, filepath.Join(dir, "000001.log"), b)
		if _, err := Verify(dir); errors.Is(err, ErrBroken) != (name != "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDroppedEndShowsAgainstAHeadKeptElsewhere(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	mustAppend(t, l, 1, 3)
	seq, head := l.Head()
	mustClose(t, l)
	path := filepath.Join(dir, "000001.log")
	b := mustRead(t, path)
	mustWrite(t, path, b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1])
	report, err := Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	if report.Seq == seq || report.Head == head {
		t.Errorf("report %+v still has the head", report)
	}
}

func TestBrokenLogIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	mustAppend(t, l, 1, 3)
	mustClose(t, l)
	path := filepath.Join(dir, "000001.log")
	good := mustRead(t, path)
	for name, bad := range map[string][]byte{
		"changed":          bytes.Replace(good, []byte(`"n":2`), []byte(`"n":9`), 1),
		"garbage at end":   append(bytes.Clone(good), "rm -rf"...),
		"garbage in tail":  append(bytes.Clone(good), good[:70]...)[:len(good)+66],
		"newline replaced": append(bytes.Clone(good[:len(good)-1]), 'x'),
		"endless line":     append(bytes.Clone(good), bytes.Repeat([]byte{'a'}, maxLine+1)...),
		"endless NULs":     append(bytes.Clone(good), make([]byte, maxLine+1)...),
	} {
		mustWrite(t, path, bad)
		l, _, err := Open(dir, Options{})
		if name == "garbage in tail" {
			// The beginning of some line is what a crash leaves.
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			mustClose(t, l)
			continue
		}
		if !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
		if got := mustRead(t, path); !bytes.Equal(got, bad) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestMissingLogIsNotAGoodLog(t *testing.T) {
	for _, dir := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if _, err := Verify(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("verify: %v", err)
		}
	}
}
