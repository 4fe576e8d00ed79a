package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// pair returns the two ends of a TCP connection.
func pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	accepted, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return dialled, accepted
}

func wrap(t testing.TB, tcp *net.TCPConn) *Conn {
	t.Helper()
	c, err := New(tcp)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAConnDoesWhatAnyNetConnHasToDo(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		near, far := pair(t)
		one, other := wrap(t, near), wrap(t, far)
		return one, other, func() { _, _ = one.Close(), other.Close() }, nil
	})
}

// endings are ways to get an error of a connection.
var endings = []struct {
	name string
	do   func(near net.Conn, far carrier) error
}{
	{"read after close", func(near net.Conn, _ carrier) error {
		return errors.Join(near.Close(), second(near.Read(make([]byte, 1))))
	}},
	{"write after close", func(near net.Conn, _ carrier) error {
		return errors.Join(near.Close(), second(near.Write([]byte("x"))))
	}},
	{"read past the deadline", func(near net.Conn, _ carrier) error {
		return errors.Join(near.SetDeadline(time.Unix(1, 0)), second(near.Read(make([]byte, 1))))
	}},
	{"write past the deadline", func(near net.Conn, _ carrier) error {
		return errors.Join(near.SetDeadline(time.Unix(1, 0)), second(near.Write([]byte("x"))))
	}},
	{"read at the end", func(near net.Conn, far carrier) error {
		return errors.Join(far.CloseWrite(), second(near.Read(make([]byte, 1))))
	}},
	{"read of a reset connection", func(near net.Conn, far carrier) error {
		return errors.Join(far.SetLinger(0), far.Close(), second(near.Read(make([]byte, 1))))
	}},
	{"write behind the own end", func(near net.Conn, _ carrier) error {
		return errors.Join(near.(interface{ CloseWrite() error }).CloseWrite(), second(near.Write([]byte("x"))))
	}},
}

func TestErrorsAreThoseOfPackageNet(t *testing.T) {
	for _, c := range endings {
		t.Run(c.name, func(t *testing.T) {
			plain, far := pair(t)
			want := c.do(plain, far)
			near, far := pair(t)
			sameError(t, c.do(wrap(t, near), far), want)
		})
	}
}

// sameError compares an error with that of package net.
func sameError(t *testing.T, got, want error) {
	t.Helper()
	if want == nil || got == nil {
		t.Fatalf("package net says %v, Conn says %v", want, got)
	}
	for _, kind := range []error{io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(want, kind) != errors.Is(got, kind) {
			t.Errorf("package net says %v, Conn says %v", want, got)
		}
	}
	var wantOp, gotOp *net.OpError
	if errors.As(want, &wantOp) != errors.As(got, &gotOp) || wantOp != nil && (wantOp.Op != gotOp.Op || wantOp.Timeout() != gotOp.Timeout()) {
		t.Errorf("package net says %v, Conn says %v", want, got)
	}
}

func second(_ int, err error) error { return err }

func TestCloseEndsWhatWaits(t *testing.T) {
	near, _ := pair(t)
	c := wrap(t, near)
	done := make(chan error, 2)
	go func() { done <- second(c.Read(make([]byte, 1))) }()
	go func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil { // nobody reads
				done <- err
				return
			}
		}
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("what waited ended with %v", err)
		}
	}
}

func TestALargeWriteIsWholeForASlowReader(t *testing.T) {
	near, far := pair(t)
	c := wrap(t, near)
	sent := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	done := make(chan error, 1)
	go func() { done <- errors.Join(second(c.Write(sent)), c.CloseWrite()) }()
	got, err := io.ReadAll(sipping{far})
	if err = errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes arrived of %d, or others", len(got), len(sent))
	}
}

// sipping reads a little at a time.
type sipping struct{ io.Reader }

func (r sipping) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 777)]) }

func TestAClosedSocketCannotBeTaken(t *testing.T) {
	near, _ := pair(t)
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := New(near); err == nil {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed socket was read: %v", err)
		}
	}
}

// BenchmarkEcho is a query and its answer on both ends of a connection.
func BenchmarkEcho(b *testing.B) {
	for _, c := range []struct {
		name string
		of   func(*net.TCPConn) net.Conn
	}{
		{"net", func(tcp *net.TCPConn) net.Conn { return tcp }},
		{"socket", func(tcp *net.TCPConn) net.Conn { return wrap(b, tcp) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			near, far := pair(b)
			one, other := c.of(near), c.of(far)
			go func() {
				p := make([]byte, 64)
				for {
					if _, err := io.ReadFull(other, p); err != nil {
						return
					}
					if _, err := other.Write(p); err != nil {
						return
					}
				}
			}()
			p := make([]byte, 64)
			for b.Loop() {
				if _, err := one.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(one, p); err != nil {
					b.Fatal(err)
				}
			}
			_ = near.Close()
		})
	}
}
