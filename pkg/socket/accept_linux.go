package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keepAlive is after how long the other end of an accepted connection is probed; as
// package net has it.
const keepAlive = 15 * time.Second

// Acceptor takes connections from a listening socket, by a descriptor of its own.
// Its methods may be called concurrently; several Accepts take turns.
type Acceptor struct {
	file *os.File
	raw  syscall.RawConn

	mu    sync.Mutex
	call  func(fd uintptr) bool
	fd    int
	errno syscall.Errno
	from  unix.RawSockaddrAny
}

// NewAcceptor returns an Acceptor for what tcp listens to. tcp stays the caller's,
// and its connections have the options that package net would give each of them.
func NewAcceptor(tcp *net.TCPListener) (*Acceptor, error) {
	file, err := tcp.File()
	if err != nil {
		return nil, fmt.Errorf("take listener: %w", err)
	}
	raw, err := file.SyscallConn()
	if err == nil {
		err = errors.Join(file.SetDeadline(time.Time{}), tune(raw)) // it must be able to wait
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take listener: %w", err), file.Close())
	}
	a := &Acceptor{file: file, raw: raw}
	a.call = a.attempt
	return a, nil
}

func tune(raw syscall.RawConn) (err error) {
	failed := raw.Control(func(fd uintptr) { err = Tune(int(fd), keepAlive) })
	return errors.Join(failed, err)
}

// Accept waits for the next connection. Its errors are those of [net.TCPListener].
func (a *Acceptor) Accept() (*Conn, error) {
	fd, from, err := a.next()
	if err != nil {
		return nil, err
	}
	return Own(fd, from)
}

func (a *Acceptor) next() (int, netip.AddrPort, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errno = 0
	err := ended(a.raw.Read(a.call))
	if err == nil && a.errno != 0 {
		err = os.NewSyscallError("accept4", a.errno)
	}
	if err != nil {
		return -1, netip.AddrPort{}, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	}
	return a.fd, addrPort(&a.from), nil
}

// attempt asks for a connection once, and reports whether there is an answer.
func (a *Acceptor) attempt(listener uintptr) bool {
	for {
		size := uint32(unsafe.Sizeof(a.from))
		fd, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&a.from)),
			uintptr(unsafe.Pointer(&size)), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			a.fd = int(fd)
			return true
		case syscall.EINTR, syscall.ECONNABORTED: // that one is gone; another may wait
		case syscall.EAGAIN:
			return false
		default:
			a.errno = errno
			return true
		}
	}
}

// SetDeadline makes Accept fail from t on; the zero time means never.
func (a *Acceptor) SetDeadline(t time.Time) error { return ended(a.file.SetDeadline(t)) }

// Close gives the descriptor back. The socket goes on listening for as long as the
// one that it was made of is open.
func (a *Acceptor) Close() error { return a.file.Close() }
