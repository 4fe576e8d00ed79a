package transparent

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/process"
)

type originsFunc func(syscall.Conn) (Origin, error)

func (f originsFunc) Origin(c syscall.Conn) (Origin, error) { return f(c) }

var knownOrigin = Origin{
	Target:  netip.MustParseAddrPort("192.0.2.1:5432"),
	Process: process.ID{PID: 7, Start: 9},
}

func listen(t *testing.T, origins Origins) *Listener {
	t.Helper()
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewListener(tcp, origins)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConnectionWithoutOriginIsResetAndNeverReturned(t *testing.T) {
	for name, origins := range map[string]Origins{
		"no source of origins": nil,
		"no record":            originsFunc(func(syscall.Conn) (Origin, error) { return Origin{}, errors.New("no record") }),
		"zero record":          originsFunc(func(syscall.Conn) (Origin, error) { return Origin{}, nil }),
		"no process": originsFunc(func(syscall.Conn) (Origin, error) {
			return Origin{Target: knownOrigin.Target}, nil
		}),
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, origins)
			refused := make(chan error, 1)
			l.Refused = func(_ net.Addr, cause error) { refused <- cause }
			accepted := make(chan error, 1)
			go func() {
				_, err := l.Accept()
				accepted <- err
			}()
			// The reset may arrive before connect has returned.
			c, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the agent sees %v, want a reset", err)
			}
			if err := <-refused; err == nil {
				t.Error("refused without a cause")
			}
			if l.Refusals() != 1 {
				t.Errorf("%d refusals", l.Refusals())
			}
			l.Close()
			if err := <-accepted; !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v, want the listener's own end", err)
			}
		})
	}
}

func TestAcceptedConnectionCarriesItsOrigin(t *testing.T) {
	l := listen(t, originsFunc(func(syscall.Conn) (Origin, error) { return knownOrigin, nil }))
	dial(t, l)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Origin != knownOrigin {
		t.Errorf("origin %+v, want %+v", c.Origin, knownOrigin)
	}
}

func TestFillConsumesNothing(t *testing.T) {
	agent, down := net.Pipe()
	defer agent.Close()
	c := NewConn(down, knownOrigin)
	sent := bytes.Repeat([]byte("headgate"), 1000)
	go func() {
		// The reader below tells whether all of it arrived.
		_, _ = agent.Write(sent)
		agent.Close()
	}()
	for len(c.Peeked()) < len(sent)/2 {
		if _, err := c.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes (%v), want the %d that were sent", len(got), err, len(sent))
	}
}

func TestFillIsBounded(t *testing.T) {
	c := NewConn(endless{}, knownOrigin)
	for range 2 * MaxPeek {
		prefix, err := c.Fill()
		if errors.Is(err, ErrPeekFull) {
			if len(prefix) != MaxPeek {
				t.Errorf("full at %d bytes, want %d", len(prefix), MaxPeek)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("an endless agent was read for ever")
}

type endless struct{ net.Conn }

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestHalfCloseIsRefusedWhereTheTransportHasNone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := NewConn(a, knownOrigin).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite: %v, want ErrUnsupported", err)
	}
}
