package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/socket"
)

// namespace is a network namespace of a test's own, with a listener.
type namespace struct {
	fd     int
	cookie uint64
	tcp    *net.TCPListener
	udp    *net.UDPConn
	full   netip.AddrPort // a listener that takes no more connections
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{}
	testenv.Netns(t, func() {
		n.fd = mustFD(t)(unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0))
		var err error
		if n.tcp, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Error(err)
			return
		}
		if n.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Error(err)
			return
		}
		n.full = fullListener(t)
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _, _ = n.tcp.Close(), n.udp.Close() }) // may be closed by the test
	n.cookie = cookieOf(t, n.tcp)
	return n
}

func mustFD(t *testing.T) func(int, error) int {
	return func(fd int, err error) int {
		t.Helper()
		if err != nil {
			t.Error(err)
			runtime.Goexit()
		}
		t.Cleanup(func() {
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		})
		return fd
	}
}

// fullListener makes a listener in the calling thread's namespace whose queue
// is full: a connect to it waits for ever.
func fullListener(t *testing.T) netip.AddrPort {
	t.Helper()
	l := mustFD(t)(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(l, loopback), unix.Listen(l, 0)); err != nil {
		t.Error(err)
	}
	bound, err := unix.Getsockname(l)
	if err != nil {
		t.Error(err)
	}
	loopback.Port = bound.(*unix.SockaddrInet4).Port
	for range 3 {
		c := mustFD(t)(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
		if err := unix.Connect(c, loopback); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Error(err)
		}
	}
	return netip.AddrPortFrom(netip.AddrFrom4(loopback.Addr), uint16(loopback.Port))
}

func cookieOf(t *testing.T, of interface {
	SyscallConn() (syscall.RawConn, error)
}) uint64 {
	t.Helper()
	raw, err := of.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cookie uint64
	controlErr := raw.Control(func(fd uintptr) { cookie, err = socket.Netns(int(fd)) })
	if err := errors.Join(err, controlErr); err != nil {
		t.Fatal(err)
	}
	return cookie
}

// dialer knows this namespace and no other.
func (n *namespace) dialer(t *testing.T) Dialer {
	return Dialer{Namespaces: func(cookie uint64) (int, func(), error) {
		if cookie != n.cookie {
			return -1, nil, errors.New("never heard of it")
		}
		released := false
		t.Cleanup(func() {
			if !released {
				t.Error("a namespace was not released")
			}
		})
		return n.fd, func() { released = true }, nil
	}}
}

// sameOnHost listens on the host at the address of l, and fails the test if
// somebody comes.
func sameOnHost(t *testing.T, l net.Listener) {
	t.Helper()
	host, err := net.Listen("tcp4", l.Addr().String())
	if err != nil {
		testenv.Skip(t, "needs a port that is free: "+err.Error())
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		if conn, err := host.Accept(); err == nil {
			_ = conn.Close() // that there was one is the failure
			t.Error("the dial reached the host's own namespace")
		}
	})
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
		watching.Wait()
	})
}

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

func TestPrivilegedDialReachesTheTargetOfTheAgentsNamespace(t *testing.T) {
	n := newNamespace(t)
	sameOnHost(t, n.tcp)
	conn, err := n.dialer(t).Dial(t.Context(), Target{Addr: addrOf(n.tcp), Netns: n.cookie})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := n.tcp.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	accepted, err := n.tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(accepted, "inside"); err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "inside" {
		t.Errorf("read %q (%v)", got, err)
	}
	if conn.RemoteAddr().String() != n.tcp.Addr().String() || conn.LocalAddr().String() != accepted.RemoteAddr().String() {
		t.Errorf("addresses %v and %v", conn.LocalAddr(), conn.RemoteAddr())
	}
	raw, err := conn.(*socket.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for name, option := range map[string][2]int{
			"TCP_NODELAY": {unix.IPPROTO_TCP, unix.TCP_NODELAY}, "SO_KEEPALIVE": {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		} {
			if v, err := unix.GetsockoptInt(int(fd), option[0], option[1]); err != nil || v == 0 {
				t.Errorf("%s is %d, %v", name, v, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPrivilegedDatagramsGoThroughTheAgentsNamespace(t *testing.T) {
	n := newNamespace(t)
	conn, err := n.dialer(t).Dial(t.Context(), Target{Addr: n.udp.LocalAddr().(*net.UDPAddr).AddrPort(), Network: UDP, Netns: n.cookie})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange(t, conn, n.udp)
}

func TestDatagramsAreFramedOnTheWayThere(t *testing.T) {
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	conn, err := Dialer{}.Dial(t.Context(), Target{Addr: udp.LocalAddr().(*net.UDPAddr).AddrPort(), Network: UDP})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange(t, conn, udp)
}

// exchange sends a framed message and gets it back.
func exchange(t *testing.T, conn net.Conn, udp *net.UDPConn) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(conn.SetDeadline(deadline), udp.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	message := append(binary.BigEndian.AppendUint16(nil, 8), "headgate"...)
	if _, err := conn.Write(message); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	size, from, err := udp.ReadFromUDPAddrPort(buffer)
	if err != nil || string(buffer[:size]) != "headgate" {
		t.Fatalf("the target got %q (%v)", buffer[:size], err)
	}
	if _, err := udp.WriteToUDPAddrPort(buffer[:size], from); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, buffer[:len(message)]); err != nil || string(buffer[:len(message)]) != string(message) {
		t.Errorf("came back as %q (%v)", buffer[:len(message)], err)
	}
}

// An address of the agent's namespace may be a service of the host's.
func TestPrivilegedUnknownNamespaceIsNeverTheHosts(t *testing.T) {
	n, other := newNamespace(t), newNamespace(t)
	sameOnHost(t, n.tcp)
	target := Target{Addr: addrOf(n.tcp), Netns: n.cookie}
	wrong := Dialer{Namespaces: func(uint64) (int, func(), error) { return other.fd, func() {}, nil }}
	own := mustFD(t)(unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	for name, d := range map[string]Dialer{
		"nobody knows any":       {},
		"nobody knows this one":  other.dialer(t),
		"it is another":          wrong,
		"it is the host's":       {Namespaces: func(uint64) (int, func(), error) { return own, func() {}, nil }},
		"it is nothing":          {Namespaces: func(uint64) (int, func(), error) { return -1, func() {}, nil }},
		"it is no such thing":    {Namespaces: func(uint64) (int, func(), error) { return 0, func() {}, nil }},
		"nothing was to be said": {Namespaces: func(uint64) (int, func(), error) { return -1, nil, errors.New("gone") }},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := d.Dial(t.Context(), target)
			if err == nil {
				_ = conn.Close() // that there is one is the failure
			}
			if !errors.Is(err, ErrNamespace) || Reason(err) != "namespace" {
				t.Errorf("got %v, reason %q", err, Reason(err))
			}
		})
	}
	if _, err := n.dialer(t).Dial(t.Context(), Target{Addr: addrOf(n.tcp)}); !errors.Is(err, ErrNamespace) {
		t.Errorf("a target that names no namespace: %v", err)
	}
}

func TestOwnNamespaceIsDialledDirectly(t *testing.T) {
	l, addr := mustListen(t)
	d := Dialer{Namespaces: func(uint64) (int, func(), error) {
		t.Error("the own namespace was looked for")
		return -1, nil, errors.New("unknown")
	}}
	conn, err := d.Dial(t.Context(), Target{Addr: addr, Netns: cookieOf(t, l.(*net.TCPListener))})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func TestPrivilegedErrorsFromOtherNamespacesAreSorted(t *testing.T) {
	n := newNamespace(t)
	if err := n.tcp.Close(); err != nil {
		t.Fatal(err)
	}
	d := n.dialer(t)
	d.Timeout = 50 * time.Millisecond
	for want, addr := range map[string]netip.AddrPort{
		"refused": addrOf(n.tcp), "unreachable": netip.MustParseAddrPort("192.0.2.1:80"), "timeout": n.full,
	} {
		conn, err := d.Dial(t.Context(), Target{Addr: addr, Netns: n.cookie})
		if err == nil {
			_ = conn.Close() // that there is one is the failure
		}
		if Reason(err) != want {
			t.Errorf("%s: got %v, reason %q", want, err, Reason(err))
		}
	}
	d.Timeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := d.Dial(ctx, Target{Addr: n.full, Netns: n.cookie})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a dial that was given up: %v", err)
	}
}

// strayed returns the threads of the process that are in another network
// namespace than want.
func strayed(t *testing.T, want string) []string {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads: %v (%v)", threads, err)
	}
	var list []string
	for _, path := range threads {
		// One that testenv took away, and that can't die, is the main thread. A
		// thread may have ended.
		if path == fmt.Sprintf("/proc/self/task/%d/ns/net", os.Getpid()) {
			continue
		}
		if in, err := os.Readlink(path); err == nil && in != want {
			list = append(list, path+" is in "+in)
		}
	}
	return list
}

// waitForNobodyAway waits for threads that have to die to be dead.
func waitForNobodyAway(t *testing.T) {
	t.Helper()
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(strayed(t, own)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("threads in other namespaces: %v", strayed(t, own))
		}
		runtime.Gosched()
	}
}

func TestPrivilegedNoThreadStaysAway(t *testing.T) {
	n := newNamespace(t)
	d := n.dialer(t)
	var dials sync.WaitGroup
	for range 64 {
		dials.Go(func() {
			conn, err := d.Dial(t.Context(), Target{Addr: n.udp.LocalAddr().(*net.UDPAddr).AddrPort(), Network: UDP, Netns: n.cookie})
			if err != nil {
				t.Error(err)
				return
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	dials.Wait()
	waitForNobodyAway(t)
}

func TestPrivilegedThreadThatCantComeBackDies(t *testing.T) {
	n := newNamespace(t)
	stuck := errors.New("stuck")
	_, err := excursion(func() (int, error, error) {
		if unix.Gettid() == unix.Getpid() {
			t.Error("the main thread went")
		}
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return -1, err, nil
		}
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return socket, err, stuck
	})
	if !errors.Is(err, stuck) {
		t.Errorf("got %v", err)
	}
	waitForNobodyAway(t)
}
