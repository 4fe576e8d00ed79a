package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const afSMC = 43 // linux/socket.h

func familyWays() map[string]attempt {
	return map[string]attempt{
		"raw-udp":     rawUDP, // LOCAL ADDR: a packet made by hand
		"raw-icmp":    func(a []string) (string, error) { return raw(a, unix.IPPROTO_ICMP) },
		"raw-tcp":     func(a []string) (string, error) { return raw(a, unix.IPPROTO_TCP) },
		"ping":        ping, // ADDR
		"sctp":        func(a []string) (string, error) { return stream(a, unix.SOCK_STREAM, unix.IPPROTO_SCTP) },
		"sctp-many":   func(a []string) (string, error) { return stream(a, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP) },
		"dccp":        func(a []string) (string, error) { return stream(a, unix.SOCK_DCCP, unix.IPPROTO_DCCP) },
		"packet":      packet, // LOCAL ADDR, as raw-udp, on lo
		"vsock":       vsock,
		"xdp":         only(unix.AF_XDP, unix.SOCK_RAW, 0),
		"smc":         smc, // ADDR
		"tipc":        only(unix.AF_TIPC, unix.SOCK_SEQPACKET, 0),
		"alg":         alg,
		"route":       route, // ADDR
		"families":    families,
		"sock-packet": only(unix.AF_INET, unix.SOCK_PACKET, 0x0300),
	}
}

// only makes a socket and does nothing with it.
func only(family, kind, protocol int) attempt {
	return func([]string) (string, error) {
		_, err := socket(family, kind, protocol)
		return "socket", err
	}
}

// families tries every other family there may be, and says which there are.
func families([]string) (string, error) {
	var opened []string
	var last error
	for family := 1; family < 64; family++ {
		switch family {
		case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK:
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET, unix.SOCK_RAW} {
			fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				last = err
				continue
			}
			opened = append(opened, strconv.Itoa(family))
			if err := unix.Close(fd); err != nil {
				return "", at("close", err)
			}
			break
		}
	}
	if opened == nil {
		return "", at("socket", lacking(last))
	}
	return "opened " + strings.Join(opened, " "), nil
}

func stream(args []string, kind, protocol int) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, kind, protocol)
	if err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	return talk(fd)
}

func smc(args []string) (string, error) {
	need(args, 1)
	_, sa := target(args[0])
	fd, err := socket(afSMC, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	return talk(fd)
}

// datagramTo is an IPv4 packet with a UDP datagram in it, the checksum of which
// is left out, as RFC 768 allows.
func datagramTo(from netip.Addr, to netip.AddrPort) []byte {
	text := "escape\n"
	p := make([]byte, 28, 28+len(text))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(text)))
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[20:], 4711)
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, text...)
}

func rawUDP(args []string) (string, error) {
	need(args, 2)
	fd, err := socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return "", err
	}
	_, sa := target(args[1])
	sa.(*unix.SockaddrInet4).Port = 0
	p := datagramTo(netip.MustParseAddr(args[0]), netip.MustParseAddrPort(args[1]))
	return "sent", at("send", unix.Sendto(fd, p, 0, sa))
}

// packet puts the same on the loopback device. An echo needs a way back, which
// a foreign address does not have.
func packet(args []string) (string, error) {
	need(args, 2)
	ip := uint16(unix.ETH_P_IP)
	fd, err := socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(ip<<8|ip>>8))
	if err != nil {
		return "", err
	}
	p := datagramTo(netip.MustParseAddr(args[0]), netip.MustParseAddrPort(args[1]))
	return "sent", at("send", unix.Sendto(fd, p, 0, &unix.SockaddrLinklayer{Protocol: ip<<8 | ip>>8, Ifindex: 1, Halen: 6}))
}

func raw(args []string, protocol int) (string, error) {
	need(args, 1)
	_, sa := target(args[0])
	fd, err := socket(unix.AF_INET, unix.SOCK_RAW, protocol)
	if err != nil {
		return "", err
	}
	sa.(*unix.SockaddrInet4).Port = 0
	return "sent", at("send", unix.Sendto(fd, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0}, 0, sa))
}

// ping asks for an echo through the socket that unprivileged users may have.
func ping(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	protocol, request, answer := unix.IPPROTO_ICMP, byte(8), byte(0)
	if family == unix.AF_INET6 {
		protocol, request, answer = unix.IPPROTO_ICMPV6, 128, 129
		sa.(*unix.SockaddrInet6).Port = 0
	} else {
		sa.(*unix.SockaddrInet4).Port = 0
	}
	fd, err := socket(family, unix.SOCK_DGRAM, protocol)
	if err != nil {
		return "", err
	}
	if err := shorter(fd); err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, []byte{request, 0, 0, 0, 0, 0, 0, 1, 'h', 'i'}, 0, sa); err != nil {
		return "", at("send", err)
	}
	b := make([]byte, 64)
	n := 0
	if err := uninterrupted(func() (err error) { n, err = unix.Read(fd, b); return err }); err != nil {
		return "", at("receive", err)
	}
	if n < 8 || b[0] != answer {
		return "", fmt.Errorf("no echo: %x", b[:n])
	}
	return "echo", nil
}

// vsock makes the socket and connects to this machine itself, which has
// nobody there: nothing leaves.
func vsock([]string) (string, error) {
	fd, err := socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: 7007})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return "", at("connect", err)
	}
	return fmt.Sprintf("socket; connect: %v", err), nil
}

// alg computes a hash in the kernel. That leads nowhere.
func alg([]string) (string, error) {
	fd, err := socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		return "", err
	}
	err = unix.Bind(fd, &unix.SockaddrALG{Type: "hash", Name: "sha256"})
	if errors.Is(err, unix.ENOENT) {
		return "", at("bind", errors.Join(errUnavailable, err))
	}
	return "hash", at("bind", err)
}

// route adds a route to an address by way of loopback.
func route(args []string) (string, error) {
	need(args, 1)
	fd, err := socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return "", err
	}
	type request struct {
		header unix.NlMsghdr
		route  unix.RtMsg
		dst    unix.RtAttr
		addr   [4]byte
		oif    unix.RtAttr
		index  uint32
	}
	m := request{
		header: unix.NlMsghdr{Type: unix.RTM_NEWROUTE, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE, Seq: 1},
		route: unix.RtMsg{Family: unix.AF_INET, Dst_len: 32, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC,
			Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST},
		dst:   unix.RtAttr{Len: 8, Type: unix.RTA_DST},
		addr:  netip.MustParseAddr(args[0]).As4(),
		oif:   unix.RtAttr{Len: 8, Type: unix.RTA_OIF},
		index: 1,
	}
	m.header.Len = uint32(unsafe.Sizeof(m))
	if err := unix.Sendto(fd, unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m)), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", at("send", err)
	}
	b := make([]byte, 1024)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return "", at("receive", err)
	}
	if code := int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:max(n, 20)])); code != 0 {
		return "", at("add route", unix.Errno(-code))
	}
	return "route added", nil
}
