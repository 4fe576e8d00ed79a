package record

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestTimesAreWrittenAsTheFormatSays(t *testing.T) {
	base := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var s second
	for _, at := range []time.Time{
		base, base.Add(1), base.Add(120 * time.Millisecond), base.Add(999_999_999), base.Add(time.Second), base.Add(-time.Hour),
		base.Add(10_000), time.Unix(0, 5).UTC(), time.Unix(-1, 0).UTC(), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), base,
	} {
		if got, want := string(s.appendTime(nil, at)), at.Format(time.RFC3339Nano); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestWhatIsNotPrintableIsFoundWhereverItStands(t *testing.T) {
	for n := range 40 {
		text := bytes.Repeat([]byte{'~'}, n)
		if !printable(text) {
			t.Fatalf("%d bytes are not printable", n)
		}
		for i := range n {
			for _, c := range []byte{0x7f, 0x80, 0xc2, 0xff} {
				text[i] = c
				if printable(text) {
					t.Errorf("byte %#x at %d of %d is printable", c, i, n)
				}
				text[i] = '~'
			}
		}
	}
}

func TestALineIsTheSameWhateverItsFrontIs(t *testing.T) {
	kind := strings.Repeat("k", maxKind)
	for _, e := range []Entry{
		{Seq: 1, Time: time.Unix(1, 0).UTC(), Kind: "a"},
		{Seq: 1<<64 - 1, Time: time.Unix(1, 123_456_789).UTC(), Kind: kind},
	} {
		enc := newEncoder()
		if err := enc.encode("body"); err != nil {
			t.Fatal(err)
		}
		enc.lead(&e, new(second))
		object := bytes.Clone(enc.object())
		previous := [32]byte{1, 2, 3}
		hash := enc.link(previous)
		if want := link(previous, object); hash != want {
			t.Errorf("hash is %x, want %x", hash, want)
		}
		if want := appendLine(nil, hash, object); !bytes.Equal(enc.line(), want) || enc.lineBytes() != len(want) {
			t.Errorf("line is %q of %d bytes, want %q", enc.line(), enc.lineBytes(), want)
		}
		if got, ok := parseEntry(object); !ok || got.Seq != e.Seq || !got.Time.Equal(e.Time) || got.Kind != e.Kind {
			t.Errorf("%q is read as %+v", object, got)
		}
	}
}
