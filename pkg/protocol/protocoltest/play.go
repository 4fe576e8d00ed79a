package protocoltest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
)

// grace is how long Serve may go on after both parties are gone, and how long
// its goroutines may go on after Serve.
const grace = 2 * time.Minute

// mode is one way of playing a conversation. The zero mode plays it as it is
// written, with nothing cut.
type mode struct {
	// cut says how many of n available bytes the protocol reads; nil is all.
	cut func(n int) int
	// agentLimit and upstreamLimit end a party after so many bytes, if truncate
	// is set for it. The party ends with the action last.
	truncate truncation
	limit    int
	last     action
	// denyAll puts the zero table in place of the conversation's and makes the
	// parties lax.
	denyAll bool
	// refuse calls Refuse in place of Serve.
	refuse bool
	// pair makes connections; nil makes them in memory.
	pair func() (inner, outer net.Conn, err error)
}

type truncation uint8

const (
	truncateNobody truncation = iota
	truncateAgent
	truncateUpstream
)

// outcome is what came of a playing.
type outcome struct {
	agent, upstream *party
	operations      []entry
	frames          []entry
	dials           int
	// broken are violations that no script needs to mention.
	broken []string
	// hungUp says that the protocol itself ended the downstream connection.
	hungUp bool
}

// stage is one playing under way.
type stage struct {
	c       *conversation
	mode    mode
	gateway *gateway

	down, up         net.Conn // the protocol's ends
	agent, upstream  *party
	upstreamFinished chan struct{}
	broken           []string
}

// playInBubble plays a conversation in memory, under simulated time.
func playInBubble(t *testing.T, p protocol.Protocol, c *conversation, m mode) (out *outcome) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if out != nil {
				t.Error(strings.Join(out.broken, "\n"))
			}
			t.Fatalf("goroutines are left behind: %v", r)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		out = play(t.Context(), p, c, m)
	})
	return out
}

func play(ctx context.Context, p protocol.Protocol, c *conversation, m mode) *outcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &stage{c: c, mode: m, gateway: &gateway{table: c.table}, upstreamFinished: make(chan struct{})}
	down, outer, err := s.connect()
	if err != nil {
		return &outcome{broken: []string{err.Error()}}
	}
	s.down = down
	script := c.agent
	if m.refuse {
		script = withoutEnds(script)
	}
	s.agent = s.party("agent", outer, script, truncateAgent)
	s.upstream = s.party("upstream", nil, c.upstream, truncateUpstream)
	if c.upstream != nil && !m.refuse {
		s.gateway.dial = s.dialUpstream
	}
	if m.denyAll {
		s.gateway.table = table{}
	}
	agentFinished := make(chan struct{})
	go func() {
		defer close(agentFinished)
		s.agent.play()
	}()
	hungUp := s.serve(ctx, p, agentFinished)
	<-agentFinished
	if s.up != nil {
		<-s.upstreamFinished
	}
	return &outcome{
		agent: s.agent, upstream: s.upstream, broken: s.broken, hungUp: hungUp,
		operations: s.gateway.operations, frames: frameEntries(s.gateway.frames), dials: s.gateway.dials,
	}
}

// serve calls the protocol and then does what the gateway does. It reports
// whether the protocol closed the downstream connection itself.
func (s *stage) serve(ctx context.Context, p protocol.Protocol, agentFinished <-chan struct{}) (hungUp bool) {
	session := s.gateway.session(s.down, s.c.settings, s.c.masks)
	returned := make(chan struct{})
	var panicked string
	go func() {
		defer close(returned)
		defer func() {
			if r := recover(); r != nil {
				panicked = fmt.Sprintf("panic: %v\n%s", r, debug.Stack())
			}
		}()
		// How a session ends is in what the parties saw, not in the error.
		if s.mode.refuse {
			_ = p.Refuse(ctx, session, refusal())
			return
		}
		_ = p.Serve(ctx, session)
	}()
	s.await(returned, agentFinished)
	select {
	case <-returned:
	default:
		s.broken = append(s.broken, "it did not return although both parties are gone")
	}
	hungUp = !open(s.down)
	// Both may have been closed or reset by now.
	_ = s.down.Close()
	if s.up != nil {
		if open(s.up) {
			s.broken = append(s.broken, "it returned and left the upstream connection open: whoever dials closes")
		}
		_ = s.up.Close()
	}
	s.awaitReturn(returned)
	if panicked != "" {
		s.broken = append(s.broken, panicked)
	}
	return hungUp
}

// awaitReturn waits once more, after all connections were closed under it.
func (s *stage) awaitReturn(returned <-chan struct{}) {
	select {
	case <-returned:
	case <-time.After(grace):
		s.broken = append(s.broken, "it did not return although its connections are closed")
	}
}

// await waits until the protocol has returned, or until it had its time after
// both parties were gone.
func (s *stage) await(returned, agentFinished <-chan struct{}) {
	select {
	case <-returned:
		return
	case <-agentFinished:
	}
	select {
	case <-returned:
	case <-time.After(grace):
	}
}

func (s *stage) party(name string, conn net.Conn, script []step, truncated truncation) *party {
	p := &party{name: name, conn: conn, script: script, limit: -1, lax: s.mode.denyAll || s.mode.refuse}
	if s.mode.truncate == truncated {
		p.limit, p.last = s.mode.limit, s.mode.last
	}
	return p
}

func (s *stage) dialUpstream() (net.Conn, error) {
	inner, outer, err := s.connect()
	if err != nil {
		return nil, err
	}
	s.up, s.upstream.conn = inner, outer
	go func() {
		defer close(s.upstreamFinished)
		s.upstream.play()
	}()
	return inner, nil
}

func (s *stage) connect() (inner, outer net.Conn, err error) {
	if s.mode.pair != nil {
		return s.mode.pair()
	}
	cut := s.mode.cut
	if cut == nil {
		cut = func(n int) int { return n }
	}
	local := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1"))
	remote := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.10:7777"))
	a, b := newPipe(cut, local, remote)
	return a, b, nil
}

func refusal() *protocol.Denial {
	return &protocol.Denial{ID: "op-1", Rule: "test", Reason: "rule", Message: "Not from here."}
}

// open reports whether the protocol's end of a connection is still its own.
func open(conn net.Conn) bool {
	if memory, ok := conn.(*end); ok {
		return !memory.closed()
	}
	// The zero time never expires, so this changes nothing.
	return !errors.Is(conn.SetWriteDeadline(time.Time{}), net.ErrClosed)
}
