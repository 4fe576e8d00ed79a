package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/process"
)

// everywhere is the port at every address that takes loopback's.
func everywhere(port uint16) []string {
	var targets []string
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "127.0.0.2", "[::1]", "[::]", "[::ffff:127.0.0.1]"} {
		targets = append(targets, fmt.Sprintf("%s:%d", host, port))
	}
	return targets
}

// listens starts a helper that listens on the addresses until the test ends.
func listens(t *testing.T, dir string, addrs ...string) []dialed {
	t.Helper()
	o := obey(t, helper(t, dir, "listen", addrs...))
	var results []dialed
	must(t, o.out.Decode(&results))
	return results
}

func TestPrivilegedNobodyElseMayBindTheProxysPort(t *testing.T) {
	f := listening(t, Options{})
	port := everywhere(f.port)
	// Refused at once, and not only because it is taken.
	wantErrno(t, outcome(t, helper(t, f.dir, "listen", port...)), unix.EPERM)
	f.stop()
	// Enrolled or not.
	for _, dir := range []string{f.jobs, f.dir} {
		wantErrno(t, outcome(t, helper(t, dir, "listen", port...)), unix.EPERM)
		wantErrno(t, outcome(t, helper(t, dir, "listen", "127.0.0.1:0", "unbound")), 0)
		wantErrno(t, outcome(t, helper(t, dir, "listen", fmt.Sprintf("udp:127.0.0.1:%d", f.port))), unix.EPERM)
	}
	f.wantCount(t, "denied_bind", uint64(3*len(port)+2))
	must(t, f.Suspend())
	wantErrno(t, listens(t, f.dir, port...), unix.EPERM)
	// Other namespaces have their own ports.
	cmd := helper(t, f.jobs, "listen", fmt.Sprintf("0.0.0.0:%d", f.port))
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	wantErrno(t, outcome(t, cmd), 0)
	cookie, err := NetnsCookie()
	must(t, err)
	must(t, f.RemoveListener(cookie))
	wantErrno(t, listens(t, f.dir, port[0]), 0)
}

func TestPrivilegedKernelDoesNotChooseTheProxysPortForOthers(t *testing.T) {
	f := listening(t, Options{})
	testenv.Netns(t, func() {
		// The kernel has one port to choose.
		const port = 20000
		must(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 20000"), 0))
		cookie, err := NetnsCookie()
		must(t, err)
		must(t, f.SetListener(cookie, port))
		wantErrno(t, listens(t, f.dir, "0.0.0.0:0", "[::]:0"), unix.EPERM)
		f.wantCount(t, "denied_bind", 2)
		// No hook sees a listen without a bind.
		thief := listens(t, f.dir, "unbound")[0]
		if thief.Errno != 0 || thief.Answer != strconv.Itoa(port) {
			t.Fatalf("listen without bind: %v, port %s; this test has lost its subject", thief.Errno, thief.Answer)
		}
		wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), unix.EPERM)
		f.wantCount(t, "denied_foreign_listener", 1)
	})
}

func TestPrivilegedRedirectNeverReachesAThief(t *testing.T) {
	f := listening(t, Options{})
	f.stop()
	// Out of reach of the hooks.
	outside := testenv.Cgroup(t)
	wantErrno(t, listens(t, outside, fmt.Sprintf("127.0.0.1:%d", f.port), fmt.Sprintf("[::1]:%d", f.port)), 0)
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432", "[2001:db8::7]:443", "[::ffff:198.51.100.9]:22"), unix.EPERM)
	f.wantCount(t, "denied_foreign_listener", 3)
	f.wantCount(t, "redirected4", 0)
}

func TestPrivilegedSuspendedListenerRefuses(t *testing.T) {
	f := listening(t, Options{})
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
	must(t, f.Suspend())
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432", "[2001:db8::7]:443"), unix.EPERM)
	f.wantCount(t, "denied_no_listener", 2)
	wantErrno(t, dial(t, f.jobs, fmt.Sprintf("127.0.0.1:%d", f.port)), unix.EPERM)
	f.wantCount(t, "denied_own_port", 1)
	cookie, err := NetnsCookie()
	must(t, err)
	must(t, f.SetListener(cookie, f.port))
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
}

// The order of a daemon that comes back after kill -9: open, suspend, say who it
// is, listen, redirect.
func TestPrivilegedNextDaemonFindsItsPortFree(t *testing.T) {
	o := Options{PinDir: filepath.Join(testenv.BPFFS(t), "headgate")}
	f := listening(t, o)
	f.stop()
	// The daemon was another process.
	must(t, f.SetDaemon(process.ID{PID: 1<<22 - 1, Start: 1}, 0))
	must(t, f.Kernel.Close())
	addr := fmt.Sprintf("127.0.0.1:%d", f.port)
	bind := func() syscall.Errno {
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			must(t, l.Close())
		}
		return errnoOf(err)
	}
	wantErrno(t, listens(t, f.jobs, addr), unix.EPERM)
	if got := bind(); got != unix.EPERM {
		t.Fatalf("bind while no daemon runs: %v", got)
	}
	k, err := Open(Options{CgroupPath: f.dir, PinDir: o.PinDir})
	must(t, err)
	f.Kernel = k
	must(t, k.Suspend())
	if got := bind(); got != unix.EPERM {
		t.Fatalf("bind before the new daemon said who it is: %v", got)
	}
	must(t, f.introduce())
	if got := bind(); got != 0 {
		t.Fatalf("the new daemon cannot bind its port: %v", got)
	}
	f.listenAt(t, f.port)
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
	f.stop()
	must(t, f.Detach())
}

func TestPrivilegedDivertedConnectionIsNotPublished(t *testing.T) {
	f := listening(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go f.accept(l)
	divert(t, f, l.Addr().(*net.TCPAddr).AddrPort())
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
	if s := f.next(t); !errors.Is(s.err, ErrNoOrigin) {
		t.Errorf("a connection past the proxy has the origin %+v (%v)", s.origin, s.err)
	}
	f.wantCount(t, "redirected4", 1)
	f.wantCount(t, "diverted", 1)
	f.wantCount(t, "published", 0)
	f.wantInflight(t, 0)
}

func TestPrivilegedLentSocketBringsNoOriginToTheProxy(t *testing.T) {
	f := listening(t, Options{})
	// The redirect of the enrolled process fails, and its record stays.
	divert(t, f, netip.MustParseAddrPort("127.0.0.1:7"))
	proxy := fmt.Sprintf("0.0.0.0:%d", f.port)
	out := outcome(t, helper(t, f.dir, "lend", f.jobs, "198.51.100.7:5432", proxy))
	if out[0].Errno != unix.ECONNREFUSED || out[1].Errno != 0 {
		t.Fatalf("got %+v, want a refusal and a connection", out)
	}
	if want := fmt.Sprintf("127.0.0.1:%d", f.port); out[1].Peer != want {
		t.Errorf("getpeername says %s, want %s", out[1].Peer, want)
	}
	if s := f.next(t); !errors.Is(s.err, ErrNoOrigin) {
		t.Errorf("an accomplice's connection has the origin %+v (%v)", s.origin, s.err)
	}
	f.wantCount(t, "published", 0)
}
