package main

import (
	"encoding/binary"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func udpWays() map[string]attempt {
	return map[string]attempt{
		"udp-connect":     udpConnect,  // ADDR
		"udp-sendto":      udpSendto,   // ADDR
		"udp-sendmmsg":    udpSendmmsg, // ADDR
		"udp-4on6":        udp4on6,     // ADDR: an AF_INET address on an AF_INET6 socket
		"udp-reconnect":   udpReconnect,
		"udp-quic":        udpQUIC,
		"udp-uring-send":  uringSend,
		"udp-uring-msg":   uringSendmsg,
		"udplite":         func(a []string) (string, error) { return datagramOf(a, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE) },
		"udplite-connect": func(a []string) (string, error) { return connectedOf(a, unix.IPPROTO_UDPLITE) },
	}
}

// rawTarget is the sockaddr of an address as the kernel wants it.
func rawTarget(s string) []byte {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		os.Exit(2)
	}
	if a.Addr().Is4() {
		b := make([]byte, 16)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		ip := a.Addr().As4()
		copy(b[4:], ip[:])
		return b
	}
	b := make([]byte, 28)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	ip := a.Addr().As16()
	copy(b[8:], ip[:])
	return b
}

func rawConnect(fd int, sa []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	if errno != 0 {
		return errno
	}
	return nil
}

// datagram waits a moment for an answer.
func datagram(fd int) (string, error) {
	if err := shorter(fd); err != nil {
		return "", err
	}
	return line(fd)
}

func udpConnect(args []string) (string, error) { return connectedOf(args, 0) }
func udpSendto(args []string) (string, error)  { return datagramOf(args, unix.SOCK_DGRAM, 0) }

func connectedOf(args []string, protocol int) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, protocol)
	if err != nil {
		return "", err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return "", at("connect", err)
	}
	if err := write(fd, "escape\n"); err != nil {
		return "", err
	}
	return datagram(fd)
}

func datagramOf(args []string, kind, protocol int) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, kind, protocol)
	if err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, []byte("escape\n"), 0, sa); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}

type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

func udpSendmmsg(args []string) (string, error) {
	need(args, 1)
	family, _ := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	to, text := rawTarget(args[0]), []byte("escape\n")
	iov := unix.Iovec{Base: &text[0], Len: uint64(len(text))}
	var messages [3]mmsghdr
	for i := range messages {
		messages[i].header = unix.Msghdr{Name: &to[0], Namelen: uint32(len(to)), Iov: &iov, Iovlen: 1}
	}
	_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), 0, 0, 0)
	if errno != 0 {
		return "", at("sendmmsg", errno)
	}
	return datagram(fd)
}

func udp4on6(args []string) (string, error) {
	need(args, 1)
	fd, err := socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	if err := rawConnect(fd, rawTarget(args[0])); err != nil {
		return "", at("connect", err)
	}
	if err := write(fd, "escape\n"); err != nil {
		return "", err
	}
	return datagram(fd)
}

// udpReconnect connects to where it may (ALLOWED), and sends to where it may
// not, as a connected socket can.
func udpReconnect(args []string) (string, error) {
	need(args, 2)
	family, allowed := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	if err := unix.Connect(fd, allowed); err != nil {
		return "", at("connect", err)
	}
	_, sa := target(args[1])
	if err := unix.Sendto(fd, []byte("escape\n"), 0, sa); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}

// udpQUIC sends what begins as QUIC's Initial does (RFC 9000, 17.2.2), in a
// datagram of the size that it must have.
func udpQUIC(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	packet := make([]byte, 1200)
	copy(packet, []byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0})
	if err := unix.Connect(fd, sa); err != nil {
		return "", at("connect", err)
	}
	if err := unix.Send(fd, packet, 0); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}
