package main

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

func optionWays() map[string]attempt {
	return map[string]attempt{
		"udp-source-route": func(a []string) (string, error) { return optioned(a, unix.SOCK_DGRAM) }, // VIA ADDR
		"tcp-source-route": func(a []string) (string, error) { return optioned(a, unix.SOCK_STREAM) },
		"udp-device":       udpDevice,  // DEVICE ADDR
		"udp-cork":         udpCork,    // ADDR
		"udp-segment":      udpSegment, // ADDR
		"tcp-mark":         tcpMark,    // ADDR
	}
}

// sourceRoute has the kernel send to via what is meant for the socket's peer:
// a loose source route of IPv4, or a segment routing header of IPv6, which takes
// no privileges.
func sourceRoute(fd int, via netip.Addr) error {
	a := via.AsSlice()
	if via.Is4() {
		return at("route by way of", unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(append([]byte{0x83, 7, 4}, append(a, 0)...))))
	}
	const segments = 4
	header := append([]byte{0, 4, segments, 1, 1, 0, 0, 0}, make([]byte, 16)...)
	return at("route by way of", unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(append(header, a...))))
}

func optioned(args []string, kind int) (string, error) {
	need(args, 2)
	via, err := netip.ParseAddr(args[0])
	if err != nil {
		return "", err
	}
	family, sa := target(args[1])
	fd, err := socket(family, kind, 0)
	if err != nil {
		return "", err
	}
	if err := sourceRoute(fd, via); err != nil {
		return "", err
	}
	if err := shorter(fd); err != nil {
		return "", err
	}
	if kind == unix.SOCK_DGRAM {
		if err := unix.Sendto(fd, []byte("escape\n"), 0, sa); err != nil {
			return "", at("send", err)
		}
		return "sent", nil
	}
	if err := at("bound connecting", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 300)); err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	return talk(fd)
}

// udpDevice sends by a device that does not lead there.
func udpDevice(args []string) (string, error) {
	need(args, 2)
	family, sa := target(args[1])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	if err := at("bind to device", unix.BindToDevice(fd, args[0])); err != nil {
		return "", err
	}
	return "sent", at("send", unix.Sendto(fd, []byte("escape\n"), 0, sa))
}

// udpCork sends in two pieces, of which the first names no destination.
func udpCork(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return "", at("connect", err)
	}
	if err := unix.Send(fd, []byte("esc"), unix.MSG_MORE); err != nil {
		return "", at("send", err)
	}
	if err := unix.Send(fd, []byte("ape\n"), 0); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}

// udpSegment has the kernel cut one message into datagrams.
func udpSegment(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	const udpSegment = 103 // linux/udp.h
	if err := at("cut", lacking(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpSegment, 7))); err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, []byte("escape\nescape\n"), 0, sa); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}

func tcpMark(args []string) (string, error) {
	need(args, 1)
	return prepared(args[0], func(fd int) error { return at("mark", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x1337)) })
}
