package protocoltest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/upstream"
)

// loopback plays the conversation once over TCP, where ends and resets are the
// kernel's and time is real.
func (s *suite) loopback(t *testing.T) {
	if s.c.settings.slow {
		return // it waits for a time-out, which passes at once in the other runs only
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pair := func() (inner, outer net.Conn, err error) { return tcpPair(ctx) }
	s.check(t, play(ctx, s.newProtocol(), s.c, mode{pair: pair}))
}

// tcpPair returns the two ends of a connection over the loopback interface.
func tcpPair(ctx context.Context) (inner, outer net.Conn, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		// The one connection that it was for is there.
		_ = listener.Close()
	}()
	outer, err = upstream.Dialer{}.Dial(ctx, upstream.Target{Addr: listener.Addr().(*net.TCPAddr).AddrPort()})
	if err != nil {
		return nil, nil, err
	}
	inner, err = listener.Accept()
	return inner, outer, err
}
