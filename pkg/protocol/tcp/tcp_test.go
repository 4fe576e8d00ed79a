package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/protocoltest"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestProtocol(t *testing.T) {
	protocoltest.Run(t, func() protocol.Protocol { return New() }, protocoltest.Quoted, "../../../testdata/tcp")
}

// connected returns the two ends of a TCP connection; both are closed when the
// test ends.
func connected(t *testing.T) (agent *net.TCPConn, down *transparent.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialled.Close(), accepted.Close() })
	return dialled.(*net.TCPConn), transparent.NewConn(accepted, transparent.Origin{})
}

func TestRefuseResets(t *testing.T) {
	agent, down := connected(t)
	if err := New().Refuse(t.Context(), &protocol.Session{Downstream: down}, &protocol.Denial{}); err != nil {
		t.Fatalf("Refuse: %v", err)
	}
	if _, err := agent.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the agent read %v, want a reset", err)
	}
}

func TestFailedDialResets(t *testing.T) {
	agent, down := connected(t)
	cause := errors.New("no route")
	s := &protocol.Session{
		Downstream: down,
		Record:     func(protocol.Frame) error { return nil },
		Dial:       func(context.Context) (net.Conn, error) { return nil, cause },
	}
	if err := New().Serve(t.Context(), s); !errors.Is(err, cause) {
		t.Errorf("Serve returned %v, want the cause", err)
	}
	if _, err := agent.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the agent read %v, want a reset", err)
	}
}

func TestNothingIsDialledThatCannotBeRecorded(t *testing.T) {
	_, down := connected(t)
	cause := errors.New("disk is full")
	s := &protocol.Session{
		Downstream: down,
		Record:     func(protocol.Frame) error { return cause },
		Dial: func(context.Context) (net.Conn, error) {
			t.Error("it dialled")
			return nil, io.ErrUnexpectedEOF
		},
	}
	if err := New().Serve(t.Context(), s); !errors.Is(err, cause) {
		t.Errorf("Serve returned %v, want the cause", err)
	}
}

func TestEndOfContextEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		agent, downstream := net.Pipe()
		up, target := net.Pipe()
		var frames []protocol.Frame
		s := &protocol.Session{
			Downstream: transparent.NewConn(downstream, transparent.Origin{}),
			Record:     func(f protocol.Frame) error { frames = append(frames, f); return nil },
			Dial:       func(context.Context) (net.Conn, error) { return up, nil },
		}
		done := make(chan error, 1)
		go func() { done <- New().Serve(ctx, s) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve returned %v, want context.Canceled", err)
		}
		want := []protocol.FrameKind{protocol.FrameNotice, protocol.FrameResult}
		var got []protocol.FrameKind
		for _, f := range frames {
			got = append(got, f.Kind)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("other frames (-want +got):\n%s", d)
		}
		_, _ = agent.Close(), target.Close()
	})
}
