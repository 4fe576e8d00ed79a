package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/transparent"
)

// asked is what the resolver saw of one datagram.
type asked struct {
	origin transparent.Origin
	err    error
	text   string
}

// resolve opens a resolver on the proxy's port that answers every datagram of
// which it knows the origin.
func (f *fixture) resolve(t *testing.T, netns uint64) (closeAll func() error) {
	t.Helper()
	var conns []*net.UDPConn
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: int(f.port)})
		must(t, err)
		conns = append(conns, c)
		go f.answer(c, netns)
	}
	return func() error { return errors.Join(conns[0].Close(), conns[1].Close()) }
}

func (f *fixture) answer(c *net.UDPConn, netns uint64) {
	for b := make([]byte, 2048); ; {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		a := asked{text: string(b[:n])}
		a.origin, a.err = f.DatagramOrigin(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), netns)
		if a.err == nil {
			_, a.err = c.WriteToUDPAddrPort([]byte("answer to "+a.text), from)
		}
		select {
		case f.asked <- a:
		default: // nobody looks
		}
	}
}

func (f *fixture) nextAsked(t *testing.T) asked {
	t.Helper()
	select {
	case a := <-f.asked:
		return a
	case <-time.After(patience):
		t.Fatal("the resolver was asked nothing")
		return asked{}
	}
}

// sendRole sends a datagram to each target. To port 53 it waits for an answer,
// unless the send was refused. A target may begin with the name of a way;
// "nowait" is for those that nobody answers.
func sendRole(targets []string) error {
	var results []dialed
	for _, target := range targets {
		how, addr, ok := strings.Cut(target, "=")
		if !ok {
			how, addr = "sendto", target
		}
		d := dialed{Target: target}
		d.Errno = errnoOf(send(how, netip.MustParseAddrPort(addr), &d))
		results = append(results, d)
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func send(how string, ap netip.AddrPort, d *dialed) error {
	family, sa := sockaddr(ap.String())
	if how == "v4-on-v6" {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	wait := patience
	if ap.Port() != dnsPort || how == "nowait" {
		wait = time.Millisecond
	}
	limit := unix.NsecToTimeval(wait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	switch how {
	case "connect":
		if err := unix.Connect(fd, sa); errors.Is(err, unix.EPERM) {
			return fmt.Errorf("connect refused: %w", unix.EACCES)
		} else if err != nil {
			return err
		}
		if d.Peer, err = peerOf(fd); err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte(ap.String())); err != nil {
			return err
		}
	default:
		if err := unix.Sendto(fd, []byte(ap.String()), 0, sa); err != nil {
			return err
		}
	}
	answer := make([]byte, 128)
	n, from, err := unix.Recvfrom(fd, answer, 0)
	for errors.Is(err, unix.EINTR) {
		n, from, err = unix.Recvfrom(fd, answer, 0)
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNREFUSED) {
		return nil // as asked: nobody is there
	}
	if err != nil {
		return err
	}
	d.Answer = string(answer[:n])
	if how == "connect" || from == nil {
		return nil
	}
	d.Peer = nameOf(from)
	return nil
}

func nameOf(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return ""
}

func TestPrivilegedQuestionReachesTheResolverWithItsOrigin(t *testing.T) {
	f := listening(t, Options{})
	for _, target := range []string{
		"sendto=198.51.100.1:53", "sendto=[2001:db8::1]:53", "sendto=[::ffff:198.51.100.1]:53", "v4-on-v6=198.51.100.1:53",
		"connect=198.51.100.1:53", "connect=[2001:db8::1]:53", "connect=[::ffff:198.51.100.1]:53",
		"sendto=127.0.0.53:53", "connect=127.0.0.53:53",
	} {
		t.Run(target, func(t *testing.T) {
			cmd := helper(t, f.jobs, "send", target)
			got := outcome(t, cmd)[0]
			_, addr, _ := strings.Cut(target, "=")
			if got.Errno != 0 || got.Answer != "answer to "+addr {
				t.Fatalf("the agent sees %+v", got)
			}
			want := netip.MustParseAddrPort(addr)
			peer := netip.MustParseAddrPort(got.Peer)
			if peer.Addr().Unmap() != want.Addr().Unmap() || peer.Port() != want.Port() {
				t.Errorf("the answer comes from %v, want %v", peer, want)
			}
			a := f.nextAsked(t)
			must(t, a.err)
			if a.origin.Target != netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) || a.origin.Transport != transparent.UDP ||
				int(a.origin.Process.PID) != cmd.Process.Pid || a.origin.Enrolment != 7 {
				t.Errorf("origin %+v", a.origin)
			}
			if _, err := f.DatagramOrigin(netip.MustParseAddrPort("127.0.0.1:1"), a.origin.Netns); !errors.Is(err, ErrNoOrigin) {
				t.Errorf("another port: %v, want ErrNoOrigin", err)
			}
		})
	}
	if n, err := entries(f.maps.Datagrams); err != nil || n != 0 {
		t.Errorf("%d senders are left over (%v)", n, err)
	}
}

func TestPrivilegedOtherDatagramsDoNotLeave(t *testing.T) {
	f := listening(t, Options{})
	refusals := f.refusals(t)
	for target, counter := range map[string]string{
		"sendto=198.51.100.1:443":           "denied_udp",
		"sendto=[2001:db8::1]:443":          "denied_udp",
		"v4-on-v6=198.51.100.1:123":         "denied_udp",
		"connect=198.51.100.1:443":          "denied_egress",
		"connect=[2001:db8::1]:443":         "denied_egress",
		"connect=[::ffff:198.51.100.1]:443": "denied_udp",
		"sendto=169.254.169.254:80":         "denied_metadata",
	} {
		t.Run(target, func(t *testing.T) {
			before := f.count(t, counter)
			got := outcome(t, helper(t, f.jobs, "send", target))[0]
			if got.Errno == unix.ENETUNREACH {
				t.Log("no route from here: nothing could leave")
				return
			}
			if got.Errno != unix.EPERM {
				t.Errorf("%+v, want EPERM", got)
			}
			if f.count(t, counter) == before {
				t.Errorf("%s did not count it", counter)
			}
			_, addr, _ := strings.Cut(target, "=")
			want := netip.MustParseAddrPort(addr)
			want = netip.AddrPortFrom(want.Addr().Unmap(), want.Port())
			if r := <-refusals; r.Reason != counter || r.Target != want || r.Enrolment != 7 || r.Root.IsZero() {
				t.Errorf("reported as %+v", r)
			}
		})
	}
}

// refusals collects what is reported until the test ends.
func (f *fixture) refusals(t *testing.T) <-chan Refusal {
	t.Helper()
	list := make(chan Refusal, 4096)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- f.Refusals(ctx, func(r Refusal) error { list <- r; return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("refusals ended with %v", err)
		}
	})
	return list
}

// What a rule denies is not among what observing lets pass, also of a socket
// that was connected before there was such a rule.
func TestPrivilegedObservingLiftsNoRule(t *testing.T) {
	f := listening(t, Options{})
	const target = "127.0.0.1:9"
	rule := func(v Verdict) []Destination {
		return []Destination{{Prefix: netip.MustParsePrefix("127.0.0.1/32"), Port: 9, Transport: transparent.UDP, Verdict: v}}
	}
	must(t, f.SetObserve(true))
	must(t, f.SetDestinations(nil))
	before := obey(t, helper(t, f.jobs, "say", target))
	for _, c := range []struct {
		verdict Verdict
		want    syscall.Errno
	}{{Direct, 0}, {Deny, unix.EPERM}, {Observed, 0}, {Deny, unix.EPERM}} {
		must(t, f.SetDestinations(rule(c.verdict)))
		if d := before.dial(t, target); d.Errno != c.want {
			t.Errorf("verdict %d: %v, want %v", c.verdict, d.Errno, c.want)
		}
	}
}

// sayRole connects a socket for datagrams and sends one for each line of its
// input.
func sayRole(targets []string) error {
	family, sa := sockaddr(targets[0])
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		_, err := unix.Write(fd, in.Bytes())
		// The error of the datagram before: nobody listens.
		if errors.Is(err, unix.ECONNREFUSED) {
			_, err = unix.Write(fd, in.Bytes())
		}
		if err := out.Encode(dialed{Target: targets[0], Errno: errnoOf(err)}); err != nil {
			return err
		}
	}
	return in.Err()
}

func TestPrivilegedOtherSocketsAreRefused(t *testing.T) {
	f := listening(t, Options{})
	refusals := f.refusals(t)
	for _, s := range [][3]int{
		{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
		{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP},
		{unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW},
	} {
		out, err := helper(t, f.jobs, "socket", fmt.Sprint(s[0]), fmt.Sprint(s[1]), fmt.Sprint(s[2])).Output()
		must(t, err)
		if string(out) != fmt.Sprint(int(unix.EPERM)) {
			t.Errorf("socket%v: error number %s, want EPERM", s, out)
			continue
		}
		if r := <-refusals; r.Reason != "denied_socket_type" || int(r.Family) != s[0] || int(r.Type) != s[1] || int(r.Protocol) != s[2] {
			t.Errorf("socket%v reported as %+v", s, r)
		}
	}
	f.wantCount(t, "denied_socket_type", 6)
}

func socketRole(args []string) error {
	var n [3]int
	for i := range n {
		if _, err := fmt.Sscan(args[i], &n[i]); err != nil {
			return err
		}
	}
	_, err := unix.Socket(n[0], n[1], n[2])
	_, err = fmt.Print(int(errnoOf(err)))
	return err
}

func TestPrivilegedUnixSocketsAreJudgedByName(t *testing.T) {
	f := listening(t, Options{})
	for _, l := range f.Lost() {
		if strings.HasSuffix(l.Program, "_unix") {
			t.Skipf("needs %s: %v", l.Program, l.Cause)
		}
	}
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "allowed"), 0o755))
	var open []net.Listener
	for _, name := range []string{"denied.sock", "free.sock", ".s.PGSQL.5432", "allowed/denied.sock", "@headgate-test-denied", "@headgate-test-free"} {
		path := name
		if name[0] != '@' {
			path = filepath.Join(dir, name)
		}
		l, err := net.Listen("unix", path)
		must(t, err)
		open = append(open, l)
	}
	t.Cleanup(func() {
		for _, l := range open {
			l.Close()
		}
	})
	must(t, f.SetUnixSockets([]UnixSocket{
		{Name: filepath.Join(dir, "denied.sock")},
		{Name: "denied.sock", File: true},
		{Name: filepath.Join(dir, "allowed/denied.sock"), Verdict: Direct},
		{Name: ".s.PGSQL.", File: true, Prefix: true},
		{Name: "@headgate-test-denied"},
	}))
	refusals := f.refusals(t)
	for name, want := range map[string]syscall.Errno{
		filepath.Join(dir, "denied.sock"):            unix.EPERM,
		filepath.Join(dir, "allowed/../denied.sock"): unix.EPERM,
		"./denied.sock":                           unix.EPERM,
		"denied.sock":                             unix.EPERM,
		"/proc/self/cwd/denied.sock":              unix.EPERM,
		filepath.Join(dir, ".s.PGSQL.5432"):       unix.EPERM,
		"@headgate-test-denied":                   unix.EPERM,
		filepath.Join(dir, "free.sock"):           0,
		filepath.Join(dir, "allowed/denied.sock"): 0,
		"@headgate-test-free":                     0,
	} {
		cmd := helper(t, f.jobs, "unix", name)
		cmd.Dir = dir
		out, err := cmd.Output()
		must(t, err)
		if string(out) != fmt.Sprint(int(want)) {
			t.Errorf("connect to %q: error number %s, want %d", name, out, want)
			continue
		}
		if want == 0 {
			continue
		}
		if r := <-refusals; r.Reason != "denied_unix" || r.Path != name || r.Family != unix.AF_UNIX || int(r.Process.PID) != cmd.Process.Pid {
			t.Errorf("%q reported as %+v", name, r)
		}
	}
}

// unixRole connects to each name and prints the error numbers.
func unixRole(names []string) error {
	var numbers []string
	for _, name := range names {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Connect(fd, &unix.SockaddrUnix{Name: name}), unix.Close(fd))
		}
		numbers = append(numbers, fmt.Sprint(int(errnoOf(err))))
	}
	_, err := fmt.Print(strings.Join(numbers, " "))
	return err
}

// entries counts those of a map, whatever they are.
func entries(m interface {
	NextKeyBytes(any) ([]byte, error)
}) (int, error) {
	n := 0
	var key []byte
	for {
		var from any
		if key != nil {
			from = key
		}
		next, err := m.NextKeyBytes(from)
		if err != nil || next == nil || bytes.Equal(next, key) {
			return n, err
		}
		n, key = n+1, next
	}
}
