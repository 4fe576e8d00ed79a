package copydata

import "bytes"

// lines is what text and CSV have in common. The zero lines is in front of the
// first one.
type lines struct {
	layout  Layout
	header  bool // the next line is the header
	looked  int  // how much of the line has been looked at
	scratch []byte
}

// row counts a row of the columns that it had.
func (l *lines) row(e *editor, columns int) error {
	if columns != l.layout.Columns {
		return malformed("row of another width")
	}
	if l.header {
		l.header = false
		return nil
	}
	e.rows++
	return nil
}

// textCodec is the text format.
type textCodec struct {
	lines
	ended bool
	// plain tells that a value may look like NULL.
	plain bool
}

func newText(l lines) *textCodec {
	t := &textCodec{lines: l}
	null := []byte(l.layout.Null)
	t.plain = len(null) > 0 && bytes.Equal(t.escape(nil, unescape(nil, null)), null)
	return t
}

func (t *textCodec) next(data []byte) (int, error) {
	if t.ended {
		return 0, malformed("data behind the end")
	}
	for {
		i := bytes.IndexByte(data[t.looked:], '\n')
		if i < 0 {
			t.looked = len(data)
			return 0, nil
		}
		at := t.looked + i
		t.looked = at + 1
		if escaped(data, at) {
			continue
		}
		t.looked = 0
		return at + 1, nil
	}
}

// escaped reports whether an odd number of backslashes stands in front of at.
func escaped(data []byte, at int) bool {
	n := 0
	for n < at && data[at-n-1] == '\\' {
		n++
	}
	return n%2 == 1
}

func (t *textCodec) rewrite(e *editor, start, end int) error {
	end-- // the end of the line
	line := e.source[start:end]
	if string(line) == `\.` {
		t.ended = true
		return nil
	}
	if t.layout.Columns == 0 && len(line) == 0 {
		return t.row(e, 0)
	}
	for column := 0; ; column++ {
		stop := start + t.field(e.source[start:end])
		if column < t.layout.Columns && !t.header {
			t.value(e, column, start, stop)
		}
		if stop == end {
			return t.row(e, column+1)
		}
		start = stop + 1
	}
}

// field returns the length of the first field of a line.
func (t *textCodec) field(line []byte) int {
	for looked := 0; ; {
		i := bytes.IndexByte(line[looked:], t.layout.Delimiter)
		if i < 0 {
			return len(line)
		}
		at := looked + i
		if !escaped(line, at) {
			return at
		}
		looked = at + 1
	}
}

func (t *textCodec) value(e *editor, column, start, end int) {
	raw := e.source[start:end:end]
	value := raw
	if null := string(raw) == t.layout.Null; null && !t.plain {
		value = nil
	} else if bytes.IndexByte(raw, '\\') >= 0 {
		t.scratch = unescape(t.scratch[:0], raw)
		value = t.scratch
	}
	other, verdict := e.treat(column, value)
	switch {
	case verdict == Keep, verdict == Nullify && value == nil:
	case verdict == Replace:
		e.cut(start, end)
		e.out = t.escape(e.out, other)
	default:
		e.cut(start, end)
		e.out = append(e.out, t.layout.Null...)
	}
	t.scratch = spare(t.scratch)
}

func (t *textCodec) finish() error { return nil }

// escape appends a value as a server writes it.
func (t *textCodec) escape(dst, value []byte) []byte {
	for _, c := range value {
		if letter := control(c); letter != 0 {
			dst = append(dst, '\\', letter)
			continue
		}
		if c == '\\' || c == t.layout.Delimiter {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return dst
}

// control returns the letter that stands for a control character, 0 if none does.
func control(c byte) byte {
	if c < '\b' || c > '\r' {
		return 0
	}
	return "btnvfr"[c-'\b']
}

// unescape appends a field as a server reads it.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		i++
		if c != '\\' || i == len(raw) {
			dst = append(dst, c)
			continue
		}
		n := 1
		switch c = raw[i]; {
		case c >= '0' && c <= '7':
			c, n = digits(raw[i:], 3, 8)
		case c == 'x' && i+1 < len(raw) && digit(raw[i+1]) < 16:
			c, n = digits(raw[i+1:], 2, 16)
			n++
		case bytes.IndexByte([]byte("btnvfr"), c) >= 0:
			c = '\b' + byte(bytes.IndexByte([]byte("btnvfr"), c))
		}
		dst = append(dst, c)
		i += n
	}
	return dst
}

// digits reads up to n digits of a base.
func digits(raw []byte, n int, base byte) (c byte, length int) {
	for length < min(n, len(raw)) && digit(raw[length]) < base {
		c = c*base + digit(raw[length])
		length++
	}
	return c, length
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	default:
		return 0xff
	}
}

// spare returns a buffer that may be kept.
func spare(b []byte) []byte {
	const most = 1 << 20
	if cap(b) > most {
		return nil
	}
	return b
}
