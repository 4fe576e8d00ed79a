package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wait bounds every wait for the far side.
const wait = 3 * time.Second

// patience is how long something may be refused that the daemon must first hear of.
const patience = 8 * time.Second

// target parses "192.0.2.10:7007", "[2001:db8::10]:7007" or
// "[::ffff:192.0.2.10]:7007", which stays a v4-mapped one.
func target(s string) (family int, sa unix.Sockaddr) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func socket(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, at("socket", lacking(err))
	}
	return fd, bound(fd)
}

// bound makes no call on the socket wait for ever.
func bound(fd int) error {
	tv := unix.NsecToTimeval(wait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return at("bound sending", err)
	}
	return at("bound receiving", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
}

// shorter bounds the wait for a datagram that may never come.
func shorter(fd int) error {
	tv := unix.NsecToTimeval((500 * time.Millisecond).Nanoseconds())
	return at("bound receiving", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
}

// uninterrupted repeats a call that a signal ended. Go sends its own.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// connected connects in the plain way, and waits where a signal came between.
func connected(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if err == unix.EINTR || err == unix.EINPROGRESS {
		return settled(fd)
	}
	return at("connect", err)
}

// settled waits until a connection that is being made is there.
func settled(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	deadline := time.Now().Add(wait)
	for {
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return at("poll", err)
		}
		if n == 0 {
			return at("poll", unix.ETIMEDOUT)
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return at("connect", err)
	}
}

// hello begins a TLS connection, as the resource of the tests wants it: a
// ClientHello (RFC 8446, 4.1.2) with one cipher suite and nothing else.
const hello = "\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03" +
	"headgate-headgate-headgate-32by." + "\x00\x00\x02\x13\x01\x01\x00"

// talk says one line and returns the one that comes back.
func talk(fd int) (string, error) {
	if err := write(fd, hello+"escape\n"); err != nil {
		return "", err
	}
	return line(fd)
}

func write(fd int, text string) error {
	return at("write", uninterrupted(func() error { _, err := unix.Write(fd, []byte(text)); return err }))
}

// line reads up to the end of a line.
func line(fd int) (string, error) {
	var got strings.Builder
	b := make([]byte, 512)
	for got.Len() < 4096 {
		n := 0
		if err := uninterrupted(func() (err error) { n, err = unix.Read(fd, b); return err }); err != nil {
			return got.String(), at("read", err)
		}
		if n == 0 {
			return got.String(), at("read", unix.ENODATA)
		}
		got.Write(b[:n])
		if text, _, whole := strings.Cut(got.String(), "\n"); whole {
			return text, nil
		}
	}
	return got.String(), at("read", unix.EMSGSIZE)
}
