package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func namespaceWays() map[string]attempt {
	return map[string]attempt{
		"inside":         inside,    // ADDR: who listens is this process itself
		"tcp-left-netns": leftNetns, // ADDR: a socket of the namespace that the thread left
	}
}

// inside is in a network namespace that has a loopback and nothing else. It
// listens there itself, and says whether its own connection came by way of
// somebody else.
func inside(args []string) (string, error) {
	need(args, 1)
	if err := raiseLoopback(); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp4", args[0])
	if err != nil {
		return "", err
	}
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	_, sa := target(args[0])
	fd := -1
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if fd, err = socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
			return "", err
		}
		if err = connected(fd, sa); !errors.Is(err, unix.EPERM) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return "", err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return "", at("ask for the address", err)
	}
	go func() {
		for c := range accepted {
			how := "by way of another"
			if c.RemoteAddr().String() == endpoint(local).String() {
				how = "directly"
			}
			r := bufio.NewReader(c)
			// Who says nothing gets no answer.
			if _, err := io.CopyN(io.Discard, r, int64(len(hello))); err != nil {
				continue
			}
			if text, err := r.ReadString('\n'); err == nil {
				_, _ = fmt.Fprintf(c, "heard %s %s\n", strings.TrimSpace(text), how)
			}
		}
	}()
	return talk(fd)
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return at("socket for loopback", err)
	}
	request := struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{name: [unix.IFNAMSIZ]byte{'l', 'o'}, flags: unix.IFF_UP | unix.IFF_RUNNING}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return fmt.Errorf("raise loopback: %s", errno.Error())
	}
	return unix.Close(fd)
}

func leftNetns(args []string) (string, error) {
	need(args, 1)
	return elsewhere(func() (string, error) {
		return prepared(args[0], func(int) error { return at("leave", unix.Unshare(unix.CLONE_NEWNET)) })
	})
}
