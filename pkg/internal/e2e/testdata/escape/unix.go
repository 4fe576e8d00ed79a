package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

func unixWays() map[string]attempt {
	return map[string]attempt{
		"unix":           unixStream,          // PATH, or @NAME
		"unix-relative":  unixRelative,        // PATH
		"unix-symlink":   unixSymlink,         // PATH
		"unix-linkdir":   unixLinkedDirectory, // PATH
		"unix-hardlink":  unixHardLink,        // PATH
		"unix-procfd":    unixProcFD,          // PATH
		"unix-seqpacket": func(a []string) (string, error) { need(a, 1); return unixOf(unix.SOCK_SEQPACKET, a[0]) },
		"unix-uring":     unixUring,    // PATH
		"unix-dgram":     unixDatagram, // PATH
		"fd-receive":     receive,      // PATH [ADDR]: connects what it is given, or uses it
		"fd-give":        give,         // PATH
		"fd-hand-out":    handOut,      // PATH [ADDR]: outside: gives a socket, connected where ADDR is
		"fd-take":        take,         // PATH ADDR: outside: connects what it is given
		"act":            act,          // PATH ADDR: outside: connects for who asks
		"before":         before,       // HEADGATE SOCKET connected|made ADDR
		"after":          after,        // FD connected|made|used ADDR
	}
}

func unixStream(args []string) (string, error) {
	need(args, 1)
	fd, err := unixConnect(args[0])
	if err != nil {
		return "", err
	}
	return talk(fd)
}

func unixConnect(path string) (int, error) {
	fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	return fd, at("connect", uninterrupted(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) }))
}

func unixRelative(args []string) (string, error) {
	need(args, 1)
	if err := os.Chdir(filepath.Dir(args[0])); err != nil {
		return "", err
	}
	return unixStream([]string{"./" + filepath.Base(args[0])})
}

func unixSymlink(args []string) (string, error) {
	need(args, 1)
	dir, err := os.MkdirTemp("", "escape")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	link := filepath.Join(dir, "other")
	if err := os.Symlink(args[0], link); err != nil {
		return "", err
	}
	return unixStream([]string{link})
}

// unixLinkedDirectory reaches the same name by way of a link to its directory.
func unixLinkedDirectory(args []string) (string, error) {
	need(args, 1)
	dir, err := os.MkdirTemp("", "escape")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Dir(args[0]), link); err != nil {
		return "", err
	}
	return unixStream([]string{filepath.Join(link, filepath.Base(args[0]))})
}

// unixHardLink gives the socket another name.
func unixHardLink(args []string) (string, error) {
	need(args, 1)
	link := args[0] + "-other"
	if err := os.Link(args[0], link); err != nil {
		return "", err
	}
	defer os.Remove(link)
	return unixStream([]string{link})
}

// unixProcFD names the socket by a descriptor of its file.
func unixProcFD(args []string) (string, error) {
	need(args, 1)
	fd, err := unix.Open(args[0], unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", at("open", err)
	}
	return unixStream([]string{"/proc/self/fd/" + strconv.Itoa(fd)})
}

func unixOf(kind int, path string) (string, error) {
	fd, err := socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return "", err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return "", at("connect", err)
	}
	return talk(fd)
}

func unixUring(args []string) (string, error) {
	need(args, 1)
	fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	r, err := newRing(0)
	if err != nil {
		return "", err
	}
	to := append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), append([]byte(args[0]), 0)...)
	err = r.do(submission{op: opConnect, fd: int32(fd), addr: address(&to[0]), offset: uint64(len(to))})
	runtime.KeepAlive(to)
	if err != nil {
		return "", at("connect by io_uring", err)
	}
	return talk(fd)
}

func unixDatagram(args []string) (string, error) {
	need(args, 1)
	fd, err := socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	// Without a name of its own it would get no answer.
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@escape-" + strconv.Itoa(os.Getpid())}); err != nil {
		return "", at("bind", err)
	}
	if err := unix.Sendto(fd, []byte("escape\n"), 0, &unix.SockaddrUnix{Name: args[0]}); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}

func sendFD(to, fd int) error {
	return at("pass a socket", unix.Sendmsg(to, []byte{0}, unix.UnixRights(fd), nil, 0))
}

func receiveFD(from int) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	n := 0
	err := uninterrupted(func() (err error) { _, n, _, _, err = unix.Recvmsg(from, make([]byte, 1), control, 0); return err })
	if err != nil {
		return -1, at("receive a socket", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("receive a socket: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("receive a socket: %d of them, %w", len(fds), err)
	}
	return fds[0], nil
}

// receive takes a socket that somebody outside made.
func receive(args []string) (string, error) {
	need(args, 1)
	from, err := unixConnect(args[0])
	if err != nil {
		return "", err
	}
	fd, err := receiveFD(from)
	if err != nil {
		return "", err
	}
	if len(args) > 1 {
		_, sa := target(args[1])
		if err := connected(fd, sa); err != nil {
			return "", err
		}
	}
	return talk(fd)
}

// give makes a socket for somebody outside and says what that one was told.
func give(args []string) (string, error) {
	need(args, 1)
	to, err := unixConnect(args[0])
	if err != nil {
		return "", err
	}
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if err := sendFD(to, fd); err != nil {
		return "", err
	}
	return line(to)
}

// acceptAt waits for the one who comes to a path, which exists when "ready" is
// printed.
func acceptAt(path string) (int, error) {
	l, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(unix.Bind(l, &unix.SockaddrUnix{Name: path}), os.Chmod(path, 0o666), unix.Listen(l, 1)); err != nil {
		return -1, at("listen", err)
	}
	fmt.Println("ready")
	peer := -1
	err = uninterrupted(func() (err error) { peer, _, err = unix.Accept(l); return err })
	return peer, at("accept", err)
}

func handOut(args []string) (string, error) {
	need(args, 1)
	family := unix.AF_INET
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if len(args) > 1 {
		_, sa := target(args[1])
		if err := connected(fd, sa); err != nil {
			return "", err
		}
	}
	peer, err := acceptAt(args[0])
	if err != nil {
		return "", err
	}
	return "handed out", sendFD(peer, fd)
}

func take(args []string) (string, error) {
	need(args, 2)
	peer, err := acceptAt(args[0])
	if err != nil {
		return "", err
	}
	fd, err := receiveFD(peer)
	if err != nil {
		return "", err
	}
	_, sa := target(args[1])
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	reply, err := talk(fd)
	if err != nil {
		return reply, err
	}
	return reply, write(peer, reply+"\n")
}

// act connects for whoever asks, and passes on what it is told.
func act(args []string) (string, error) {
	need(args, 2)
	peer, err := acceptAt(args[0])
	if err != nil {
		return "", err
	}
	if _, err := line(peer); err != nil {
		return "", err
	}
	reply, err := plain(args[1:])
	if err != nil {
		return reply, err
	}
	return reply, write(peer, reply+"\n")
}

// before makes a socket and becomes an agent with it.
func before(args []string) (string, error) {
	need(args, 4)
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if args[2] == "connected" {
		_, sa := target(args[3])
		if err := connected(fd, sa); err != nil {
			return "", err
		}
		if err := write(fd, hello); err != nil {
			return "", err
		}
		if _, err := line(fd); err != nil {
			return "", err
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return "", at("keep the socket", err)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	argv := []string{args[0], "run", "--socket", args[1], "--agent", "ci", "--", self, "after", strconv.Itoa(fd), args[2], args[3]}
	return "", at("become an agent", unix.Exec(args[0], argv, os.Environ()))
}

func after(args []string) (string, error) {
	need(args, 3)
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	if args[1] == "made" {
		_, sa := target(args[2])
		if err := connected(fd, sa); err != nil {
			return "", err
		}
		return talk(fd)
	}
	if args[1] == "used" {
		return talk(fd)
	}
	if err := write(fd, "after enrolment\n"); err != nil {
		return "", err
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return "", at("shut down", err)
	}
	return line(fd)
}
