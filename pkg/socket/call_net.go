//go:build !linux || race

package socket

import (
	"errors"
	"syscall"
)

// The race detector learns from package syscall, and not from raw calls, what one
// goroutine has told another by way of a socket.

func (d *direction) receive(fd uintptr) bool { return d.attempt(syscall.Read, fd) }

func (d *direction) send(fd uintptr) bool { return d.attempt(syscall.Write, fd) }

func (d *direction) attempt(call func(fd int, p []byte) (int, error), fd uintptr) bool {
	for {
		n, err := call(int(fd), d.p)
		var errno syscall.Errno
		switch {
		case err == nil:
			d.n = n
			return true
		case !errors.As(err, &errno):
			d.errno = syscall.EIO
			return true
		case errno == syscall.EAGAIN:
			return false
		case errno != syscall.EINTR:
			d.errno = errno
			return true
		}
	}
}
