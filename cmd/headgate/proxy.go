package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/gateway"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/transparent"
)

// loopbacks are where a redirect leads: it keeps the family that the agent used.
var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// proxy is the daemon's place in one network namespace: the sockets that agents
// there are redirected to.
type proxy struct {
	cookie uint64
	// namespace is nil for the daemon's own.
	namespace *os.File
	tcp       []*net.TCPListener
	udp       []*net.UDPConn
	idle      int // sweeps in a row that found nobody in the namespace
	stop      context.CancelFunc
	done      chan struct{}
}

// openSockets opens the proxy's port at both loopback addresses, of TCP and UDP,
// in the namespace that the thread is in. A namespace without IPv6 has half of
// them; what would need the other half is refused by the kernel side.
func (p *proxy) openSockets(ctx context.Context, port uint16) error {
	var lc net.ListenConfig
	// Of a connection by MPTCP the record is at the subflow, where it is not found.
	lc.SetMultipathTCP(false)
	// Package net would set it at each connection; these have it from the listener.
	lc.KeepAlive, lc.Control = -1, keepAlive
	for i, addr := range loopbacks {
		at := netip.AddrPortFrom(addr, port).String()
		l, err := lc.Listen(ctx, "tcp", at)
		if err != nil && i > 0 && p.namespace != nil {
			break
		}
		if err != nil {
			return err
		}
		p.tcp = append(p.tcp, l.(*net.TCPListener))
		c, err := lc.ListenPacket(ctx, "udp", at)
		if err != nil {
			return err
		}
		p.udp = append(p.udp, c.(*net.UDPConn))
	}
	return nil
}

// keepAlive has the connections that a new TCP listener accepts be probed while
// nothing is said.
func keepAlive(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	const seconds = 15 // as package net has it
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds),
		)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("set keep-alive: %w", err)
	}
	return nil
}

func (p *proxy) sockets() []socket {
	var all []socket
	for _, l := range p.tcp {
		all = append(all, l)
	}
	for _, c := range p.udp {
		all = append(all, c)
	}
	return all
}

func (p *proxy) close() error {
	var errs []error
	for _, s := range p.sockets() {
		errs = append(errs, s.Close())
	}
	if p.namespace != nil {
		errs = append(errs, p.namespace.Close())
	}
	return errors.Join(errs...)
}

// serve accepts what agents in the namespace send, until ctx ends and running
// sessions have drained. Where one socket can't be served none is: what connects to
// it would wait for nobody. The sockets stay open.
func (p *proxy) serve(ctx context.Context, d *daemon) error {
	refused := func(remote net.Addr, cause error) {
		d.metrics.Error(metrics.StageAccept)
		d.log.Warn().Stringer("remote", remote).Err(cause).Msg("flow without an origin was refused")
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range p.tcp {
		group.Go(func() error {
			listener, err := transparent.NewListener(l, d.kernel)
			if err != nil {
				return err
			}
			listener.Refused = refused
			accepter := &counting{Accepter: listener, accepted: &d.proxies.accepted, canary: d.canary, tidy: d.proxies.tidy}
			return errors.Join(d.gateway.Serve(ctx, accepter), listener.Release())
		})
	}
	for _, c := range p.udp {
		datagrams := transparent.NewDatagrams(c, d.kernel)
		datagrams.Netns, datagrams.Refused = p.cookie, refused
		group.Go(func() error { return d.gateway.Serve(ctx, datagrams) })
	}
	return group.Wait()
}

// counting counts the connections that the kernel handed over, and answers the
// canary's itself: they are nobody's sessions.
type counting struct {
	gateway.Accepter
	accepted *atomic.Uint64
	canary   *canary
	tidy     *tidy
}

// Accept implements [gateway.Accepter].
func (c *counting) Accept() (*transparent.Conn, error) {
	for {
		conn, err := c.Accepter.Accept()
		if err != nil {
			return nil, err
		}
		c.accepted.Add(1)
		if !c.canary.answer(conn) {
			c.tidy.stir()
			return conn, nil
		}
	}
}

// adoptable sorts the sockets that an earlier daemon left by their network
// namespace. A socket that is not one of the proxy's is closed.
func adoptable(files []*os.File, port uint16) (map[uint64]*proxy, error) {
	all := map[uint64]*proxy{}
	var errs []error
	for _, f := range files {
		s, err := socketOf(f, port)
		// Both the listener and the packet conn have a descriptor of their own.
		errs = append(errs, f.Close())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		cookie, err := kernel.CookieOf(s)
		if err != nil {
			errs = append(errs, err, s.Close())
			continue
		}
		if all[cookie] == nil {
			all[cookie] = &proxy{cookie: cookie}
		}
		switch s := s.(type) {
		case *net.TCPListener:
			all[cookie].tcp = append(all[cookie].tcp, s)
		case *net.UDPConn:
			all[cookie].udp = append(all[cookie].udp, s)
		}
	}
	return all, errors.Join(errs...)
}

// errNotProxy is for a descriptor that was passed and is not the proxy's.
var errNotProxy = errors.New("not a socket of the proxy's port")

func socketOf(f *os.File, port uint16) (socket, error) {
	l, tcpErr := net.FileListener(f)
	if tcp, ok := l.(*net.TCPListener); tcpErr == nil && ok {
		if tcp.Addr().(*net.TCPAddr).Port != int(port) {
			return nil, errors.Join(fmt.Errorf("adopt %s: %w", f.Name(), errNotProxy), tcp.Close())
		}
		// An earlier daemon's deadline was its own, and is not the socket's.
		return tcp, tcp.SetDeadline(time.Time{})
	}
	c, udpErr := net.FilePacketConn(f)
	if udp, ok := c.(*net.UDPConn); udpErr == nil && ok {
		if udp.LocalAddr().(*net.UDPAddr).Port != int(port) {
			return nil, errors.Join(fmt.Errorf("adopt %s: %w", f.Name(), errNotProxy), udp.Close())
		}
		return udp, nil
	}
	return nil, fmt.Errorf("adopt %s: %w", f.Name(), errors.Join(errNotProxy, tcpErr, udpErr))
}
