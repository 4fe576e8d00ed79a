package copydata_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/protocol/postgres/copydata"
)

// layouts are some that servers use, and some that only somebody with bad
// intentions would ask for.
func layouts(columns int) []copydata.Layout {
	list := []copydata.Layout{textLayout(columns), csvLayout(columns), binaryLayout(columns)}
	list = append(list, change(textLayout(columns), func(l *copydata.Layout) { l.Delimiter, l.Null, l.Header = '|', "", true }))
	list = append(list, change(textLayout(columns), func(l *copydata.Layout) { l.Delimiter, l.Null = 'N', "x" }))
	list = append(list, change(textLayout(columns), func(l *copydata.Layout) { l.Delimiter = '\x01' }))
	list = append(list, change(csvLayout(columns), func(l *copydata.Layout) { l.Escape, l.Null, l.Header = '\\', "NULL", true }))
	list = append(list, change(csvLayout(columns), func(l *copydata.Layout) { l.Delimiter, l.Quote, l.Escape = ' ', '\'', ' ' }))
	list = append(list, change(csvLayout(columns), func(l *copydata.Layout) { l.Delimiter, l.Quote, l.Escape = '"', ',', 'e' }))
	return list
}

// FuzzRewrite takes any bytes for data: however it arrives the same comes out,
// and without a mask what came in.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte("1\tx\n\\N\t\\.\n"), uint8(0), uint8(2), uint64(1))
	f.Add([]byte("1,\"x\"\"\ny\"\n,\n"), uint8(1), uint8(2), uint64(2))
	f.Add(binaryOf([]any{"1", nil}, []any{"", "x"}), uint8(2), uint8(2), uint64(3))
	f.Add([]byte("a|b\n\\||c\\\\\n"), uint8(3), uint8(2), uint64(4))
	f.Add([]byte("\"\\\"\" \\\n"), uint8(6), uint8(1), uint64(5))
	f.Fuzz(func(t *testing.T, data []byte, kind, columns uint8, seed uint64) {
		list := layouts(int(columns % 8))
		l := list[int(kind)%len(list)]
		masks := func(column int, value []byte) ([]byte, copydata.Verdict) {
			switch {
			case len(value)%3 == column%3:
				return append([]byte("m\\"), value...), copydata.Replace
			case len(value)%3 == 2:
				return nil, copydata.Nullify
			default:
				return nil, copydata.Keep
			}
		}
		for _, treat := range []copydata.Treat{keep, masks} {
			whole, n, err := all(mustNew(t, l, treat), data)
			pieces, m, cutErr := all(mustNew(t, l, treat), cut(data, seed)...)
			if (err == nil) != (cutErr == nil) {
				t.Fatalf("%v in one piece, %v in several", err, cutErr)
			}
			if err == nil && (whole != pieces || n != m) {
				t.Fatalf("%q in one piece, %q in several", whole, pieces)
			}
			if m == 0 && !strings.HasPrefix(string(data), pieces) {
				t.Fatalf("%q became %q", data, pieces)
			}
		}
	})
}

// cut returns data in pieces that look arbitrary.
func cut(data []byte, seed uint64) [][]byte {
	r := rand.New(rand.NewPCG(seed, 0))
	var pieces [][]byte
	for len(data) > 0 {
		n := min(len(data), 1+r.IntN(1+r.IntN(40)))
		pieces = append(pieces, data[:n])
		data = data[n:]
	}
	return append(pieces, nil)
}

const canary = "Canary"

// FuzzMask writes rows as a server does, with a canary in one column of them: it
// never comes out, and all other values do.
func FuzzMask(f *testing.F) {
	f.Add([]byte("a\\\t\n\r\"'|,N"), uint8(0), uint8(3), uint64(1))
	for kind := range uint8(9) {
		f.Add([]byte("\\.\x00\"\"\\\\,,''  NULLx\x00\n\x01ee"), kind, uint8(2), uint64(kind))
	}
	f.Fuzz(func(t *testing.T, noise []byte, kind, columns uint8, seed uint64) {
		n := 1 + int(columns%4)
		list := layouts(n)
		l := list[int(kind)%len(list)]
		rows := table(noise, n, seed)
		data := write(l, rows)
		protected := int(seed % uint64(n))
		r := mustNew(t, l, func(column int, value []byte) ([]byte, copydata.Verdict) {
			if column != protected || value == nil {
				return nil, copydata.Keep
			}
			if len(value)%2 == 0 {
				return nil, copydata.Nullify
			}
			return []byte("[gone]\n"), copydata.Replace
		})
		out, _, err := all(r, cut(data, seed)...)
		if err != nil {
			t.Fatalf("%+v: %q: %v", l, data, err)
		}
		for _, row := range rows {
			if v := row[protected]; v != nil && len(*v)%2 == 0 {
				row[protected] = nil
			} else if v != nil {
				gone := "[gone]\n"
				row[protected] = &gone
			} else if l.Format == copydata.Text && l.Null == "x" { // it might have been a value
				gone := "[gone]\n"
				row[protected] = &gone
			}
		}
		if want := string(write(l, rows)); out != want {
			t.Fatalf("%+v: %q became %q, want %q", l, data, out, want)
		}
		if strings.Contains(out, canary) {
			t.Fatalf("%+v: %q became %q", l, data, out)
		}
	})
}

// table makes rows of noise. The canary is in every value that is masked, and in
// no other.
func table(noise []byte, columns int, seed uint64) [][]*string {
	r := rand.New(rand.NewPCG(seed, 1))
	protected := int(seed % uint64(columns))
	var rows [][]*string
	for len(rows) < 5 {
		row := make([]*string, columns)
		for i := range row {
			n := min(len(noise), r.IntN(8))
			v := strings.ReplaceAll(string(noise[:n]), canary, "")
			noise = noise[n:]
			if i == protected {
				v = canary + v
			}
			if r.IntN(4) > 0 {
				row[i] = &v
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// write is a plain reading of copyto.c.
func write(l copydata.Layout, rows [][]*string) []byte {
	if l.Format == copydata.Binary {
		var values [][]any
		for _, row := range rows {
			line := make([]any, len(row))
			for i, v := range row {
				if v != nil {
					line[i] = *v
				}
			}
			values = append(values, line)
		}
		return binaryOf(values...)
	}
	var out bytes.Buffer
	if l.Header {
		for i := range l.Columns {
			if i > 0 {
				out.WriteByte(l.Delimiter)
			}
			out.WriteByte('A' + byte(i))
		}
		out.WriteByte('\n')
	}
	for _, row := range rows {
		for i, v := range row {
			if i > 0 {
				out.WriteByte(l.Delimiter)
			}
			switch {
			case v == nil:
				out.WriteString(l.Null)
			case l.Format == copydata.Text:
				writeText(&out, l, *v)
			default:
				writeCSV(&out, l, *v)
			}
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

func writeText(out *bytes.Buffer, l copydata.Layout, v string) {
	for _, c := range []byte(v) {
		if i := strings.IndexByte("\b\f\n\r\t\v", c); i >= 0 {
			out.WriteString(`\` + "bfnrtv"[i:i+1])
			continue
		}
		if c == '\\' || c == l.Delimiter {
			out.WriteByte('\\')
		}
		out.WriteByte(c)
	}
}

func writeCSV(out *bytes.Buffer, l copydata.Layout, v string) {
	quote := v == l.Null || l.Columns == 1 && v == `\.`
	for _, c := range []byte(v) {
		quote = quote || c == l.Delimiter || c == l.Quote || c == '\n' || c == '\r'
	}
	if !quote {
		out.WriteString(v)
		return
	}
	out.WriteByte(l.Quote)
	for _, c := range []byte(v) {
		if c == l.Quote || c == l.Escape {
			out.WriteByte(l.Escape)
		}
		out.WriteByte(c)
	}
	out.WriteByte(l.Quote)
}

// FuzzLayout takes any layout. What it accepts does not fail on data that was
// written by it.
func FuzzLayout(f *testing.F) {
	f.Add(byte('\t'), byte('"'), byte('"'), `\N`, []byte("x\t\"\n"), uint64(1))
	f.Add(byte('"'), byte('\t'), byte('\\'), ``, []byte("x\t\"\n"), uint64(2))
	f.Fuzz(func(t *testing.T, delimiter, quote, escape byte, null string, noise []byte, seed uint64) {
		const forbidden = "\\.abcdefghijklmnopqrstuvwxyz0123456789\r\n\x00"
		if strings.ContainsAny(null, "\r\n\x00") || strings.IndexByte(null, delimiter) >= 0 || len(null) > 100 {
			return // the server refuses it
		}
		for _, format := range []copydata.Format{copydata.Text, copydata.CSV} {
			if format == copydata.Text && strings.IndexByte(forbidden, delimiter) >= 0 || format == copydata.CSV && strings.IndexByte(null, quote) >= 0 {
				continue // here, too
			}
			l := copydata.Layout{
				Format: format, Columns: 2, Delimiter: delimiter, Quote: quote, Escape: escape, Null: null, MaxRow: 1 << 20, MaxHeld: 1 << 20,
			}
			r, err := copydata.New(l, keep)
			if err != nil {
				continue
			}
			data := write(l, table(noise, 2, seed))
			out, _, err := all(r, data)
			if err != nil || out != string(data) {
				t.Fatalf("%+v: %q became %q, %v", l, data, out, err)
			}
		}
	})
}
