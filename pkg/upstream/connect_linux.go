package upstream

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// beginConnect sends the first packet of a connection. When package net connects the
// same socket right after it, a target on this host has answered already, and
// nobody has to wait for the poller. What goes wrong here, that second call says.
//
// The scheduler is not told of the call: the socket is in non-blocking mode, and on
// the way to this host the packet is delivered within it, for which a monitor would
// take the processor away.
func beginConnect(c syscall.RawConn, target Target) error {
	addr, port := target.Addr.Addr().Unmap(), target.Addr.Port()
	switch {
	case addr.Zone() != "":
		return nil // package net knows the zones of this namespace
	case addr.Is4():
		to := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(port), Addr: addr.As4()}
		return c.Control(func(fd uintptr) {
			_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		})
	default:
		to := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(port), Addr: addr.As16()}
		return c.Control(func(fd uintptr) {
			_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		})
	}
}

// networkOrder returns the number whose bytes in memory are those of n on the wire.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
