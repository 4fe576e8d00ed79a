package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/headgate/headgate/pkg/socket"
)

// BufferSize is the largest number of bytes that a [Reader] keeps buffered; a
// message of at most this size is handed out without being copied.
const BufferSize = 128 << 10

const headerSize = 5

// Limits returns the largest body, in bytes, that a type may have, and false
// for a type that may not occur.
type Limits func(typ byte) (limit int, known bool)

// Reader frames typed messages: a type byte, an int32 length that counts
// itself, and a body. It belongs to one goroutine.
//
// For each message call [Reader.Next] and then exactly one of [Reader.Raw],
// [Reader.CopyTo] and [Reader.Discard].
type Reader struct {
	source     io.Reader
	lent       lentReader // source, if it can wait without a buffer
	limits     Limits
	hold       *block // what buf is; nil while nothing is buffered
	buf        []byte
	want       int // how large a buffer has been of use
	used       int // how much of buf was read into
	start, end int // what is buffered and not handed out
	body       int // length of the current message's body
	open       bool
	scratch    []byte // for a message that does not fit the buffer
	spare      *block // where scratch is, nil if that is nobody else's
}

// NewReader returns a Reader of source. A nil limits lets every type and size
// pass.
func NewReader(source io.Reader, limits Limits) *Reader {
	if limits == nil {
		limits = func(byte) (int, bool) { return 1<<31 - 1, true }
	}
	lent, _ := source.(lentReader)
	return &Reader{source: source, lent: lent, limits: limits}
}

// lentReader is a source that asks for a buffer when there is something to read,
// as a [socket.Conn]. It returns [errors.ErrUnsupported], always and before it reads
// anything, if it stands for one that cannot.
type lentReader interface {
	ReadLent(l socket.Lender) (int, error)
}

// Buffered reports whether a whole message waits, so that reading it will not
// block.
func (r *Reader) Buffered() bool {
	have := r.end - r.start
	if have < headerSize {
		return false
	}
	return have >= 1+int(int32(binary.BigEndian.Uint32(r.buf[r.start+1:])))
}

// Next reads the header of the next message and returns its type and the length
// of its body. It returns io.EOF where the stream ends between two messages, and
// an error that wraps io.ErrUnexpectedEOF, [ErrMalformed] or [ErrTooLarge].
func (r *Reader) Next() (typ byte, length int, err error) {
	if r.open {
		return 0, 0, errUnread
	}
	r.Release()
	if r.start == r.end {
		err = r.fill() // sessions wait here
	}
	if err == nil {
		err = r.need(headerSize)
	}
	if err != nil {
		return 0, 0, r.headless(err)
	}
	return r.header()
}

// errUnread says that the caller has not taken the body of a message.
var errUnread = errors.New("read message: the one before was not read")

// headless is the error where a header did not come whole. It and [Reader.header]
// are apart from Next since sessions wait there for hours, and what they have on the
// stack meanwhile decides how large a stack they keep: errors take much room.
func (r *Reader) headless(err error) error {
	if errors.Is(err, io.EOF) && r.start == r.end {
		return io.EOF
	}
	return fmt.Errorf("read message header: %w", truncated(err))
}

// header reads the header that is buffered.
func (r *Reader) header() (typ byte, length int, err error) {
	typ = r.buf[r.start]
	n := int64(int32(binary.BigEndian.Uint32(r.buf[r.start+1:])))
	if n < 4 {
		return typ, 0, fmt.Errorf("read message %s: %w: length %d", Name(typ), ErrMalformed, n)
	}
	limit, known := r.limits(typ)
	if !known {
		return typ, 0, fmt.Errorf("read message: %w: unexpected type %s", ErrMalformed, Name(typ))
	}
	if n-4 > int64(limit) {
		return typ, 0, fmt.Errorf("read message %s: %w: %d bytes", Name(typ), ErrTooLarge, n-4)
	}
	r.body, r.open = int(n-4), true
	return typ, r.body, nil
}

// Peek returns the type of the next message and takes nothing. It waits for the
// message's header, and returns what [Reader.Next] would where there is none.
func (r *Reader) Peek() (typ byte, err error) {
	if r.open {
		return 0, errUnread
	}
	if err := r.need(headerSize); err != nil {
		return 0, r.headless(err)
	}
	return r.buf[r.start], nil
}

// Raw returns the whole message, header included; its body is raw[5:]. The slice
// is valid until the following call of Next and may be changed. A body longer
// than limit is not read; the error wraps [ErrTooLarge] and the message can
// still be discarded or copied.
func (r *Reader) Raw(limit int) ([]byte, error) {
	if r.body > limit {
		return nil, fmt.Errorf("read message body: %w: %d bytes", ErrTooLarge, r.body)
	}
	size := headerSize + r.body
	r.open = false
	if size <= BufferSize {
		if err := r.need(size); err != nil {
			return nil, fmt.Errorf("read message body: %w", truncated(err))
		}
		raw := r.buf[r.start : r.start+size : r.start+size]
		r.start += size
		return raw, nil
	}
	return r.grow(size)
}

// grow collects a message larger than the buffer. It takes memory as bytes arrive,
// not as the header promises.
func (r *Reader) grow(size int) ([]byte, error) {
	r.widen(size, r.buf[r.start:r.end])
	r.start, r.end = 0, 0
	for len(r.scratch) < size {
		if len(r.scratch) == cap(r.scratch) {
			r.widen(size, r.scratch)
		}
		n, err := r.source.Read(r.scratch[len(r.scratch):cap(r.scratch)])
		r.scratch = r.scratch[:len(r.scratch)+n]
		if err != nil && len(r.scratch) < size {
			return nil, fmt.Errorf("read message body: %w", truncated(err))
		}
	}
	return r.scratch, nil
}

// widen moves what there is of a message of that size to where there is room for
// four times as much.
func (r *Reader) widen(size int, there []byte) {
	n := min(size, max(2*BufferSize, 4*len(there)))
	left := r.spare
	if n <= largeBuffer {
		r.spare = take(n)
		r.scratch = append(r.spare.bytes[:0:n], there...)
	} else {
		r.spare = nil
		r.scratch = append(make([]byte, 0, n), there...)
	}
	left.giveBack(len(there))
}

// CopyTo writes the whole message, header included, to w as it arrives. After an
// error w may have a part of it.
func (r *Reader) CopyTo(w io.Writer) (int64, error) {
	return r.stream(w)
}

// Discard reads the message and drops it.
func (r *Reader) Discard() error {
	_, err := r.stream(io.Discard)
	return err
}

func (r *Reader) stream(w io.Writer) (written int64, err error) {
	r.open = false
	for left := headerSize + r.body; left > 0; {
		if r.start == r.end {
			if err := r.fill(); err != nil {
				return written, fmt.Errorf("read message body: %w", truncated(err))
			}
		}
		n := min(left, r.end-r.start)
		if _, err := w.Write(r.buf[r.start : r.start+n]); err != nil {
			return written, fmt.Errorf("copy message body: %w", err)
		}
		r.start += n
		left -= n
		written += int64(n)
	}
	return written, nil
}

// Release drops the memory of a message that did not fit the buffer. What Raw
// returned is not valid any more.
func (r *Reader) Release() {
	r.spare.giveBack(len(r.scratch))
	r.spare, r.scratch = nil, nil
}

// need makes n bytes, at most BufferSize, available at r.start.
func (r *Reader) need(n int) error {
	for r.end-r.start < n {
		if r.start > 0 && r.start+n > len(r.buf) {
			r.end = copy(r.buf, r.buf[r.start:r.end])
			r.start = 0
		}
		if n > len(r.buf) {
			r.resize(n)
		}
		if err := r.fill(); err != nil {
			return err
		}
	}
	return nil
}

// fill reads once. It moves nothing unless the buffer is used up.
func (r *Reader) fill() error {
	if r.start == r.end {
		r.start, r.end = 0, 0
	} else if r.end == len(r.buf) {
		if r.start > 0 {
			r.end = copy(r.buf, r.buf[r.start:r.end])
			r.start = 0
		} else {
			r.resize(len(r.buf) + 1)
		}
	}
	for range 100 {
		n, err := r.read()
		r.end += n
		r.used = max(r.used, r.end)
		if n > 0 {
			if r.end == len(r.buf) && len(r.buf) < BufferSize {
				r.resize(4 * len(r.buf)) // there is more to come
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// read reads behind what is buffered. Where nothing is, no buffer is held while it
// waits, if the source can do that, and a small one otherwise.
func (r *Reader) read() (int, error) {
	if r.end > 0 {
		return r.source.Read(r.buf[r.end:])
	}
	if r.lent != nil {
		n, err := r.lent.ReadLent(r)
		if !errors.Is(err, errors.ErrUnsupported) {
			return n, err
		}
		r.lent = nil
	}
	if len(r.buf) > smallBuffer {
		r.Return()
	}
	if r.hold == nil {
		r.have(take(smallBuffer))
	}
	return r.source.Read(r.buf)
}

// Lend implements [socket.Lender] for the source.
func (r *Reader) Lend() []byte {
	if r.hold == nil {
		r.have(take(r.want))
	}
	return r.buf
}

// Return implements [socket.Lender] for the source.
func (r *Reader) Return() {
	r.hold.giveBack(r.used)
	r.hold, r.buf, r.used = nil, nil, 0
}

func (r *Reader) have(b *block) { r.hold, r.buf = b, b.bytes }

// resize grows the buffer, and remembers that it was of use.
func (r *Reader) resize(n int) {
	if n <= len(r.buf) || len(r.buf) == BufferSize {
		return
	}
	grown := take(min(n, BufferSize))
	kept := copy(grown.bytes, r.buf[r.start:r.end])
	r.Return()
	r.have(grown)
	r.start, r.end, r.used, r.want = 0, kept, kept, len(grown.bytes)
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Name renders a type for an error: the letter, or its number.
func Name(typ byte) string {
	if typ > ' ' && typ < 0x7f {
		return "'" + string(rune(typ)) + "'"
	}
	return fmt.Sprintf("0x%02x", typ)
}

// SetLimits replaces the limits for the messages that follow.
func (r *Reader) SetLimits(limits Limits) { r.limits = limits }
