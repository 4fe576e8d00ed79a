package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/socket"
	"github.com/headgate/headgate/pkg/upstream/datagram"
)

// dial connects from the namespace that the target names. It does what package net
// does, in fewer calls and without telling the scheduler of them: a target on this
// host has answered before connect(2) returns, and nobody has to wait.
func (d Dialer) dial(ctx context.Context, target Target) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	target.Addr = netip.AddrPortFrom(target.Addr.Addr().Unmap(), target.Addr.Port())
	zone, err := zoneOf(target.Addr.Addr())
	if err != nil {
		return nil, err
	}
	fd, err := d.socketIn(target)
	if err != nil {
		return nil, err
	}
	started := socket.Connect(fd, target.Addr, zone)
	if refusal := refusalOf(started); refusal != nil {
		return nil, failed(target, errors.Join(refusal, unix.Close(fd)))
	}
	var conn net.Conn
	if target.Network == UDP {
		conn, err = datagrams(fd)
	} else {
		conn, err = d.stream(ctx, fd, target.Addr, started)
	}
	if err != nil {
		return nil, failed(target, err)
	}
	return conn, nil
}

// failed gives an error the form that those of package net have.
func failed(target Target, err error) error {
	return &net.OpError{Op: "dial", Net: target.Network.String(), Addr: net.TCPAddrFromAddrPort(target.Addr), Err: err}
}

// refusalOf returns why a socket will not be connected, if that is known already.
func refusalOf(started syscall.Errno) error {
	if started == 0 || started == unix.EINPROGRESS {
		return nil
	}
	return os.NewSyscallError("connect", started)
}

// zoneOf returns the number of the interface that an address is told apart by, in
// the namespace that we are in.
func zoneOf(addr netip.Addr) (uint32, error) {
	zone := addr.Zone()
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("find zone of %s: %w", addr, err)
	}
	return uint32(i.Index), nil
}

// stream makes a connection of a socket, which it takes over, once that is
// connected.
func (d Dialer) stream(ctx context.Context, fd int, to netip.AddrPort, started syscall.Errno) (net.Conn, error) {
	limits := d.dialer()
	// The target is busy with the connection meanwhile.
	if err := socket.Tune(fd, limits.KeepAlive); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	conn, err := socket.Own(fd, to)
	if err != nil {
		return nil, err
	}
	if started != 0 {
		err = waitConnected(ctx, conn, limits.Timeout)
	}
	// Where nobody listens on a port of this host, the socket may have got that very
	// port, and be connected to itself (RFC 9293, section 3.5, simultaneous open).
	if err == nil && socket.Name(fd) == to {
		err = os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// datagrams makes a connection of a connected socket of UDP, which it takes over.
func datagrams(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "upstream")
	// The connection has a descriptor of its own.
	defer func() { _ = f.Close() }()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return datagram.NewConn(conn), nil
}

// waitConnected waits with the runtime's poller.
func waitConnected(ctx context.Context, conn *socket.Conn, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		// A deadline in the past ends the wait. If it can't be set, the socket is
		// closed, which ends it as well.
		_ = conn.SetWriteDeadline(time.Unix(1, 0))
	})
	err := connected(conn)
	if !stop() {
		// Also where both came at once: the caller has given up.
		<-interrupted
		return context.Cause(ctx)
	}
	return err
}

func connected(conn *socket.Conn) error {
	raw, err := conn.SyscallConn()
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
	return errors.Join(failed, waited)
}
