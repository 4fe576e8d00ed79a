// Package datagram makes a stream of datagrams: each is preceded by its length
// in two bytes, big-endian, as DNS over TCP has it (RFC 7766, section 8). So
// what speaks a protocol over TCP can speak it over UDP as well.
//
// It is used on both sides, for the agent's flows and for dialled sockets.
package datagram

import (
	"encoding/binary"
	"net"
	"sync"
)

// MaxSize bounds one datagram, in bytes: what two bytes of length can say, and
// more than UDP can carry.
const MaxSize = 1<<16 - 1

const lengthBytes = 2

// Reader is what a connection of messages may implement so that no buffer waits
// for its next one.
type Reader interface {
	// ReadDatagram returns the next datagram, at most MaxSize bytes, in a slice
	// that is the caller's.
	ReadDatagram() ([]byte, error)
}

// Conn frames a connection that keeps the boundaries of messages. Like any
// net.Conn it may be read and written concurrently. It has no half-close.
type Conn struct {
	// Conn is the connection of messages: one Read returns one datagram, one
	// Write sends one.
	net.Conn

	reading sync.Mutex
	length  [lengthBytes]byte
	head    []byte // what is left to read of length
	body    []byte // what is left to read of the datagram behind it
	buffer  []byte // where it is, unless the connection is a Reader

	writing sync.Mutex
	partial []byte // the beginning of a message, with its length
}

// NewConn returns the stream of messages. It owns them: Close closes them.
func NewConn(messages net.Conn) *Conn { return &Conn{Conn: messages} }

// Read returns the next bytes of the stream. What of a datagram does not fit
// into p is returned by the calls that follow. It waits for a datagram only if
// none was begun. Deadlines and errors are those of the connection of messages.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.head)+len(c.body) == 0 {
		body, err := c.next()
		if err != nil {
			return 0, err
		}
		c.body = body
		binary.BigEndian.PutUint16(c.length[:], uint16(len(c.body)))
		c.head = c.length[:]
	}
	n := copy(p, c.head)
	c.head = c.head[n:]
	m := copy(p[n:], c.body)
	c.body = c.body[m:]
	return n + m, nil
}

func (c *Conn) next() ([]byte, error) {
	if r, ok := c.Conn.(Reader); ok {
		return r.ReadDatagram()
	}
	if c.buffer == nil {
		c.buffer = make([]byte, MaxSize)
	}
	n, err := c.Conn.Read(c.buffer)
	return c.buffer[:n], err
}

// Write takes framed messages, whole or in pieces, and sends each once it is
// complete. A message that could not be sent is lost, as datagrams may be, and
// counts as written: the stream stays in step after an error. What followed it
// in p was not taken.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	taken := 0
	for taken < len(p) {
		taken += c.take(p[taken:])
		if c.missing() > 0 {
			continue
		}
		message := c.partial[lengthBytes:]
		c.partial = c.partial[:0]
		if _, err := c.Conn.Write(message); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// take moves what belongs to the current message out of p, at most as far as is
// known of its length, and returns how much that was.
func (c *Conn) take(p []byte) int {
	n := min(len(p), c.missing())
	c.partial = append(c.partial, p[:n]...)
	return n
}

// missing returns how many bytes the current message, or its length, wants.
func (c *Conn) missing() int {
	if len(c.partial) < lengthBytes {
		return lengthBytes - len(c.partial)
	}
	return lengthBytes + int(binary.BigEndian.Uint16(c.partial)) - len(c.partial)
}
