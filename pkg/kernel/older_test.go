package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

const (
	// oldUser is one that nobody else on the machine is.
	oldUser = 1_904_277_402
	// away is an address that is not loopback, and leads nowhere else.
	away, away6 = "198.51.100.1", "2001:db8::1"
)

// far is what agents talk to: it answers lines, over TCP and UDP.
type far struct{ tcp4, tcp6, udp4 string }

// withFar runs f in a network namespace that has the far side.
func withFar(t *testing.T, f func(far)) {
	t.Helper()
	testenv.Netns(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		for _, a := range []string{away + "/32", away6 + "/128"} {
			addr, err := netlink.ParseAddr(a)
			must(t, err)
			addr.Flags = unix.IFA_F_NODAD
			must(t, netlink.AddrAdd(lo, addr))
		}
		at := far{}
		for network, to := range map[string]*string{"tcp4": &at.tcp4, "tcp6": &at.tcp6} {
			host := map[string]string{"tcp4": away, "tcp6": away6}[network]
			l, err := net.Listen(network, net.JoinHostPort(host, "0"))
			must(t, err)
			t.Cleanup(func() { must(t, l.Close()) })
			*to = l.Addr().String()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go repeat(c)
				}
			}()
		}
		p, err := net.ListenPacket("udp4", away+":0")
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		at.udp4 = p.LocalAddr().String()
		go func() {
			b := make([]byte, 64)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(b[:n], from) // who hears it tells
			}
		}()
		reachable(t, at.tcp6)
		f(at)
	})
}

// reachable waits for an address of IPv6 to be in force.
func reachable(t *testing.T, address string) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); ; <-again.C {
		c, err := net.Dial("tcp6", address)
		if err == nil {
			must(t, c.Close())
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// repeat says every line back.
func repeat(c net.Conn) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := c.Write([]byte(line)); err != nil {
			return
		}
	}
}

// idle makes a cgroup that the programs are attached to, and that is no agent's.
func idle(t *testing.T, f *fixture) string {
	t.Helper()
	dir := filepath.Join(f.dir, "idle")
	must(t, cgroup.Create(dir))
	return dir
}

// actor is a helper in the older role.
type actor struct {
	*obedient
	t *testing.T
}

func act(t *testing.T, f *fixture) actor {
	t.Helper()
	return actor{obey(t, helper(t, idle(t, f), "older")), t}
}

func (a actor) do(words ...string) string {
	a.t.Helper()
	_, err := fmt.Fprintln(a.in, strings.Join(words, " "))
	must(a.t, err)
	var said string
	must(a.t, a.out.Decode(&said))
	return said
}

func (a actor) want(want string, words ...string) {
	a.t.Helper()
	if got := a.do(words...); got != want {
		a.t.Errorf("%v: %q, want %q", words, got, want)
	}
}

// joins has a helper become an agent by a rule for its user, at a connection,
// and returns the root of its tree.
func (a actor) joins(f *fixture) process.ID {
	a.t.Helper()
	must(a.t, f.EnrolUID(oldUser, 7))
	a.want("ok", "become", strconv.Itoa(oldUser))
	if e, err := f.TreeOf(a.cmd.Process.Pid); !errors.Is(err, ErrNotEnrolled) {
		a.t.Fatalf("enrolled too early, as %v (%v)", e, err)
	}
	a.want("ok", "attempt", "127.0.0.1:9")
	return a.root(f)
}

func (a actor) root(f *fixture) process.ID {
	a.t.Helper()
	e, err := f.TreeOf(a.cmd.Process.Pid)
	must(a.t, err)
	return e.Root
}

func (f *fixture) endOlder(t *testing.T, root process.ID) []Ended {
	t.Helper()
	ended, err := f.EndOlder(t.Context(), root)
	must(t, err)
	f.wantCount(t, "sockets_kept", 0)
	return ended
}

const abortedText = "software caused connection abort"

func TestPrivilegedRuleAtAConnectionEndsOlderConnections(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		a := act(t, f)
		a.want("ok", "tcp", "four", at.tcp4)
		a.want("ok", "tcp", "six", at.tcp6)
		a.want("ok", "tcp", "mapped", "[::ffff:"+away+"]:"+portOf(at.tcp4))
		a.want("ok", "udp", "datagrams", at.udp4)
		a.want("ok", "tcp", "silent", at.tcp4)
		for _, name := range []string{"four", "six", "mapped", "datagrams"} {
			a.want("ok", "use", name)
		}
		root := a.joins(f)
		a.want("ok", "use", "four") // until somebody ends it
		var ended []string
		for _, e := range f.endOlder(t, root) {
			if e.Process != root || e.Local.Addr().Is4In6() || e.Local.Port() == 0 {
				t.Errorf("ended %+v, of process %v", e, root)
			}
			ended = append(ended, fmt.Sprint(e.Transport, " ", e.Remote))
		}
		slices.Sort(ended)
		want := []string{
			fmt.Sprint(transparent.TCP, " ", at.tcp4), fmt.Sprint(transparent.TCP, " ", at.tcp4), fmt.Sprint(transparent.TCP, " ", at.tcp4),
			fmt.Sprint(transparent.TCP, " ", at.tcp6), fmt.Sprint(transparent.UDP, " ", at.udp4),
		}
		slices.Sort(want)
		if !slices.Equal(ended, want) {
			t.Errorf("ended %v, want %v", ended, want)
		}
		for _, name := range []string{"four", "six", "mapped", "silent"} {
			a.want(abortedText, "use", name)
		}
		if got := a.do("use", "datagrams"); got == "ok" {
			t.Error("a connected UDP socket from before the enrolment still sends")
		}
		f.wantCount(t, "sockets_destroyed", 5)
		if again := f.endOlder(t, root); len(again) != 0 {
			t.Errorf("a second time %v ended", again)
		}
	})
}

func TestPrivilegedRuleAtAnExecEndsInheritedConnections(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		a := act(t, f)
		a.want("ok", "tcp", "old", at.tcp4)
		a.want("ok", "use", "old")
		program := readable(t)
		var st unix.Stat_t
		must(t, unix.Stat(program, &st))
		must(t, f.EnrolExecutable(File{Device: st.Dev, Inode: st.Ino}, 7))
		a.want("ok", "exec", program)
		root := a.root(f)
		if n := len(f.endOlder(t, root)); n != 1 {
			t.Errorf("%d connections ended", n)
		}
		a.want(abortedText, "use", "old")
	})
}

// What is made after the enrolment stays, also what goes direct.
func TestPrivilegedNewConnectionsSurviveTheEndOfOlderOnes(t *testing.T) {
	f := attach(t, Options{})
	withFar(t, func(at far) {
		f.listen(t)
		direct := func(address string, transport transparent.Transport) Destination {
			to := netip.MustParseAddrPort(address)
			return Destination{Prefix: netip.PrefixFrom(to.Addr(), to.Addr().BitLen()), Port: to.Port(), Transport: transport, Verdict: Direct}
		}
		must(t, f.SetDestinations([]Destination{direct(at.tcp4, transparent.TCP), direct(at.tcp6, transparent.TCP), direct(at.udp4, transparent.UDP)}))
		a := act(t, f)
		a.want("ok", "socket", "made before")
		root := a.joins(f)
		a.want("ok", "connect", "made before", at.tcp4)
		a.want("ok", "tcp", "four", at.tcp4)
		a.want("ok", "tcp", "six", at.tcp6)
		a.want("ok", "tcp", "mapped", "[::ffff:"+away+"]:"+portOf(at.tcp4))
		a.want("ok", "udp", "datagrams", at.udp4)
		a.want("ok", "tcp", "mediated", "203.0.113.9:80")
		if ended := f.endOlder(t, root); len(ended) != 0 {
			t.Errorf("ended %v", ended)
		}
		for _, name := range []string{"made before", "four", "six", "mapped", "datagrams"} {
			a.want("ok", "use", name)
		}
		f.wantCount(t, "direct", 4)
		f.wantCount(t, "direct_udp", 1)
		// Egress drops by another policy what UDP sends, but not what TCP does.
		must(t, f.SetDestinations(nil))
		for _, e := range f.endOlder(t, root) {
			if e.Transport == transparent.TCP {
				t.Errorf("ended %v, for another policy", e)
			}
		}
	})
}

func portOf(address string) string {
	return strconv.Itoa(int(netip.MustParseAddrPort(address).Port()))
}

// arrival is a connection from somewhere else that a process accepts.
type arrival struct {
	name, network, listen, dial string
	before                      string // what happens until the process is an agent
}

// As sshd does it: a listening socket, a connection from somewhere else, and a
// process that becomes the user who has logged in.
func TestPrivilegedAcceptedConnectionsSurviveTheEnrolment(t *testing.T) {
	for _, v := range []arrival{
		{"address", "tcp4", away + ":0", away, "talk"},
		{"any address", "tcp4", "0.0.0.0:0", away, "talk"},
		{"any address, silent", "tcp4", "0.0.0.0:0", away, ""},
		{"any address of both families", "tcp", "[::]:0", away, "talk"},
		{"IPv6", "tcp6", "[::]:0", away6, "talk"},
		{"listens no more", "tcp4", away + ":0", away, "talk unlisten"},
		{"listens no more, silent", "tcp4", away + ":0", away, "unlisten"},
		{"half closed", "tcp4", "0.0.0.0:0", away, "talk shut"},
		{"half closed, any address of both families", "tcp", "[::]:0", away, "talk shut"},
		{"half closed, IPv6", "tcp", "[::]:0", away6, "shut"},
	} {
		t.Run(v.name+"/kernel", func(t *testing.T) {
			v.survives(t, func(f *fixture, a actor) {
				if n := len(f.endOlder(t, a.joins(f))); n != 1 {
					t.Errorf("%d connections ended", n)
				}
			})
		})
		t.Run(v.name+"/daemon", func(t *testing.T) {
			v.survives(t, func(f *fixture, a actor) { must(t, enrolPID(t, f, a.cmd.Process.Pid)) })
		})
	}
}

func (v arrival) survives(t *testing.T, enrol func(*fixture, actor)) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		a := act(t, f)
		address := a.do("listen", v.network, v.listen)
		peer, err := net.Dial("tcp", net.JoinHostPort(v.dial, portOf(address)))
		must(t, err)
		defer peer.Close()
		a.want("ok", "accept", "session")
		a.want("ok", "tcp", "own", at.tcp4)
		heard := bufio.NewReader(peer)
		for _, what := range strings.Fields(v.before) {
			if what == "talk" {
				v.talk(a, peer, heard)
			} else {
				a.want("ok", what, "session")
			}
		}
		enrol(f, a)
		a.want(abortedText, "use", "own")
		f.wantCount(t, "sockets_destroyed", 1)
		v.talk(a, peer, heard)
	})
}

// talk has both ends say something, as far as they can.
func (v arrival) talk(a actor, peer net.Conn, heard *bufio.Reader) {
	a.t.Helper()
	if !strings.Contains(v.before, "shut") {
		a.want("ok", "write", "session")
		if line, err := heard.ReadString('\n'); err != nil || line != "line\n" {
			a.t.Errorf("the other end heard %q (%v)", line, err)
		}
	}
	_, err := peer.Write([]byte("answer\n"))
	must(a.t, err)
	a.want("ok", "read", "session")
}

// Who listens at the port that it connected from has connected all the same.
func TestPrivilegedConnectionFromAListeningPortEnds(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		a := act(t, f)
		local := a.do("tcp-from", "old", away+":0", at.tcp4)
		a.want("ok", "use", "old")
		a.want(local, "listen", "tcp4", local)
		if n := len(f.endOlder(t, a.joins(f))); n != 1 {
			t.Errorf("%d connections ended", n)
		}
		a.want(abortedText, "use", "old")
	})
}

// The process that was enrolled is gone, and so is its parent's connection.
func TestPrivilegedChildrenLoseTheConnectionThatTheyInherit(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		a := act(t, f)
		a.want("ok", "tcp", "old", at.tcp4)
		root := a.joins(f)
		a.want("ok", "child")
		a.want("ok", "close", "old")
		ended := f.endOlder(t, root)
		if len(ended) != 1 || ended[0].Process == root {
			t.Errorf("ended %v", ended)
		}
		a.want(abortedText, "child-use", "old")
	})
}

func TestPrivilegedObservingEndsNothing(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		must(t, f.SetObserve(true))
		a := act(t, f)
		a.want("ok", "tcp", "old", at.tcp4)
		other := act(t, f)
		other.want("ok", "tcp", "old", at.tcp4)
		must(t, enrolPID(t, f, other.cmd.Process.Pid))
		other.want("ok", "use", "old")
		root := a.joins(f)
		if ended, err := f.EndOlder(t.Context(), root); !errors.Is(err, ErrObserving) || len(ended) != 0 {
			t.Errorf("ended %v (%v)", ended, err)
		}
		a.want("ok", "use", "old")
		must(t, f.SetObserve(false))
		if ended, err := f.EndOlder(t.Context(), root, other.root(f)); err != nil || len(ended) != 2 {
			t.Errorf("ended %v (%v)", ended, err)
		}
		a.want(abortedText, "use", "old")
		other.want(abortedText, "use", "old")
	})
}

func TestPrivilegedEndOfOlderConnectionsIsOfThoseTreesAlone(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	withFar(t, func(at far) {
		a, outsider := act(t, f), act(t, f)
		a.want("ok", "tcp", "old", at.tcp4)
		outsider.want("ok", "tcp", "old", at.tcp4)
		root := a.joins(f)
		stale := process.ID{PID: root.PID, Start: root.Start - tick}
		if ended := f.endOlder(t, stale); len(ended) != 0 {
			t.Errorf("for a process that has gone ended %v", ended)
		}
		a.want("ok", "use", "old")
		if n := len(f.endOlder(t, root)); n != 1 {
			t.Errorf("%d connections ended", n)
		}
		outsider.want("ok", "use", "old")
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.EndOlder(over, root); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}
