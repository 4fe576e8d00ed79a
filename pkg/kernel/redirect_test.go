package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

func TestPrivilegedRedirectKeepsTheOrigin(t *testing.T) {
	f := listening(t, Options{})
	cookie, err := NetnsCookie()
	must(t, err)
	jobs, err := cgroup.ID(f.jobs)
	must(t, err)
	tests := []struct {
		name, target, origin, counter string
		mapped                        bool
	}{
		{"v4", "198.51.100.7:5432", "198.51.100.7:5432", "redirected4", false},
		{"v6", "[2001:db8::7]:443", "[2001:db8::7]:443", "redirected6", false},
		{"v4-mapped", "[::ffff:198.51.100.9]:22", "198.51.100.9:22", "redirected_mapped", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := f.count(t, tt.counter)
			r := dial(t, f.jobs, tt.target)[0]
			if r.Errno != 0 || r.Answer != "ok" {
				t.Fatalf("connect: %v, answer %q", r.Errno, r.Answer)
			}
			if r.Peer != tt.target {
				t.Errorf("getpeername says %s, want %s", r.Peer, tt.target)
			}
			s := f.next(t)
			must(t, s.err)
			o := s.origin
			if o.Target != netip.MustParseAddrPort(tt.origin) || o.Mapped != tt.mapped {
				t.Errorf("origin %v (mapped %v), want %s (mapped %v)", o.Target, o.Mapped, tt.origin, tt.mapped)
			}
			if int(o.Process.PID) != s.claim.PID || o.Root != o.Process || o.Process.Start == 0 {
				t.Errorf("process %v, root %v; it was %d", o.Process, o.Root, s.claim.PID)
			}
			if o.Enrolment != 7 || o.UID != 0 || o.Netns != cookie || o.Cgroup != jobs ||
				o.Socket == 0 || o.Time < o.Exec || o.Exec < o.Process.Start {
				t.Errorf("record %+v", o)
			}
			if got := f.count(t, tt.counter); got != before+1 {
				t.Errorf("counter %s went from %d to %d", tt.counter, before, got)
			}
		})
	}
	f.wantInflight(t, 0)
}

func TestPrivilegedThousandConnections(t *testing.T) {
	f := listening(t, Options{})
	const n = 1000
	var targets []string
	for i := range n {
		port := 1000 + i
		switch i % 3 {
		case 0:
			targets = append(targets, fmt.Sprintf("198.51.100.%d:%d", i%250+1, port))
		case 1:
			targets = append(targets, fmt.Sprintf("[2001:db8::%x]:%d", i+1, port))
		case 2:
			targets = append(targets, fmt.Sprintf("[::ffff:198.51.100.%d]:%d", i%250+1, port))
		}
	}
	results := outcome(t, helper(t, f.jobs, "crowd", targets...))
	wrongPeers := 0
	for _, r := range results {
		if r.Errno != 0 {
			t.Fatalf("connect to %s: %v", r.Target, r.Errno)
		}
		if r.Peer != r.Target {
			wrongPeers++
		}
	}
	mismatches := 0
	for range n {
		s := f.next(t)
		want := netip.MustParseAddrPort(s.claim.Target)
		if s.err != nil || s.origin.Target != netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) ||
			s.origin.Mapped != want.Addr().Is4In6() || int(s.origin.Process.PID) != s.claim.PID {
			mismatches++
		}
	}
	if mismatches != 0 || wrongPeers != 0 {
		t.Errorf("%d of %d connections have another's origin, %d another's peer name", mismatches, n, wrongPeers)
	}
	f.wantInflight(t, 0)
	f.wantCount(t, "published", n)
	f.wantCount(t, "handed_over", n)
	t.Logf("%d connections: %d mismatches, 0 in flight", n, mismatches)
}

func TestPrivilegedProcessOutsideTheTreeIsUntouched(t *testing.T) {
	f := listening(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go f.accept(l)
	// In the attached cgroup, but under no rule.
	r := dial(t, f.dir, l.Addr().String())[0]
	if r.Errno != 0 || r.Peer != l.Addr().String() {
		t.Fatalf("connect: %v, peer %s", r.Errno, r.Peer)
	}
	if s := f.next(t); s.err == nil {
		t.Errorf("an unmediated connection has the origin %+v", s.origin)
	}
	// Nobody is there; it must go to the network and not to the proxy.
	r = dial(t, f.dir, fmt.Sprintf("127.0.0.1:%d", f.port))[0]
	if r.Errno != 0 {
		t.Errorf("a process that is not enrolled may not connect to the proxy: %v", r.Errno)
	}
	if s := f.next(t); s.err == nil {
		t.Errorf("a direct connection to the proxy has the origin %+v", s.origin)
	}
	for _, name := range []string{"redirected4", "loopback", "published"} {
		f.wantCount(t, name, 0)
	}
	f.wantCount(t, "handover_missed", 1)
}

func TestPrivilegedNoListenerRefuses(t *testing.T) {
	f := attach(t, Options{})
	id, err := cgroup.ID(f.jobs)
	must(t, err)
	must(t, f.EnrolCgroup(id, 7))
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432", "[2001:db8::7]:5432", "[::ffff:198.51.100.7]:5432"), unix.EPERM)
	f.wantCount(t, "denied_no_listener", 3)
}

func TestPrivilegedOtherNetworkNamespaceRefuses(t *testing.T) {
	f := listening(t, Options{})
	cmd := helper(t, f.jobs, "dial", "198.51.100.7:5432")
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	wantErrno(t, outcome(t, cmd), unix.EPERM)
	f.wantCount(t, "denied_no_listener", 1)
}

func TestPrivilegedListenerInAnotherNamespaceServesIt(t *testing.T) {
	f := listening(t, Options{})
	testenv.Netns(t, func() {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		go f.accept(l)
		cookie, err := NetnsCookie()
		if err != nil {
			t.Error(err)
			return
		}
		if err := f.SetListener(cookie, uint16(l.Addr().(*net.TCPAddr).Port)); err != nil {
			t.Error(err)
			return
		}
		// The helper is forked by this thread, and inherits its namespace.
		r := dial(t, f.jobs, "198.51.100.8:5432")[0]
		if r.Errno != 0 || r.Peer != "198.51.100.8:5432" {
			t.Errorf("connect: %v, peer %s", r.Errno, r.Peer)
			return
		}
		s := f.next(t)
		if s.err != nil || s.origin.Netns != cookie {
			t.Errorf("origin in namespace %d (%v), want %d", s.origin.Netns, s.err, cookie)
		}
	})
}

func TestPrivilegedProxyDownRefuses(t *testing.T) {
	f := listening(t, Options{})
	f.stop()
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432", "[2001:db8::7]:443", "[::ffff:198.51.100.9]:22"), unix.EPERM)
	f.wantCount(t, "denied_no_listener", 3)
	f.wantInflight(t, 0)
}

func TestPrivilegedConnectionGivenUpLeavesNothing(t *testing.T) {
	f := listening(t, Options{})
	f.stop()
	// A proxy that hangs: its backlog holds one connection, then SYNs are lost.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(f.port)}))
	must(t, unix.Listen(fd, 0))
	out, err := helper(t, f.jobs, "giveup", "20", "198.51.100.7:5432").Output()
	must(t, err)
	if string(out) != "20" {
		t.Errorf("%s of 20 connections were begun", out)
	}
	f.wantCount(t, "published", 20)
	if n := f.count(t, "withdrawn"); n == 0 || n+f.count(t, "handed_over") != 20 {
		t.Errorf("%d of 20 records were withdrawn", n)
	}
	f.wantInflight(t, 0)
}

func TestPrivilegedStaleHeartbeatRefuses(t *testing.T) {
	f := listening(t, Options{})
	must(t, f.SetHeartbeatLimit(time.Hour))
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
	must(t, f.SetHeartbeatLimit(time.Nanosecond))
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432", "127.0.0.1:1"), unix.EPERM)
	f.wantCount(t, "denied_stale", 2)
	must(t, f.SetHeartbeatLimit(0))
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
}

func TestPrivilegedUnknownPolicyRefuses(t *testing.T) {
	privileges(t)
	f := &fixture{dir: testenv.Cgroup(t)}
	k, err := Open(Options{CgroupPath: f.dir})
	must(t, err)
	defer k.Close()
	id, err := cgroup.ID(f.dir)
	must(t, err)
	must(t, k.EnrolCgroup(id, 1))
	wantErrno(t, dial(t, f.dir, "127.0.0.1:1"), unix.EPERM)
	must(t, k.SetDestinations(nil))
	wantErrno(t, dial(t, f.dir, "127.0.0.1:1"), unix.ECONNREFUSED)
}

func TestPrivilegedDestinationsDecide(t *testing.T) {
	f := listening(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go f.accept(l)
	local := l.Addr().(*net.TCPAddr).AddrPort()
	prefix := netip.MustParsePrefix
	must(t, f.SetDestinations(append(MetadataDestinations(),
		Destination{Prefix: prefix("198.51.100.0/24"), Port: 0, Verdict: Deny},
		Destination{Prefix: prefix("198.51.100.7/32"), Port: 5432, Verdict: Proxy}, // loses to the denial for any port
		Destination{Prefix: prefix("203.0.113.0/24"), Port: 0, Verdict: Proxy},
		Destination{Prefix: prefix("203.0.113.0/24"), Port: 25, Verdict: Deny},
		Destination{Prefix: prefix("169.254.0.0/16"), Port: 80, Verdict: Direct},
		Destination{Prefix: prefix("2001:db8:1::/48"), Port: 0, Verdict: Deny},
		Destination{Prefix: prefix("127.0.0.1/32"), Port: local.Port() + 1, Verdict: Proxy},
	)))
	tests := []struct {
		target string
		want   syscall.Errno
	}{
		{"198.51.100.1:5432", unix.EPERM},
		{"[::ffff:198.51.100.1]:5432", unix.EPERM},
		{"198.51.100.7:5432", unix.EPERM},
		{"203.0.113.1:5432", 0},
		{"203.0.113.1:25", unix.EPERM},
		{"[2001:db8:1::9]:443", unix.EPERM},
		{"[2001:db8:2::9]:443", 0},
		{"169.254.169.254:80", unix.EPERM},
		{"[::ffff:169.254.169.254]:80", unix.EPERM},
		{"169.254.170.2:80", unix.EPERM},
		{"169.254.170.23:80", unix.EPERM},
		{"[fd00:ec2::254]:80", unix.EPERM},
		{"[fd00:ec2::23]:80", unix.EPERM},
		{"[fd00:ec2::25]:80", 0},
	}
	for _, tt := range tests {
		wantErrno(t, dial(t, f.jobs, tt.target), tt.want)
		if tt.want == 0 {
			must(t, f.next(t).err)
		}
	}
	// Replacing the list takes the old rules away.
	must(t, f.SetDestinations(nil))
	wantErrno(t, dial(t, f.jobs, "198.51.100.1:5432", "169.254.169.254:80"), 0)
}

func TestPrivilegedLoopbackPassesUnlessARuleNamesIt(t *testing.T) {
	f := listening(t, Options{})
	l, err := net.Listen("tcp", "[::]:0") // dual stack
	must(t, err)
	defer l.Close()
	go f.accept(l)
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	var targets []string
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "127.8.9.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"} {
		targets = append(targets, fmt.Sprintf("%s:%d", host, port))
	}
	for _, r := range dial(t, f.jobs, targets...) {
		if r.Errno != 0 {
			t.Errorf("connect to %s: %v", r.Target, r.Errno)
			continue
		}
		if s := f.next(t); s.err == nil {
			t.Errorf("%s was redirected to %v", r.Target, s.origin.Target)
		}
	}
	f.wantCount(t, "loopback", 7)
	must(t, f.SetDestinations([]Destination{
		{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Port: port, Verdict: Proxy},
		{Prefix: netip.MustParsePrefix("::1/128"), Port: port, Verdict: Proxy},
	}))
	for _, r := range dial(t, f.jobs, targets...) {
		if r.Errno != 0 {
			t.Errorf("connect to %s: %v", r.Target, r.Errno)
			continue
		}
		s := f.next(t)
		if s.err != nil || !s.origin.Target.Addr().IsLoopback() || s.origin.Target.Port() != port {
			t.Errorf("%s reached the proxy as %v (%v)", r.Target, s.origin.Target, s.err)
		}
	}
}

func TestPrivilegedOwnPortIsRefused(t *testing.T) {
	f := listening(t, Options{})
	var targets []string
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"} {
		targets = append(targets, fmt.Sprintf("%s:%d", host, f.port))
	}
	wantErrno(t, dial(t, f.jobs, targets...), unix.EPERM)
	f.wantCount(t, "denied_own_port", uint64(len(targets)))
}

func TestPrivilegedDaemonIsExempt(t *testing.T) {
	f := listening(t, Options{})
	must(t, f.EnrolUID(uint32(os.Getuid()), 1))
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	must(t, f.SetDestinations([]Destination{{Prefix: netip.MustParsePrefix("127.0.0.1/32"), Port: uint16(l.Addr().(*net.TCPAddr).Port), Verdict: Deny}}))
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatalf("the daemon itself is mediated: %v", err)
	}
	must(t, c.Close())
	// The same process is mediated once it is no longer the daemon.
	self, err := f.StartOf(os.Getpid())
	must(t, err)
	self.Start++
	must(t, f.SetDaemon(self, 0))
	if c, err := net.Dial("tcp4", l.Addr().String()); err == nil {
		must(t, c.Close())
		t.Error("a process with the daemon's pid and another start time is exempt")
	}
	id, err := cgroup.ID(f.dir)
	must(t, err)
	if err := f.SetDaemon(self, id); err == nil {
		t.Error("the mediated cgroup may be exempted as a whole")
	}
}

func TestPrivilegedSocketThatConnectsAgainForgetsItsOrigin(t *testing.T) {
	f := listening(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	// Nobody listens on the echo port.
	divert(t, f, netip.MustParseAddrPort("127.0.0.1:7"))
	out := outcome(t, helper(t, f.jobs, "twice", "198.51.100.7:5432", l.Addr().String()))
	if out[0].Errno != unix.ECONNREFUSED || out[1].Errno != 0 || out[1].Peer != l.Addr().String() {
		t.Errorf("got %+v, want a refusal, and then the real peer", out)
	}
}
