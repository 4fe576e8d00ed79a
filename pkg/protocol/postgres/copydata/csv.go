package copydata

import "bytes"

// csvCodec is the CSV format.
type csvCodec struct {
	lines
	quoted  bool // within quotes
	escaped bool // behind an escape
}

func (c *csvCodec) next(data []byte) (int, error) {
	quote, escape := c.layout.Quote, c.layout.Escape
	apart := escape != quote
	for i := c.looked; i < len(data); i++ {
		b := data[i]
		if b == '\n' && !c.quoted {
			c.looked, c.escaped = 0, false
			return i + 1, nil
		}
		if apart && b == escape {
			c.escaped = c.quoted && !c.escaped
			continue
		}
		if b == quote && !c.escaped {
			c.quoted = !c.quoted
		}
		c.escaped = false
	}
	c.looked = len(data)
	return 0, nil
}

func (c *csvCodec) rewrite(e *editor, start, end int) error {
	end-- // the end of the line
	if c.layout.Columns == 0 && start == end {
		return c.row(e, 0)
	}
	for column := 0; ; column++ {
		n, quoted := c.field(e.source[start:end])
		if column < c.layout.Columns && !c.header {
			c.value(e, column, span{start, start + n, quoted})
		}
		if start += n; start == end {
			return c.row(e, column+1)
		}
		start++
	}
}

// field returns the length of the first field of a line, and whether any of it is
// in quotes.
func (c *csvCodec) field(line []byte) (length int, quoted bool) {
	if end := bytes.IndexByte(line, c.layout.Delimiter); end >= 0 && bytes.IndexByte(line[:end], c.layout.Quote) < 0 {
		return end, false
	}
	return c.walk(line, func(byte) {})
}

// walk hands each byte of the first field's value to take. It returns the
// field's length and whether any of it is in quotes.
func (c *csvCodec) walk(line []byte, take func(byte)) (length int, quoted bool) {
	inside := false
	for i := 0; i < len(line); i++ {
		b := line[i]
		switch {
		case !inside && b == c.layout.Delimiter:
			return i, quoted
		case !inside && b == c.layout.Quote:
			inside, quoted = true, true
		case inside && b == c.layout.Escape && i+1 < len(line) && (line[i+1] == c.layout.Escape || line[i+1] == c.layout.Quote):
			i++
			take(line[i])
		case inside && b == c.layout.Quote:
			inside = false
		default:
			take(b)
		}
	}
	return len(line), quoted
}

// span is a field in the source.
type span struct {
	start, end int
	quoted     bool
}

func (c *csvCodec) value(e *editor, column int, s span) {
	raw := e.source[s.start:s.end:s.end]
	value := raw
	switch {
	case !s.quoted && string(raw) == c.layout.Null:
		value = nil
	case s.quoted:
		c.scratch = c.scratch[:0]
		c.walk(raw, func(b byte) { c.scratch = append(c.scratch, b) })
		value = c.scratch[:len(c.scratch):len(c.scratch)]
		if value == nil {
			value = raw[:0]
		}
	}
	other, verdict := e.treat(column, value)
	switch {
	case verdict == Keep, verdict == Nullify && value == nil:
	case verdict == Replace:
		e.cut(s.start, s.end)
		e.out = c.escape(e.out, other, s.quoted)
	default:
		e.cut(s.start, s.end)
		e.out = append(e.out, c.layout.Null...)
	}
	c.scratch = spare(c.scratch)
}

func (c *csvCodec) finish() error { return nil }

// escape appends a value as a server writes it: in quotes if it needs them, or if
// the one before it had them.
func (c *csvCodec) escape(dst, value []byte, quoted bool) []byte {
	layout := &c.layout
	if !quoted && string(value) != layout.Null && bytes.IndexByte(value, layout.Delimiter) < 0 &&
		bytes.IndexByte(value, layout.Quote) < 0 && bytes.IndexByte(value, '\n') < 0 && bytes.IndexByte(value, '\r') < 0 &&
		(layout.Columns != 1 || string(value) != `\.`) {
		return append(dst, value...)
	}
	dst = append(dst, layout.Quote)
	for _, b := range value {
		if b == layout.Quote || b == layout.Escape {
			dst = append(dst, layout.Escape)
		}
		dst = append(dst, b)
	}
	return append(dst, layout.Quote)
}
