package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// checkNamespace returns errElsewhere unless the socket is in the network
// namespace of that cookie. It runs before the socket is connected.
func checkNamespace(c syscall.RawConn, cookie uint64) error {
	var here uint64
	var lookupErr error
	err := c.Control(func(fd uintptr) { here, lookupErr = netnsOf(int(fd)) })
	if err := errors.Join(err, lookupErr); err != nil {
		return fmt.Errorf("%w: %w", ErrNamespace, err)
	}
	if here != cookie {
		return errElsewhere
	}
	return nil
}

// netnsOf returns the cookie of a socket's network namespace (Linux 5.14).
func netnsOf(socket int) (uint64, error) {
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("getsockopt", err)
}

// dialFrom connects from another network namespace. Only the making of the
// socket happens there, on a thread that is locked for that long; the socket
// stays in its namespace, and is connected from where everybody else is.
func (d Dialer) dialFrom(ctx context.Context, target Target) (net.Conn, error) {
	if d.Namespaces == nil {
		return nil, fmt.Errorf("%w: %d is not the own one, and no other is known", ErrNamespace, target.Netns)
	}
	to, err := sockaddr(target)
	if err != nil {
		return nil, err
	}
	namespace, release, err := d.Namespaces(target.Netns)
	if err != nil {
		return nil, fmt.Errorf("%w: find %d: %w", ErrNamespace, target.Netns, err)
	}
	socket, err := excursion(func() (int, error, error) { return visit(namespace, target) })
	release()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNamespace, err)
	}
	nd := d.dialer()
	ctx, cancel := context.WithTimeout(ctx, nd.Timeout)
	defer cancel()
	conn, err := connect(ctx, socket, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: target.Network.String(), Addr: net.TCPAddrFromAddrPort(target.Addr), Err: err}
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		probes := net.KeepAliveConfig{Enable: true, Idle: nd.KeepAlive, Interval: nd.KeepAlive}
		if err := tcp.SetKeepAliveConfig(probes); err != nil {
			return nil, errors.Join(err, tcp.Close())
		}
	}
	return conn, nil
}

// sockaddr is the target for connect(2). A zone is the name of an interface of
// the namespace that the caller is in, which is not the target's.
func sockaddr(target Target) (unix.Sockaddr, error) {
	addr := target.Addr.Addr().Unmap()
	switch {
	case addr.Zone() != "":
		return nil, fmt.Errorf("%w: the zone of %s can't be found from here", ErrNamespace, target)
	case addr.Is4():
		return &unix.SockaddrInet4{Port: int(target.Addr.Port()), Addr: addr.As4()}, nil
	default:
		return &unix.SockaddrInet6{Port: int(target.Addr.Port()), Addr: addr.As16()}, nil
	}
}

// excursion calls visit on a thread of its own, and lets nobody else have that
// thread unless it came back.
func excursion(visit func() (socket int, err, back error)) (socket int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process is where its main thread is, for whoever looks at it
			// in /proc, and that thread can't die. As long as it is kept here,
			// another one is another.
			defer runtime.UnlockOSThread()
			socket, err = excursion(visit)
			return
		}
		var back error
		socket, err, back = visit()
		if back == nil {
			runtime.UnlockOSThread()
			return
		}
		// It stays locked, so that it dies with this goroutine.
		if err == nil {
			err = unix.Close(socket)
		}
		err = errors.Join(fmt.Errorf("leave: %w", back), err)
	}()
	<-done
	return socket, err
}

// visit takes the calling thread, which is locked, into the namespace and back.
// An error in back means that it did not come back.
func visit(namespace int, target Target) (socket int, err, back error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open own: %w", err), nil
	}
	// It was only read.
	defer func() { _ = unix.Close(own) }()
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("enter: %w", err), nil
	}
	socket, err = newSocket(target)
	return socket, err, unix.Setns(own, unix.CLONE_NEWNET)
}

// newSocket makes a socket where the thread is, and makes sure that this is
// where the target says.
func newSocket(target Target) (int, error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if target.Addr.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	if target.Network == UDP {
		kind = unix.SOCK_DGRAM
	}
	socket, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	here, err := netnsOf(socket)
	if err == nil && here != target.Netns {
		err = fmt.Errorf("the descriptor for %d is of %d", target.Netns, here)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(socket))
	}
	return socket, nil
}

// connect connects a non-blocking socket, which it takes over, and waits for
// that with the runtime's poller. It does what package net does for its own.
func connect(ctx context.Context, socket int, to unix.Sockaddr) (net.Conn, error) {
	started := unix.Connect(socket, to)
	f := os.NewFile(uintptr(socket), "upstream")
	// The connection has a descriptor of its own.
	defer func() { _ = f.Close() }()
	switch {
	case started == nil, errors.Is(started, unix.EISCONN):
	case errors.Is(started, unix.EINPROGRESS), errors.Is(started, unix.EALREADY), errors.Is(started, unix.EINTR):
		if err := waitConnected(ctx, f); err != nil {
			return nil, err
		}
	default:
		return nil, os.NewSyscallError("connect", started)
	}
	return net.FileConn(f)
}

func waitConnected(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() {
		// A deadline in the past ends the wait. If it can't be set, the file is
		// closed, which ends it as well.
		_ = f.SetWriteDeadline(time.Unix(1, 0))
	})
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	waited := raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			failed = os.NewSyscallError("getsockopt", err)
			return true
		}
		if code != 0 {
			failed = os.NewSyscallError("connect", syscall.Errno(code))
			return true
		}
		// The poller wakes without a reason at times, and before the first wait
		// nothing is known.
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		// Also where both came at once: the caller has given up.
		return context.Cause(ctx)
	}
	return waited
}
