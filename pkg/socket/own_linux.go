package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

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

// Close closes the socket.
func (o *owned) Close() error {
	err := o.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return &net.OpError{Op: "close", Net: "tcp", Addr: o.RemoteAddr(), Err: net.ErrClosed}
	}
	return err
}

// CloseWrite ends the direction away from here.
func (o *owned) CloseWrite() error {
	return o.set("shutdown", func(fd uintptr) syscall.Errno {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SHUTDOWN, fd, syscall.SHUT_WR, 0)
		return errno
	})
}

// SetLinger is that of [net.TCPConn].
func (o *owned) SetLinger(sec int) error {
	linger := syscall.Linger{Onoff: 1, Linger: int32(max(0, sec))}
	if sec < 0 {
		linger.Onoff = 0
	}
	return o.set("setsockopt", func(fd uintptr) syscall.Errno {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_LINGER,
			uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
		return errno
	})
}

func (o *owned) set(op string, call func(fd uintptr) syscall.Errno) error {
	var errno syscall.Errno
	err := o.Control(func(fd uintptr) { errno = call(fd) })
	if err == nil && errno != 0 {
		err = os.NewSyscallError(op, errno)
	}
	if err != nil {
		return &net.OpError{Op: "set", Net: "tcp", Addr: o.RemoteAddr(), Err: err}
	}
	return nil
}

// SetDeadline is that of [net.Conn].
func (o *owned) SetDeadline(t time.Time) error { return ended(o.file.SetDeadline(t)) }

// SetReadDeadline is that of [net.Conn].
func (o *owned) SetReadDeadline(t time.Time) error { return ended(o.file.SetReadDeadline(t)) }

// SetWriteDeadline is that of [net.Conn].
func (o *owned) SetWriteDeadline(t time.Time) error { return ended(o.file.SetWriteDeadline(t)) }

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
