package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Own returns a Conn for fd, a TCP socket in non-blocking mode, and its other end.
// The Conn owns fd, and so does Own where it fails. What package net asks of each
// new socket, its kind, its addresses, its options, is the caller's to know.
func Own(fd int, remote netip.AddrPort) (*Conn, error) {
	o := &owned{file: os.NewFile(uintptr(fd), "socket"), remote: remote}
	if o.file == nil {
		return nil, fmt.Errorf("take socket: %w", syscall.EBADF)
	}
	// One that the poller did not take could not wait; package os does not tell.
	err := o.file.SetDeadline(time.Time{})
	if err == nil {
		o.raw, err = o.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take socket: %w", err), o.file.Close())
	}
	return over(o)
}

// owned is a socket that package net never saw. The poller knows it as a file.
type owned struct {
	file   *os.File
	raw    syscall.RawConn
	remote netip.AddrPort
}

// ended gives the errors of a file that is closed the form that those of a
// connection have.
func ended(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	// There is no other: that it can be waited for, Own has seen.
	return net.ErrClosed
}

// SyscallConn returns the socket, for as long as it is open.
func (o *owned) SyscallConn() (syscall.RawConn, error) { return o, nil }

// Control implements [syscall.RawConn].
func (o *owned) Control(f func(fd uintptr)) error { return ended(o.raw.Control(f)) }

// Read implements [syscall.RawConn].
func (o *owned) Read(f func(fd uintptr) bool) error { return ended(o.raw.Read(f)) }

// Write implements [syscall.RawConn].
func (o *owned) Write(f func(fd uintptr) bool) error { return ended(o.raw.Write(f)) }

// failure gives an error the form that errors of package net have.
func (o *owned) failure(op string, err error) error {
	if err = ended(err); err != nil {
		return &net.OpError{Op: op, Net: "tcp", Addr: o.RemoteAddr(), Err: err}
	}
	return nil
}

// Close closes the socket.
func (o *owned) Close() error {
	err := o.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return o.failure("close", err)
	}
	return err
}

// CloseWrite ends the direction away from here.
func (o *owned) CloseWrite() error {
	var errno syscall.Errno
	err := o.raw.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(syscall.SYS_SHUTDOWN, fd, syscall.SHUT_WR, 0)
	})
	if err == nil && errno != 0 {
		return &net.OpError{Op: "close", Net: "tcp", Addr: o.RemoteAddr(), Err: os.NewSyscallError("shutdown", errno)}
	}
	return o.failure("close", err)
}

// SetLinger is that of [net.TCPConn].
func (o *owned) SetLinger(sec int) error {
	linger := unix.Linger{Onoff: 1, Linger: int32(max(0, sec))}
	if sec < 0 {
		linger.Onoff = 0
	}
	var failed error
	err := o.raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &linger)
	})
	if err == nil && failed != nil {
		return &net.OpError{Op: "set", Net: "tcp", Addr: o.RemoteAddr(), Err: os.NewSyscallError("setsockopt", failed)}
	}
	return o.failure("set", err)
}

// SetDeadline is that of [net.Conn].
func (o *owned) SetDeadline(t time.Time) error { return o.failure("set", o.file.SetDeadline(t)) }

// SetReadDeadline is that of [net.Conn].
func (o *owned) SetReadDeadline(t time.Time) error {
	return o.failure("set", o.file.SetReadDeadline(t))
}

// SetWriteDeadline is that of [net.Conn].
func (o *owned) SetWriteDeadline(t time.Time) error {
	return o.failure("set", o.file.SetWriteDeadline(t))
}

// RemoteAddr returns the other end.
func (o *owned) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(o.remote) }

// LocalAddr asks for this end: hardly anybody wants to know. It is nil once the
// socket is closed.
func (o *owned) LocalAddr() net.Addr {
	var local netip.AddrPort
	if err := o.Control(func(fd uintptr) { local = Name(int(fd)) }); err != nil || !local.IsValid() {
		return nil
	}
	return net.TCPAddrFromAddrPort(local)
}
