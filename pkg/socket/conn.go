package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxCall bounds what is given to one system call, in bytes: nothing else runs on
// the processor until it returns.
const maxCall = 64 << 10

// Conn is a TCP connection. Everything but Read and Write is the embedded
// carrier's, deadlines and Close included: they end what waits in Read and
// Write. Its methods may be called concurrently; several Reads take turns, and so
// do several Writes.
type Conn struct {
	carrier
	read, write direction
}

// carrier is what has the socket: package net, or [Own].
type carrier interface {
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	SetLinger(sec int) error
	SyscallConn() (syscall.RawConn, error)
	CloseWrite() error
	Close() error
}

// direction is one way of a connection. What is passed to the system call is kept
// here rather than in a closure, which would be allocated for each call.
type direction struct {
	mu    sync.Mutex
	raw   syscall.RawConn
	sends bool // into the connection
	try   func(fd uintptr) bool
	p     []byte
	n     int
	errno syscall.Errno
	// lender has p while a ReadLent runs; nil otherwise.
	lender Lender
}

// New returns a Conn that owns tcp: closing it closes tcp, which must not be read
// or written by other means any more. The error is that of a connection that is
// closed already; tcp is the caller's then.
func New(tcp *net.TCPConn) (*Conn, error) { return over(tcp) }

func over(c carrier) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	conn := &Conn{carrier: c}
	conn.read.raw, conn.read.try = raw, conn.read.borrow
	conn.write.raw, conn.write.try, conn.write.sends = raw, conn.write.send, true
	return conn, nil
}

// Read reads once, at most len(p) bytes. Its errors are those of [net.TCPConn].
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.received(c.read.once(p))
}

// received is what a reader is told of a call that received n bytes.
func (c *Conn) received(n int, err error) (int, error) {
	if err == nil && n == 0 {
		return 0, io.EOF
	}
	if err != nil {
		return n, c.failure("read", err)
	}
	return n, nil
}

// Write writes all of p, or returns an error. Its errors are those of
// [net.TCPConn].
func (c *Conn) Write(p []byte) (written int, err error) {
	c.write.mu.Lock()
	defer c.write.mu.Unlock()
	for written < len(p) {
		n, err := c.write.call(p[written:])
		written += n
		if err != nil {
			return written, c.failure("write", err)
		}
	}
	return written, nil
}

// failure gives an error the form that errors of package net have.
func (c *Conn) failure(op string, err error) error {
	var whole *net.OpError
	if errors.As(err, &whole) {
		err = whole.Err // package net calls it raw-read and raw-write
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (d *direction) once(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.call(p)
}

// call makes one system call that moves something, waiting for as long as there is
// nothing to move. mu is held.
func (d *direction) call(p []byte) (int, error) {
	d.p, d.n, d.errno = p[:min(len(p), maxCall)], 0, 0
	var err error
	if d.sends {
		err = d.raw.Write(d.try)
	} else {
		err = d.raw.Read(d.try)
	}
	d.p = nil // it is the caller's
	if err == nil && d.errno != 0 {
		err = os.NewSyscallError("", d.errno)
	}
	return d.n, err
}
