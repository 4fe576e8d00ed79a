package main

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/gateway"
)

func TestAcceptedConnectionsAreProbedWhileNothingIsSaid(t *testing.T) {
	p := &proxy{}
	if err := p.openSockets(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	agent, err := net.Dial("tcp", p.tcp[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	accepted, err := p.tcp[0].AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	raw, err := accepted.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var on, idle, interval, noDelay int
	var errs [4]error
	err = raw.Control(func(fd uintptr) {
		on, errs[0] = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, errs[1] = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		interval, errs[2] = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
		noDelay, errs[3] = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
	})
	if err := errors.Join(append(errs[:], err)...); err != nil {
		t.Fatal(err)
	}
	if on != 1 || idle != 15 || interval != 15 || noDelay != 1 {
		t.Errorf("keep-alive %d after %d s, every %d s; no delay %d", on, idle, interval, noDelay)
	}
}

func TestOneSocketThatCannotBeServedEndsTheServingOfAll(t *testing.T) {
	p := &proxy{}
	if err := p.openSockets(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close() }) // one of them is closed already
	if err := p.tcp[1].Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d := &daemon{gateway: &gateway.Gateway{}, proxies: &proxies{}}
	if err := p.serve(ctx, d); !errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}
