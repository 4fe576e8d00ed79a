package kernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// InNamespace runs f on a thread that is in the network namespace ns, a file as
// /proc/PID/ns/net. Sockets that f makes belong to it. f must not start
// goroutines that rely on it. A thread that cannot come back ends. It needs
// CAP_SYS_ADMIN.
func InNamespace(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := visit(ns, f)
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
		// A thread that is still locked ends with its goroutine.
	}()
	return <-done
}

// visit tells whether the thread is where it was.
func visit(ns *os.File, f func() error) (back bool, err error) {
	if unix.Gettid() == os.Getpid() {
		// Who looks at the process sees its first thread: that one stays.
		done := make(chan error, 1)
		go func() { done <- InNamespace(ns, f) }()
		return true, <-done
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("enter network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	if backErr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); backErr != nil {
		return false, errors.Join(err, fmt.Errorf("leave network namespace: %w", backErr))
	}
	return true, err
}

// CookieOf returns the number of the network namespace that a socket belongs to.
func CookieOf(socket syscall.Conn) (uint64, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	var cookie uint64
	var optErr error
	err = raw.Control(func(fd uintptr) {
		cookie, optErr = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	if err := errors.Join(err, optErr); err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	return cookie, nil
}

// Adopt marks a listening socket as the daemon's that an earlier daemon, or the
// service manager, has bound: a redirect leads to such sockets alone.
func (k *Kernel) Adopt(socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("adopt socket: %w", err)
	}
	var putErr error
	err = raw.Control(func(fd uintptr) { putErr = k.maps.DaemonSocket.Put(uint32(fd), uint32(1)) })
	if err := errors.Join(err, putErr); err != nil {
		return fmt.Errorf("adopt socket: %w", err)
	}
	return nil
}

// Waiting returns how many connections wait in the queue of a listening socket.
func Waiting(l *net.TCPListener) (uint32, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("inspect listener: %w", err)
	}
	var info *unix.TCPInfo
	var optErr error
	// Of a listening socket, tcpi_unacked is the length of the queue.
	err = raw.Control(func(fd uintptr) { info, optErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(err, optErr); err != nil {
		return 0, fmt.Errorf("inspect listener: %w", err)
	}
	return info.Unacked, nil
}

// Enrolled lists the processes that are in a tree: living ones, and any whose
// exit nobody saw.
func (k *Kernel) Enrolled() ([]Enrolment, error) {
	procs, err := k.enrolled()
	if err != nil {
		return nil, err
	}
	return parentsFirst(procs), nil
}

// EnrolledCgroups returns the enrolments by cgroup that are in force.
func (k *Kernel) EnrolledCgroups() (map[uint64]uint32, error) {
	all := make(map[uint64]uint32)
	var id uint64
	var enrolment uint32
	entries := k.maps.EnrolCgroup.Iterate()
	for entries.Next(&id, &enrolment) {
		all[id] = enrolment
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list enrolment rules: %w", err)
	}
	return all, nil
}
