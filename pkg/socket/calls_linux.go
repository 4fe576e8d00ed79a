package socket

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Open makes a socket in non-blocking mode, in the network namespace that the
// thread is in.
func Open(family, kind int) (int, error) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	return int(fd), nil
}

// Netns returns the cookie of a socket's network namespace (Linux 5.14).
func Netns(fd int) (uint64, error) {
	var cookie uint64
	size := uint32(unsafe.Sizeof(cookie))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE,
		uintptr(unsafe.Pointer(&cookie)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	return cookie, nil
}

// Connect begins to connect a socket of the address's family, which has no zone but
// the number of an interface instead, or 0. It returns 0 if the socket is connected
// then, EINPROGRESS if that is to be waited for, or why it will not be.
func Connect(fd int, to netip.AddrPort, zone uint32) syscall.Errno {
	errno := connect(fd, to, zone)
	if errno == unix.EINPROGRESS {
		// The answer of a target on this host is there by now: the kernel takes it in
		// as the call returns, and tells when it is asked again.
		errno = connect(fd, to, zone)
	}
	switch errno {
	case unix.EINTR, unix.EALREADY: // it goes on (connect(2))
		return unix.EINPROGRESS
	case unix.EISCONN:
		return 0
	default:
		return errno
	}
}

func connect(fd int, to netip.AddrPort, zone uint32) (errno syscall.Errno) {
	if to.Addr().Is4() {
		name := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swapped(to.Port()), Addr: to.Addr().As4()}
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name)), unsafe.Sizeof(name))
	} else {
		name := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swapped(to.Port()), Addr: to.Addr().As16(), Scope_id: zone}
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name)), unsafe.Sizeof(name))
	}
	return errno
}

// SetInt sets an option of a socket. As everything in this file it does not tell
// the scheduler: what it asks for is done at once.
func SetInt(fd, level, option, value int) error {
	v := int32(value)
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// Tune gives a TCP socket the options that package net gives its own: nothing waits
// to be sent together with what may come, and the other end is probed while nothing
// is said. What a listener accepts has them from the listener.
func Tune(fd int, keepAlive time.Duration) error {
	seconds := int(max(keepAlive, time.Second) / time.Second)
	return errors.Join(
		SetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		SetInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds),
		SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds),
	)
}

// Name returns the address of this end, or the zero value.
func Name(fd int) netip.AddrPort {
	var name unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(name))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addrPort(&name)
}

// addrPort reads what the kernel wrote. What is not of the internet has none.
func addrPort(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swapped(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), swapped(in.Port))
	}
	return netip.AddrPort{}
}

// swapped makes a number of one whose bytes in memory are those on the wire, and
// the other way round.
func swapped(n uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return binary.BigEndian.Uint16(b[:])
}
