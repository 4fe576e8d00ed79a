package transparent

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/headgate/headgate/pkg/socket"
)

// MaxPeek bounds, in bytes, what [Conn.Fill] reads ahead: enough for a TLS
// ClientHello with post-quantum key shares, far less than an agent could send.
const MaxPeek = 16 << 10

// ErrPeekFull is returned by [Conn.Fill] when [MaxPeek] bytes are waiting
// unread.
var ErrPeekFull = errors.New("peek buffer is full")

// Conn is a redirected connection together with its origin. It can be looked
// into without consuming anything: what [Conn.Fill] saw, Read returns first.
//
// Like any net.Conn it may be read and written concurrently; Fill and Read
// belong to the same reader and may not run at the same time.
type Conn struct {
	net.Conn
	Origin Origin

	peeked []byte
}

// NewConn returns a Conn that owns down: closing it closes down.
func NewConn(down net.Conn, origin Origin) *Conn {
	return &Conn{Conn: down, Origin: origin}
}

// Peeked returns what was read ahead and not yet consumed. The slice is valid
// until the next call of Fill or Read and must not be changed.
func (c *Conn) Peeked() []byte { return c.peeked }

// Fill reads once from the connection, appends to what was peeked before, and
// returns all of it. It honours the read deadline. The slice is valid until the
// next call of Fill or Read and must not be changed.
func (c *Conn) Fill() ([]byte, error) {
	if len(c.peeked) >= MaxPeek {
		return c.peeked, ErrPeekFull
	}
	var chunk [4096]byte
	room := min(len(chunk), MaxPeek-len(c.peeked))
	n, err := c.Conn.Read(chunk[:room])
	c.peeked = append(c.peeked, chunk[:n]...)
	if n > 0 {
		return c.peeked, nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return c.peeked, fmt.Errorf("peek downstream: %w", err)
}

// Read returns what was peeked, then what the connection has.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.peeked) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.peeked)
	c.peeked = c.peeked[n:]
	if len(c.peeked) == 0 {
		c.peeked = nil
	}
	return n, nil
}

// ReadLent is Read into what l lends; see [socket.Conn.ReadLent]. The error is
// [errors.ErrUnsupported] where the connection cannot wait without a buffer.
func (c *Conn) ReadLent(l socket.Lender) (int, error) {
	lent, ok := c.Conn.(*socket.Conn)
	switch {
	case !ok:
		return 0, errors.ErrUnsupported
	case len(c.peeked) > 0:
		return c.Read(l.Lend())
	}
	return lent.ReadLent(l)
}

// CloseWrite ends the downstream direction and leaves the other one open.
// A connection without half-close returns an error.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Reset closes the connection so that the agent sees a reset rather than an
// orderly end, where the transport can say so.
func (c *Conn) Reset() error { return reset(c.Conn) }

func reset(conn net.Conn) error {
	var lingerErr error
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		lingerErr = tcp.SetLinger(0)
	}
	return errors.Join(lingerErr, conn.Close())
}
