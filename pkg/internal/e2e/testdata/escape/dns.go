package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

func dnsWays() map[string]attempt {
	return map[string]attempt{
		"dns-connect": func(a []string) (string, error) { return resolve(a, overConnected) }, // SERVER NAME
		"dns-sendto":  func(a []string) (string, error) { return resolve(a, overUnconnected) },
		"dns-tcp":     func(a []string) (string, error) { return resolve(a, overTCP) },
	}
}

var errForeign = errors.New("the answer came from another address than was asked")

// resolve asks a server for the address of a name and returns the response code
// and the address, as in "rcode 0 192.0.2.77".
func resolve(args []string, exchange func(server string, query []byte) ([]byte, error)) (string, error) {
	need(args, 2)
	query := []byte{0x68, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(args[1], ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 1, 0, 1)
	answer, err := exchange(args[0], query)
	if err != nil {
		return "", err
	}
	if len(answer) < 12 || answer[0] != query[0] || answer[1] != query[1] || answer[2]&0x80 == 0 {
		return "", fmt.Errorf("no answer to the question: %x", answer)
	}
	reply := fmt.Sprintf("rcode %d", answer[3]&0xf)
	// The one record of the answer ends the message, with its four bytes.
	if binary.BigEndian.Uint16(answer[6:]) == 1 && binary.BigEndian.Uint16(answer[10:]) == 0 && len(answer) > len(query)+4 {
		a, _ := netip.AddrFromSlice(answer[len(answer)-4:])
		reply += " " + a.String()
	}
	return reply, nil
}

func overConnected(server string, query []byte) ([]byte, error) {
	family, sa := target(server)
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, at("connect", err)
	}
	if err := unix.Send(fd, query, 0); err != nil {
		return nil, at("send", err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return nil, at("ask for the peer", err)
	}
	if got := endpoint(peer); got != netip.MustParseAddrPort(server) {
		return nil, fmt.Errorf("%w: peer %v", errForeign, got)
	}
	b := make([]byte, 1500)
	n := 0
	err = uninterrupted(func() (err error) { n, err = unix.Read(fd, b); return err })
	return b[:max(n, 0)], at("receive", err)
}

func overUnconnected(server string, query []byte) ([]byte, error) {
	family, sa := target(server)
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Sendto(fd, query, 0, sa); err != nil {
		return nil, at("send", err)
	}
	b := make([]byte, 1500)
	n := 0
	var from unix.Sockaddr
	err = uninterrupted(func() (err error) { n, from, err = unix.Recvfrom(fd, b, 0); return err })
	if err != nil {
		return nil, at("receive", err)
	}
	if got := endpoint(from); got != netip.MustParseAddrPort(server) {
		return nil, fmt.Errorf("%w: from %v", errForeign, got)
	}
	return b[:n], nil
}

func overTCP(server string, query []byte) ([]byte, error) {
	family, sa := target(server)
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := connected(fd, sa); err != nil {
		return nil, err
	}
	if err := write(fd, string(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...))); err != nil {
		return nil, err
	}
	var got []byte
	b := make([]byte, 1500)
	for len(got) < 2 || len(got) < 2+int(binary.BigEndian.Uint16(got)) {
		n := 0
		err := uninterrupted(func() (err error) { n, err = unix.Read(fd, b); return err })
		if err == nil && n == 0 {
			err = unix.ENODATA
		}
		if err != nil {
			return nil, at("receive", err)
		}
		got = append(got, b[:n]...)
	}
	return got[2:], nil
}

func endpoint(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	default:
		return netip.AddrPort{}
	}
}
