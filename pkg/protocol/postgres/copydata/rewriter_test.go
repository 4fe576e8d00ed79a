package copydata_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/protocol/postgres/copydata"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

func textLayout(columns int) copydata.Layout {
	return copydata.Layout{
		Format: copydata.Text, Columns: columns, Delimiter: '\t', Null: `\N`, MaxRow: 1 << 20, MaxHeld: 1 << 20,
	}
}

func csvLayout(columns int) copydata.Layout {
	return copydata.Layout{
		Format: copydata.CSV, Columns: columns, Delimiter: ',', Quote: '"', Escape: '"', MaxRow: 1 << 20, MaxHeld: 1 << 20,
	}
}

func binaryLayout(columns int) copydata.Layout {
	return copydata.Layout{Format: copydata.Binary, Columns: columns, MaxRow: 1 << 20, MaxHeld: 1 << 20}
}

func change(l copydata.Layout, f func(*copydata.Layout)) copydata.Layout {
	f(&l)
	return l
}

func mustNew(tb testing.TB, l copydata.Layout, treat copydata.Treat) *copydata.Rewriter {
	tb.Helper()
	r, err := copydata.New(l, treat)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func keep(int, []byte) ([]byte, copydata.Verdict) { return nil, copydata.Keep }

// second puts m in the place of each value of the second column.
func second(m string) copydata.Treat {
	return func(column int, value []byte) ([]byte, copydata.Verdict) {
		if column == 1 && value != nil {
			return []byte(m), copydata.Replace
		}
		return nil, copydata.Keep
	}
}

// all rewrites the pieces and returns what came out together.
func all(r *copydata.Rewriter, pieces ...[]byte) (out string, masked int, err error) {
	var b strings.Builder
	for _, p := range pieces {
		part, n, err := r.Rewrite(bytes.Clone(p))
		if err != nil {
			return b.String(), masked, err
		}
		b.Write(part)
		masked += n
	}
	return b.String(), masked, r.Finish()
}

func TestValuesAreReadAndWrittenAsAServerDoes(t *testing.T) {
	tests := map[string]struct {
		layout   copydata.Layout
		mask     string
		in, want string
	}{
		"text": {textLayout(2), "m", "1\tx\n2\t\\N\n3\t\n", "1\tm\n2\t\\N\n3\tm\n"},
		"text: what a mask needs escapes for": {textLayout(2), "a\tb\nc\\d\re\bf\vg\fh\x01", "1\tx\n",
			"1\ta\\tb\\nc\\\\d\\re\\bf\\vg\\fh\x01\n"},
		"text: escapes in front of delimiters and ends": {textLayout(2), "m", "\\\\\tx\\\ty\\\\\n\\\t\\\n\tz\n", "\\\\\tm\n\\\t\\\n\tm\n"},
		"text: another delimiter":                       {change(textLayout(2), func(l *copydata.Layout) { l.Delimiter = '|' }), "a|b", "1\\|\t|x\n", "1\\|\t|a\\|b\n"},
		"text: the end that older servers send":         {textLayout(2), "m", "1\tx\n\\.\n", "1\tm\n\\.\n"},
		"text: an empty string for NULL":                {change(textLayout(2), func(l *copydata.Layout) { l.Null = "" }), "m", "1\t\n2\tx\n", "1\t\n2\tm\n"},
		"text: a value that looks like NULL":            {change(textLayout(2), func(l *copydata.Layout) { l.Null = "x" }), "m", "1\tx\nx\ty\n", "1\tm\nx\tm\n"},
		"text: a NULL that no value looks like":         {change(textLayout(2), func(l *copydata.Layout) { l.Null = `\x` }), "m", "1\t\\x\n1\t\\\\x\n", "1\t\\x\n1\tm\n"},
		"text: a header":                                {change(textLayout(2), func(l *copydata.Layout) { l.Header = true }), "m", "a\tb\n1\tx\n", "a\tb\n1\tm\n"},
		"csv":                                           {csvLayout(2), "m", "1,x\n2,\n3,\"\"\n\"4\",\"y\"\n", "1,m\n2,\n3,\"m\"\n\"4\",\"m\"\n"},
		"csv: quotes, delimiters and ends of lines":     {csvLayout(2), "a\"b,c\nd", "\"1\"\"\n,\",\"x\"\"\n,\"\"\"\n2,y\n", "\"1\"\"\n,\",\"a\"\"b,c\nd\"\n2,\"a\"\"b,c\nd\"\n"},
		"csv: an escape of its own": {change(csvLayout(2), func(l *copydata.Layout) { l.Escape = '\\' }), `a"b\c`,
			`"1\"\\,",x` + "\n" + `"2\\","\",` + "\n" + `"` + "\n" + `\,3` + "\n", `"1\"\\,","a\"b\\c"` + "\n" + `"2\\","a\"b\\c"` + "\n" + `\,"a\"b\\c"` + "\n"},
		"csv: other bytes": {change(csvLayout(2), func(l *copydata.Layout) { l.Delimiter, l.Quote, l.Escape = '\t', '\'', '\'' }), "it's",
			"'1\t'''\tx\n", "'1\t'''\t'it''s'\n"},
		"csv: a mask that looks like NULL": {change(csvLayout(2), func(l *copydata.Layout) { l.Null = "m" }), "m", "m,x\n1,\"m\"\n1,m\n", "m,\"m\"\n1,\"m\"\n1,m\n"},
		"csv: a header with an end of line": {change(csvLayout(2), func(l *copydata.Layout) { l.Header = true }), "m",
			"\"a\nb\",c\n1,x\n", "\"a\nb\",c\n1,m\n"},
		"csv: a mask that looks like the end": {csvLayout(1), `\.`, "x\n", "x\n"},
		"binary": {binaryLayout(2), "masked", string(binaryOf([]any{"1", "x"}, []any{nil, ""}, []any{"", nil})),
			string(binaryOf([]any{"1", "masked"}, []any{nil, "masked"}, []any{"", nil}))},
		"binary: an extension": {binaryLayout(0), "m", "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x01\x00\x00\x00\x02xy\x00\x00\xff\xff",
			"PGCOPY\n\xff\r\n\x00\x00\x00\x00\x01\x00\x00\x00\x02xy\x00\x00\xff\xff"},
		"text: no columns": {textLayout(0), "m", "\n\n", "\n\n"},
		"csv: no columns":  {csvLayout(0), "m", "\n\n", "\n\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			whole, masked, err := all(mustNew(t, tc.layout, second(tc.mask)), []byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, whole); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
			for _, size := range []int{1, 2, 3, 7} {
				out, n, err := all(mustNew(t, tc.layout, second(tc.mask)), slices.Collect(slices.Chunk([]byte(tc.in), size))...)
				if err != nil || out != whole || n != masked {
					t.Errorf("in pieces of %d: %q, %d masked, %v", size, out, n, err)
				}
			}
		})
	}
}

func TestAMaskThatLooksLikeTheEndIsQuoted(t *testing.T) {
	treat := func(int, []byte) ([]byte, copydata.Verdict) { return []byte(`\.`), copydata.Replace }
	out, _, err := all(mustNew(t, csvLayout(1), treat), []byte("x\n"))
	if err != nil || out != "\"\\.\"\n" {
		t.Errorf("got %q, %v", out, err)
	}
	out, _, err = all(mustNew(t, textLayout(1), treat), []byte("x\n"))
	if err != nil || out != "\\\\.\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestEscapesAreRead(t *testing.T) {
	want := []string{"\b\f\n\r\t\v", "\\", "q.", "A1", "\x0b7", "\x01g", "xyz", "\x0a8", "\\"}
	var got []string
	r := mustNew(t, textLayout(len(want)), func(_ int, value []byte) ([]byte, copydata.Verdict) {
		got = append(got, string(value))
		return nil, copydata.Keep
	})
	in := `\b\f\n\r\t\v` + "\t" + `\\` + "\t" + `\q\.` + "\t" + `\1011` + "\t" + `\0137` + "\t" + `\x1g` + "\t" + `\xyz` + "\t" + `\x0A8` + "\t" + `\\` + "\n"
	if _, _, err := all(r, []byte(in)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestNULLIsNoEmptyValue(t *testing.T) {
	for name, tc := range map[string]struct {
		layout copydata.Layout
		in     []byte
	}{
		"text":   {textLayout(2), []byte("\t\\N\n")},
		"csv":    {csvLayout(2), []byte("\"\",\n")},
		"binary": {binaryLayout(2), binaryOf([]any{"", nil})},
	} {
		var nulls []bool
		r := mustNew(t, tc.layout, func(_ int, value []byte) ([]byte, copydata.Verdict) {
			nulls = append(nulls, value == nil)
			return nil, copydata.Nullify
		})
		out, masked, err := all(r, tc.in)
		if diff := cmp.Diff([]bool{false, true}, nulls); diff != "" || err != nil || masked != 1 {
			t.Errorf("%s: %q, %d masked, %v, nulls (-want +got):\n%s", name, out, masked, err, diff)
		}
	}
}

func TestDataThatIsNotWhatWasPromisedIsNotHandedOn(t *testing.T) {
	tests := map[string]struct {
		layout copydata.Layout
		in     string
		want   error
	}{
		"text: too few values":           {textLayout(2), "secret\n", wire.ErrMalformed},
		"text: too many values":          {textLayout(2), "1\t2\tsecret\n", wire.ErrMalformed},
		"text: data behind the end":      {textLayout(1), "\\.\nsecret\n", wire.ErrMalformed},
		"text: no end of line":           {textLayout(1), "secret", wire.ErrMalformed},
		"text: a header of other width":  {change(textLayout(2), func(l *copydata.Layout) { l.Header = true }), "secret\n", wire.ErrMalformed},
		"text: columns where are none":   {textLayout(0), "secret\n", wire.ErrMalformed},
		"text: a row over the limit":     {change(textLayout(1), func(l *copydata.Layout) { l.MaxRow = 4 }), "secret\n", wire.ErrTooLarge},
		"text: a part over the limit":    {change(textLayout(1), func(l *copydata.Layout) { l.MaxHeld = 4 }), "secret", wire.ErrTooLarge},
		"csv: too few values":            {csvLayout(2), "secret\n", wire.ErrMalformed},
		"csv: too many values":           {csvLayout(2), "1,2,secret\n", wire.ErrMalformed},
		"csv: a quote without an end":    {csvLayout(1), "\"secret\n", wire.ErrMalformed},
		"csv: columns where are none":    {csvLayout(0), "secret\n", wire.ErrMalformed},
		"binary: text":                   {binaryLayout(1), "secret\n", wire.ErrMalformed},
		"binary: no end":                 {binaryLayout(1), strings.TrimSuffix(string(binaryOf([]any{"secret"})), "\xff\xff"), wire.ErrMalformed},
		"binary: nothing":                {binaryLayout(1), "", wire.ErrMalformed},
		"binary: data behind the end":    {binaryLayout(1), string(binaryOf()) + "secret", wire.ErrMalformed},
		"binary: too few values":         {binaryLayout(2), string(binaryOf([]any{"secret"})), wire.ErrMalformed},
		"binary: too many values":        {binaryLayout(0), string(binaryOf([]any{"secret"})), wire.ErrMalformed},
		"binary: a negative length":      {binaryLayout(1), binaryHeader(0) + "\x00\x01\xff\xff\xff\xfesecret", wire.ErrMalformed},
		"binary: a negative width":       {binaryLayout(1), binaryHeader(0) + "\xff\xfesecret", wire.ErrMalformed},
		"binary: a value over the limit": {binaryLayout(1), binaryHeader(0) + "\x00\x01\x7f\xff\xff\xffsecret", wire.ErrTooLarge},
		"binary: object ids":             {binaryLayout(1), binaryHeader(1<<16) + "\x00\x01\x00\x00\x00\x06secret", wire.ErrMalformed},
		"binary: an extension over the limit": {binaryLayout(1),
			"PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x7f\xff\xff\xff", wire.ErrMalformed},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 1 << 20} {
				out, _, err := all(mustNew(t, tc.layout, keep), slices.Collect(slices.Chunk([]byte(tc.in), size))...)
				if !errors.Is(err, tc.want) {
					t.Errorf("in pieces of %d: got %v", size, err)
				}
				if strings.Contains(out, "secret") && name != "binary: no end" {
					t.Errorf("in pieces of %d: %q was handed on", size, out)
				}
			}
		})
	}
}

func TestALayoutThatReadsInTwoWaysIsRefused(t *testing.T) {
	for name, l := range map[string]copydata.Layout{
		"zero":                           {},
		"no format":                      change(textLayout(1), func(l *copydata.Layout) { l.Format = 0 }),
		"a delimiter that ends lines":    change(textLayout(1), func(l *copydata.Layout) { l.Delimiter = '\n' }),
		"a delimiter that escapes":       change(textLayout(1), func(l *copydata.Layout) { l.Delimiter = '\\' }),
		"a delimiter that quotes":        change(csvLayout(1), func(l *copydata.Layout) { l.Delimiter = '"' }),
		"an escape that ends lines":      change(csvLayout(1), func(l *copydata.Layout) { l.Escape = '\r' }),
		"a NULL that swallows":           change(textLayout(1), func(l *copydata.Layout) { l.Null = `x\` }),
		"a NULL that looks like the end": change(textLayout(1), func(l *copydata.Layout) { l.Null = `\.` }),
		"no bound":                       change(csvLayout(1), func(l *copydata.Layout) { l.MaxRow = 0 }),
		"fewer than no columns":          binaryLayout(-1),
	} {
		if _, err := copydata.New(l, keep); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := copydata.New(textLayout(1), nil); err == nil {
		t.Error("nobody to treat values: no error")
	}
}

func TestRowsWithoutAHitAreNotCopied(t *testing.T) {
	for name, tc := range map[string]struct {
		layout copydata.Layout
		in     []byte
	}{
		"text": {textLayout(2), []byte("1\tx\\\\\n2\ty\n")},
		"csv":  {csvLayout(2), []byte("1,\"x\"\"\"\n2,y\n")},
	} {
		r := mustNew(t, tc.layout, keep)
		if n := testing.AllocsPerRun(100, func() {
			out, masked, err := r.Rewrite(tc.in)
			if err != nil || masked != 0 || len(out) != len(tc.in) || &out[0] != &tc.in[0] {
				t.Fatalf("%s: data was copied", name)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestRowsAreCounted(t *testing.T) {
	r := mustNew(t, change(csvLayout(1), func(l *copydata.Layout) { l.Header = true }), keep)
	if _, _, err := all(r, []byte("a\n1\n2\n\"3\n\"\n")); err != nil || r.Rows() != 3 {
		t.Errorf("%d rows, %v", r.Rows(), err)
	}
}

func binaryHeader(flags uint32) string {
	return "PGCOPY\n\xff\r\n\x00" + string(binary.BigEndian.AppendUint32(nil, flags)) + "\x00\x00\x00\x00"
}

// binaryOf is data in binary format; nil is NULL.
func binaryOf(rows ...[]any) []byte {
	out := []byte(binaryHeader(0))
	for _, row := range rows {
		out = binary.BigEndian.AppendUint16(out, uint16(len(row)))
		for _, v := range row {
			if v == nil {
				out = append(out, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			s := fmt.Sprint(v)
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(s))), s...)
		}
	}
	return append(out, 0xff, 0xff)
}

func BenchmarkRewrite(b *testing.B) {
	for name, bench := range map[string]struct {
		layout copydata.Layout
		row    string
	}{
		"text":   {textLayout(4), "1234567\tlorem ipsum dolor sit amet\t2026-01-01 00:00:00+00\tsome more\\twords\n"},
		"csv":    {csvLayout(4), "1234567,lorem ipsum dolor sit amet,2026-01-01 00:00:00+00,\"some, more words\"\n"},
		"binary": {binaryLayout(4), ""},
	} {
		data := []byte(bench.row)
		if bench.row == "" {
			data = binaryOf([]any{"1234567", "lorem ipsum dolor sit amet", "2026-01-01", "some more words"})
			data = data[19 : len(data)-2]
		}
		b.Run(name, func(b *testing.B) {
			r := mustNew(b, bench.layout, keep)
			if bench.row == "" {
				if _, _, err := r.Rewrite([]byte(binaryHeader(0))); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Rewrite(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
