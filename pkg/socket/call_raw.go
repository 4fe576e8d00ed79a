//go:build linux && !race

package socket

import (
	"syscall"
	"unsafe"
)

// receive asks the socket once, and reports whether there is an answer.
func (d *direction) receive(fd uintptr) bool { return d.attempt(syscall.SYS_RECVFROM, fd, 0) }

// send offers the socket what is left, and reports whether there is an answer.
func (d *direction) send(fd uintptr) bool {
	return d.attempt(syscall.SYS_SENDTO, fd, syscall.MSG_NOSIGNAL)
}

// attempt makes one call of recvfrom(2) or sendto(2) without an address. The socket
// is in non-blocking mode, as all of package net's are, and MSG_DONTWAIT says it
// again, since a call that waits would stop everything else on its processor.
func (d *direction) attempt(call, fd, flags uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(d.p))), uintptr(len(d.p)),
			flags|syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			d.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			d.errno = errno
			return true
		}
	}
}
