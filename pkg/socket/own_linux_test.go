package socket

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// acceptor returns one of a listener on this host.
func acceptor(t testing.TB) (*Acceptor, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nothing comes of it any more
	a, err := NewAcceptor(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // may be closed by the test
	return a, l.Addr().(*net.TCPAddr).AddrPort()
}

// owns returns the two ends of a connection that package net never saw.
func owns(t testing.TB) (dialled, accepted *Conn) {
	t.Helper()
	a, addr := acceptor(t)
	fd, err := Open(unix.AF_INET, unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	// A busy machine may answer later. Whom Accept returns has been answered.
	if errno := Connect(fd, addr, 0); errno != 0 && errno != unix.EINPROGRESS {
		t.Fatal(errors.Join(errno, unix.Close(fd)))
	}
	if dialled, err = Own(fd, addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	if accepted, err = a.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return dialled, accepted
}

func TestAnOwnedSocketDoesWhatAnyNetConnHasToDo(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		one, other := owns(t)
		return one, other, func() { _, _ = one.Close(), other.Close() }, nil
	})
}

func TestErrorsOfAnOwnedSocketAreThoseOfPackageNet(t *testing.T) {
	for _, c := range endings {
		t.Run(c.name, func(t *testing.T) {
			plain, far := pair(t)
			want := c.do(plain, far)
			near, other := owns(t)
			sameError(t, c.do(near, other), want)
		})
	}
	near, _ := owns(t)
	plain, _ := pair(t)
	sameError(t, errors.Join(near.Close(), near.Close()), errors.Join(plain.Close(), plain.Close()))
	sameError(t, near.SetDeadline(time.Time{}), plain.SetDeadline(time.Time{}))
	sameError(t, near.CloseWrite(), plain.CloseWrite())
}

func TestBothEndsOfAnOwnedSocketKnowTheirAddresses(t *testing.T) {
	dialled, accepted := owns(t)
	if dialled.LocalAddr().String() != accepted.RemoteAddr().String() || dialled.RemoteAddr().String() != accepted.LocalAddr().String() {
		t.Errorf("%v to %v at one end, %v to %v at the other", dialled.LocalAddr(), dialled.RemoteAddr(), accepted.LocalAddr(), accepted.RemoteAddr())
	}
	if err := dialled.Close(); err != nil {
		t.Fatal(err)
	}
	if dialled.LocalAddr() != nil {
		t.Errorf("a closed socket has the address %v", dialled.LocalAddr())
	}
}

func TestAcceptedConnectionsHaveTheOptionsOfTheListener(t *testing.T) {
	_, accepted := owns(t)
	raw, err := accepted.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for name, o := range map[string]struct{ level, option, want int }{
			"TCP_NODELAY":   {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			"SO_KEEPALIVE":  {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			"TCP_KEEPIDLE":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		} {
			if v, err := unix.GetsockoptInt(int(fd), o.level, o.option); err != nil || v != o.want {
				t.Errorf("%s is %d (%v), want %d", name, v, err, o.want)
			}
		}
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("a program that is started would have the socket: %x, %v", flags, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAcceptEndsByDeadlineAndByClose(t *testing.T) {
	a, _ := acceptor(t)
	if err := a.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	if err := a.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.Accept()
		done <- err
	}()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestAListenerOutlivesItsAcceptor(t *testing.T) {
	l, err := net.ListenTCP("tcp6", &net.TCPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 {
		a, err := NewAcceptor(l)
		if err != nil {
			t.Fatal(err)
		}
		agent, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := a.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if accepted.RemoteAddr().String() != agent.LocalAddr().String() {
			t.Errorf("accepted %v, want %v", accepted.RemoteAddr(), agent.LocalAddr())
		}
		if err := errors.Join(agent.Close(), accepted.Close(), a.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsNoSocketIsNotOwned(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Own(fd, netip.AddrPort{}); err == nil {
		t.Error("a file that cannot be waited for was taken")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("its descriptor is open: %v", err)
	}
}

// BenchmarkConnection is a connection that is made, says one byte each way, and
// ends.
func BenchmarkConnection(b *testing.B) {
	a, addr := acceptor(b)
	one := make([]byte, 1)
	for b.Loop() {
		fd, err := Open(unix.AF_INET, unix.SOCK_STREAM)
		if err != nil {
			b.Fatal(err)
		}
		if errno := Connect(fd, addr, 0); errno != 0 && errno != unix.EINPROGRESS {
			b.Fatal(errno)
		}
		near, err := Own(fd, addr)
		if err != nil {
			b.Fatal(err)
		}
		far, err := a.Accept()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := near.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(far, one); err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(near.Close(), far.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
