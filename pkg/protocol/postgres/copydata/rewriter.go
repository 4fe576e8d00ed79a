package copydata

import (
	"fmt"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// Format is the format of the data.
type Format uint8

// The formats. The zero Format is none of them.
const (
	Text Format = iota + 1
	CSV
	Binary
)

// Layout says what the data looks like.
type Layout struct {
	Format Format
	// Columns is the number of values in each row.
	Columns int
	// Delimiter is of text and CSV, Quote and Escape are of CSV. None of them is
	// an end of line, and Delimiter is neither Quote nor, in text, a backslash.
	Delimiter, Quote, Escape byte
	// Null stands for NULL in text and CSV. It holds no end of line, no Delimiter
	// and no Quote, and in text its last backslash escapes something.
	Null string
	// Header tells that the first line of text or CSV holds names.
	Header bool
	// MaxRow bounds a row and MaxHeld what is kept of one that is not whole yet,
	// in bytes.
	MaxRow, MaxHeld int
}

// Verdict is what becomes of a value. The zero Verdict takes it away.
type Verdict uint8

// The verdicts.
const (
	Nullify Verdict = iota // NULL takes its place
	Replace                // another value does
	Keep                   // it stays as it is
)

// Treat judges a value: the column's number from 0 on and the value without
// quotes and escapes; nil is NULL. With [Replace] it returns the other value,
// which may be in the memory of the first. The value is valid until Treat
// returns, and what it returned until the next call. It is called for each value
// of a row in order.
type Treat func(column int, value []byte) (other []byte, verdict Verdict)

// codec is a format. It belongs to one Rewriter.
type codec interface {
	// next returns the length of the row, or whatever stands between rows, that
	// data begins with; 0 if it is not whole. It is asked again with more data
	// then, and does not look at what it has seen.
	next(data []byte) (length int, err error)
	// rewrite hands the values of what next has found to e.
	rewrite(e *editor, start, end int) error
	// finish tells whether the data may end here.
	finish() error
}

// Rewriter rewrites the data of one COPY. It belongs to one goroutine.
type Rewriter struct {
	layout Layout
	codec  codec
	editor editor
	held   []byte
	start  int // what is in front of it in held has been returned
}

// New returns a Rewriter. It fails if the layout makes no sense.
func New(layout Layout, treat Treat) (*Rewriter, error) {
	r := &Rewriter{layout: layout, editor: editor{treat: treat}}
	line := lines{layout: layout, header: layout.Header}
	switch {
	case layout.Columns < 0 || layout.MaxRow <= 0 || layout.MaxHeld <= 0 || treat == nil:
		return nil, fmt.Errorf("lay out copy data: %d columns, rows of %d, %d held", layout.Columns, layout.MaxRow, layout.MaxHeld)
	case layout.Format == Binary:
		r.codec = &binaryCodec{layout: layout}
		return r, nil
	case lineEnd(layout.Delimiter):
	case layout.Format == Text && layout.Delimiter != '\\' && !ambiguous(layout.Null):
		r.codec = newText(line)
		return r, nil
	case layout.Format == CSV && layout.Delimiter != layout.Quote && !lineEnd(layout.Quote) && !lineEnd(layout.Escape):
		r.codec = &csvCodec{lines: line}
		return r, nil
	}
	return nil, fmt.Errorf("lay out copy data: format %d, delimiter %q, quote %q", layout.Format, layout.Delimiter, layout.Quote)
}

// ambiguous reports whether a string for NULL in text format swallows what comes
// behind it, or looks like the end of the data.
func ambiguous(null string) bool {
	return escaped([]byte(null), len(null)) || null == `\.`
}

func lineEnd(c byte) bool { return c == '\n' || c == '\r' }

// Rewrite takes the next bytes of the data and returns what can be handed on, and
// how many values of it are others now. If all of data is handed on as it was, it
// returns data itself. The result is valid until the next call, and aliases data.
// An error is for good; it wraps [wire.ErrMalformed] or [wire.ErrTooLarge].
func (r *Rewriter) Rewrite(data []byte) (out []byte, masked int, err error) {
	source := data
	if keeps := r.start < len(r.held); keeps {
		r.held = append(append(r.held[:0], r.held[r.start:]...), data...)
		r.start, source = 0, r.held
	} else if cap(r.held) > 0 {
		r.held, r.start = r.held[:0], 0
	}
	r.editor.reset(source)
	done := 0
	for done < len(source) {
		n, err := r.codec.next(source[done:])
		if err != nil {
			return nil, 0, err
		}
		if n == 0 {
			break
		}
		if n > r.layout.MaxRow {
			return nil, 0, tooLarge("row", n)
		}
		if err := r.codec.rewrite(&r.editor, done, done+n); err != nil {
			return nil, 0, err
		}
		done += n
	}
	if left := len(source) - done; left > r.layout.MaxHeld {
		return nil, 0, tooLarge("part of a row", left)
	}
	r.keep(source, data, done)
	return r.editor.result(done), r.editor.masked, nil
}

// keep remembers what of source is behind done.
func (r *Rewriter) keep(source, data []byte, done int) {
	if len(data) > 0 && len(source) > 0 && &source[0] != &data[0] {
		r.start = done // source is what is held
		return
	}
	if done < len(source) {
		r.held, r.start = append(r.held[:0], source[done:]...), 0
	}
}

// Rows returns how many rows have been handed on.
func (r *Rewriter) Rows() uint64 { return r.editor.rows }

// Finish tells whether the data may end here. The error wraps
// [wire.ErrMalformed].
func (r *Rewriter) Finish() error {
	if r.start < len(r.held) {
		return malformed("end in the middle of a row")
	}
	return r.codec.finish()
}

func malformed(what string) error {
	return fmt.Errorf("rewrite copy data: %w: %s", wire.ErrMalformed, what)
}

func tooLarge(what string, n int) error {
	return fmt.Errorf("rewrite copy data: %w: %s of %d bytes", wire.ErrTooLarge, what, n)
}

// editor makes out of source what is handed on: source itself, as long as nothing
// is replaced.
type editor struct {
	treat  Treat
	source []byte
	out    []byte
	copied int // how much of source is in out
	masked int
	rows   uint64
}

func (e *editor) reset(source []byte) {
	const spare = 1 << 20
	if cap(e.out) > spare {
		e.out = nil
	}
	e.source, e.out, e.copied, e.masked = source, e.out[:0], 0, 0
}

// cut puts everything up to start into out and leaves out what is up to end. The
// caller appends what takes its place.
func (e *editor) cut(start, end int) {
	e.out = append(e.out, e.source[e.copied:start]...)
	e.copied = end
	e.masked++
}

// result returns what source became, up to end.
func (e *editor) result(end int) []byte {
	if e.masked == 0 {
		return e.source[:end]
	}
	e.out = append(e.out, e.source[e.copied:end]...)
	return e.out
}
