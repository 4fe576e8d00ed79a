package protocoltest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeLimit is how many bytes one direction of a pipe holds before Write waits.
const pipeLimit = 1 << 20

// end is one end of a connection in memory. It behaves like TCP where protocols
// can tell: buffered, with half-close, resets and deadlines.
type end struct {
	in, out *stream
	// cut returns how many of n available bytes, at least one, a Read may see.
	cut           func(n int) int
	local, remote net.Addr
}

// newPipe returns the two ends of a connection. Only reads of the first one,
// the end that the protocol has, are cut.
func newPipe(cut func(n int) int, local, remote net.Addr) (inner, outer *end) {
	a, b := newStream(), newStream()
	whole := func(n int) int { return n }
	return &end{in: a, out: b, cut: cut, local: local, remote: remote},
		&end{in: b, out: a, cut: whole, local: remote, remote: local}
}

func (e *end) Read(p []byte) (int, error)  { return e.in.read(p, e.cut) }
func (e *end) Write(p []byte) (int, error) { return e.out.write(p) }
func (e *end) LocalAddr() net.Addr         { return e.local }
func (e *end) RemoteAddr() net.Addr        { return e.remote }

// CloseWrite ends the sending direction.
func (e *end) CloseWrite() error {
	e.out.change(func(s *stream) { s.ended = true })
	return nil
}

// Close ends both directions. What was sent before can still be read.
func (e *end) Close() error {
	var closed bool
	e.in.change(func(s *stream) { closed, s.unread, s.buffer = s.unread, true, nil })
	if closed {
		return net.ErrClosed
	}
	return e.CloseWrite()
}

// reset ends both directions; the other end loses what it hasn't read.
func (e *end) reset() error {
	e.out.change(func(s *stream) { s.reset, s.buffer = true, nil })
	return e.Close()
}

// closed reports whether this end was closed by its owner.
func (e *end) closed() bool {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	return e.in.unread
}

func (e *end) SetDeadline(t time.Time) error {
	return errors.Join(e.SetReadDeadline(t), e.SetWriteDeadline(t))
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.change(func(s *stream) { s.readLimit.set(t, s) })
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.out.change(func(s *stream) { s.writeLimit.set(t, s) })
	return nil
}

// stream is one direction of a pipe.
type stream struct {
	mu      sync.Mutex
	changed *sync.Cond
	buffer  []byte
	ended   bool // the writer has ended it
	unread  bool // the reader has closed it
	reset   bool

	readLimit, writeLimit limit
}

func newStream() *stream {
	s := &stream{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *stream) change(f func(*stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
	s.changed.Broadcast()
}

func (s *stream) read(p []byte, cut func(int) int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.unread:
			return 0, net.ErrClosed
		case s.readLimit.passed():
			return 0, os.ErrDeadlineExceeded
		case s.reset:
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
		case len(p) == 0:
			return 0, nil
		case len(s.buffer) > 0:
			n := copy(p, s.buffer[:cut(min(len(p), len(s.buffer)))])
			s.buffer = s.buffer[n:]
			s.changed.Broadcast()
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	written := 0
	for {
		switch {
		case s.ended:
			return written, net.ErrClosed
		case s.writeLimit.passed():
			return written, os.ErrDeadlineExceeded
		case s.unread:
			return written, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
		}
		n := min(len(p), pipeLimit-len(s.buffer))
		s.buffer = append(s.buffer, p[:n]...)
		p, written = p[n:], written+n
		s.changed.Broadcast()
		if len(p) == 0 {
			return written, nil
		}
		s.changed.Wait()
	}
}

// limit is a deadline. The zero limit never passes.
type limit struct {
	at    time.Time
	timer *time.Timer
}

func (l *limit) set(t time.Time, s *stream) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.at = t
	if left := time.Until(t); !t.IsZero() && left > 0 {
		l.timer = time.AfterFunc(left, func() { s.change(func(*stream) {}) })
	}
}

func (l *limit) passed() bool { return !l.at.IsZero() && !time.Now().Before(l.at) }
