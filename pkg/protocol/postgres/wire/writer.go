package wire

import (
	"encoding/binary"
	"io"
	"sync"
)

// Writer batches messages. Its methods may be called concurrently; each call is
// one message or a whole part of the stream, so two callers never interleave
// inside a message, except between the parts of a streamed one.
type Writer struct {
	mu   sync.Mutex
	sink io.Writer
	hold *block // what buf is in; nil if nothing is buffered
	buf  []byte
	used int // how much of hold was sent from at a time, at most
	err  error
}

const flushAt = 64 << 10

// NewWriter returns a Writer to sink.
func NewWriter(sink io.Writer) *Writer { return &Writer{sink: sink} }

// Write buffers p, or sends what was buffered and p if that is a lot. p is not
// kept. Once an error occurred it stays.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && len(w.buf)+len(p) <= cap(w.buf) {
		w.buf = append(w.buf, p...) // nearly all messages
		return len(p), nil
	}
	return w.write(p)
}

// write is Write where there is no room. mu is held.
func (w *Writer) write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if len(w.buf)+len(p) > flushAt {
		if err := w.flush(); err != nil {
			return 0, err
		}
		if len(p) > flushAt {
			_, w.err = w.sink.Write(p)
			return len(p), w.err
		}
	}
	w.room(len(p))
	w.buf = append(w.buf, p...)
	return len(p), nil
}

// room makes the buffer large enough for n bytes more, which are no more than
// flushAt together with what it holds.
func (w *Writer) room(n int) {
	need := len(w.buf) + n
	if need <= cap(w.buf) {
		return
	}
	grown := take(need)
	kept := copy(grown.bytes, w.buf)
	w.hold.giveBack(max(kept, w.used))
	w.hold, w.buf, w.used = grown, grown.bytes[:kept], 0
}

// Flush sends what was buffered. Until the next Write no memory is held.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.flush()
	w.hold.giveBack(max(w.used, len(w.buf)))
	w.hold, w.buf, w.used = nil, nil, 0
	return err
}

func (w *Writer) flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	_, w.err = w.sink.Write(w.buf)
	w.used = max(w.used, len(w.buf))
	w.buf = w.buf[:0]
	return w.err
}

// Begin appends the header of a message whose body the caller appends, and
// returns the extended buffer and the mark that [Finish] needs.
func Begin(dst []byte, typ byte) (out []byte, mark int) {
	return append(dst, typ, 0, 0, 0, 0), len(dst)
}

// Finish sets the length of the message that began at mark.
func Finish(dst []byte, mark int) []byte {
	binary.BigEndian.PutUint32(dst[mark+1:], uint32(len(dst)-mark-1))
	return dst
}
