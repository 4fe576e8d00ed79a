package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// olderWays are those of a process that is no agent yet when it begins. It says
// "ready" when it has its socket, and goes on at a line of its input.
func olderWays() map[string]attempt {
	return map[string]attempt{
		"older-tcp":      olderTCP,      // ADDR: goes on using a connection
		"older-udp":      olderUDP,      // ADDR: goes on sending, connected
		"older-setuid":   olderSetuid,   // ADDR UID: becomes a user that a rule names
		"older-unbound":  olderUnbound,  // ADDR: sends by a socket that is not connected
		"older-made-tcp": olderMadeTCP,  // ADDR: connects a socket that it had
		"older-forked":   olderForked,   // ADDR: a child of it connects
		"older-inherits": olderInherits, // ADDR PROGRAM: an agent's program inherits a connection
		"inherited":      inherited,     // FD
	}
}

func ready() error {
	fmt.Println("ready")
	_, err := bufio.NewReaderSize(os.Stdin, 16).ReadString('\n')
	return err
}

// opened is a connection in use.
func opened(to string) (int, error) {
	family, sa := target(to)
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := connected(fd, sa); err != nil {
		return -1, err
	}
	if err := write(fd, hello); err != nil {
		return -1, err
	}
	_, err = line(fd)
	return fd, err
}

// goOn uses a connection, of which the witness tells by an end of its own.
func goOn(fd int) (string, error) {
	if err := write(fd, "after enrolment\n"); err != nil {
		return "", err
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return "", at("shut down", err)
	}
	return line(fd)
}

func olderTCP(args []string) (string, error) {
	need(args, 1)
	fd, err := opened(args[0])
	if err := errors.Join(err, ready()); err != nil {
		return "", err
	}
	return goOn(fd)
}

// olderSetuid becomes an agent by what it is, and a connection of its own making.
func olderSetuid(args []string) (string, error) {
	need(args, 2)
	uid, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	fd, err := opened(args[0])
	if err != nil {
		return "", err
	}
	if err := unix.Setuid(uid); err != nil {
		return "", at("become another user", err)
	}
	if reply, err := plain(args); err != nil {
		return reply, err
	}
	if err := ready(); err != nil {
		return "", err
	}
	return goOn(fd)
}

func olderUDP(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return "", at("connect", err)
	}
	if err := ready(); err != nil {
		return "", err
	}
	if err := write(fd, "escape\n"); err != nil {
		return "", err
	}
	return datagram(fd)
}

func olderUnbound(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err := errors.Join(err, ready()); err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, []byte("escape\n"), 0, sa); err != nil {
		return "", at("send", err)
	}
	return datagram(fd)
}

func olderMadeTCP(args []string) (string, error) {
	need(args, 1)
	return prepared(args[0], func(int) error { return ready() })
}

func olderForked(args []string) (string, error) {
	need(args, 1)
	if err := ready(); err != nil {
		return "", err
	}
	return "", child([]string{"tcp", args[0]}, nil)
}

// olderInherits executes a program that a rule names, which gets a connection.
func olderInherits(args []string) (string, error) {
	need(args, 2)
	fd, err := opened(args[0])
	if err != nil {
		return "", err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return "", at("keep the socket", err)
	}
	return "", at("exec", unix.Exec(args[1], []string{"escape", "inherited", fmt.Sprint(fd)}, os.Environ()))
}

// inherited goes on with what it was given, when it is told to.
func inherited(args []string) (string, error) {
	need(args, 1)
	fd, err := strconv.Atoi(args[0])
	if err := errors.Join(err, ready()); err != nil {
		return "", err
	}
	return goOn(fd)
}
