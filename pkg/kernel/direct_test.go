package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

// other is the other side of direct connections: it is not mediated.
type other struct {
	*net.TCPListener
	port uint16
}

func newOther(t *testing.T) *other {
	t.Helper()
	l, err := net.Listen("tcp", "[::]:0") // both families
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return &other{l.(*net.TCPListener), uint16(l.Addr().(*net.TCPAddr).Port)}
}

func (o *other) accept(t *testing.T) *net.TCPConn {
	t.Helper()
	must(t, o.SetDeadline(time.Now().Add(patience)))
	c, err := o.AcceptTCP()
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

func (o *other) address(host string) string { return fmt.Sprintf("%s:%d", host, o.port) }

// at is the step that connects there.
func (o *other) at(host string) string { return "connect=" + o.address(host) }

// directTo is a rule for all of loopback.
func directTo(port uint16, rule uint64, v Verdict) []Destination {
	var list []Destination
	for _, prefix := range []string{"127.0.0.0/8", "::1/128"} {
		list = append(list, Destination{Prefix: netip.MustParsePrefix(prefix), Port: port, Verdict: v, Rule: rule})
	}
	return list
}

// flows are totals without what depends on the clock. Begun are those that are
// still open.
func (f *fixture) flows(t *testing.T) map[uint64]DirectFlows {
	t.Helper()
	all, err := f.DirectFlows()
	must(t, err)
	for rule, d := range all {
		if (d.Flows > 0) != (d.Microseconds > 0) {
			t.Errorf("rule %d: %d flows took %d µs", rule, d.Flows, d.Microseconds)
		}
		if d.Begun < d.Flows {
			t.Errorf("rule %d: %d flows have ended, of %d", rule, d.Flows, d.Begun)
		}
		d.Microseconds = 0
		d.Begun -= d.Flows
		all[rule] = d
		if d == (DirectFlows{}) {
			delete(all, rule)
		}
	}
	return all
}

// wantFlows waits for as many flows, and compares all that was counted.
func (f *fixture) wantFlows(t *testing.T, want map[uint64]DirectFlows) {
	t.Helper()
	sum := func(all map[uint64]DirectFlows) (n uint64) {
		for _, d := range all {
			n += d.Flows
		}
		return n
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.Now().Add(patience)
	got := f.flows(t)
	for ; sum(got) < sum(want) && time.Now().Before(limit); got = f.flows(t) {
		<-tick.C
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("direct flows (-want +got):\n%s", diff)
	}
}

// ending is how a connection ends, after each side has what the other sent.
type ending struct {
	name string
	end  func(t *testing.T, k *talker, c *net.TCPConn)
}

var endings = []ending{
	{"the agent closes first", func(t *testing.T, k *talker, c *net.TCPConn) {
		k.ok("close")
		wantEnd(t, c)
		must(t, c.Close())
	}},
	{"the agent ends its half first", func(t *testing.T, k *talker, c *net.TCPConn) {
		k.ok("shutdown")
		wantEnd(t, c)
		must(t, c.Close())
		k.ok("eof", "close")
	}},
	{"the target closes first", func(t *testing.T, k *talker, c *net.TCPConn) {
		must(t, c.Close())
		k.ok("eof", "close")
	}},
	{"the target ends its half first", func(t *testing.T, k *talker, c *net.TCPConn) {
		must(t, c.CloseWrite())
		k.ok("eof", "close")
		wantEnd(t, c)
		must(t, c.Close())
	}},
	{"the agent resets", func(t *testing.T, k *talker, c *net.TCPConn) {
		k.ok("reset")
		must(t, c.Close())
	}},
	{"the target resets", func(t *testing.T, k *talker, c *net.TCPConn) {
		must(t, errors.Join(c.SetLinger(0), c.Close()))
		if got := k.do("eof"); got != unix.ECONNRESET.Error() {
			t.Errorf("the agent sees %q", got)
		}
	}},
	{"the target resets after the agent's end", func(t *testing.T, k *talker, c *net.TCPConn) {
		k.ok("shutdown")
		wantEnd(t, c)
		must(t, errors.Join(c.SetLinger(0), c.Close()))
	}},
	{"the agent disconnects", func(t *testing.T, k *talker, c *net.TCPConn) {
		k.ok("unspec")
		must(t, c.Close())
	}},
	{"the agent is gone", func(t *testing.T, k *talker, c *net.TCPConn) {
		k.end()
		wantEnd(t, c)
		must(t, c.Close())
	}},
}

func wantEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the target reads %d bytes, %v", n, err)
	}
}

func TestPrivilegedDirectFlowsAreCountedToTheByte(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	want := map[uint64]DirectFlows{}
	rule := uint64(100)
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"} {
		for i, e := range endings {
			// What comes down says that what went up has come: a reset cuts off
			// what was not acknowledged by then.
			up, down := []int{0, 1, 777, 3 << 20}[i%4], []int{5 << 20, 0, 1, 99, 5 << 20, 1, 64, 99, 7}[i]
			t.Run(host+" "+e.name, func(t *testing.T) {
				rule++
				must(t, f.SetDestinations(directTo(o.port, rule, []Verdict{Direct, Observed}[i%2])))
				k := f.talk(t)
				k.ok(o.at(host))
				c := o.accept(t)
				k.exchange(c, up, down)
				e.end(t, k, c)
				k.end()
				want[rule] = DirectFlows{Flows: 1, Up: uint64(up), Down: uint64(down)}
				f.wantFlows(t, want)
			})
		}
	}
}

func TestPrivilegedWhatIsNotDirectCountsNoFlow(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	// Loopback, by no rule.
	k := f.talk(t)
	k.ok(o.at("127.0.0.1"))
	c := o.accept(t)
	k.exchange(c, 3, 3)
	k.end()
	wantEnd(t, c)
	must(t, c.Close())
	// To the proxy.
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
	must(t, f.next(t).err)
	must(t, f.SetDestinations(directTo(o.port, 5, Direct)))
	// Direct, for who is not enrolled.
	fd, err := net.Dial("tcp4", o.address("127.0.0.1"))
	must(t, err)
	must(t, fd.Close())
	// Direct, and nobody answers.
	must(t, f.SetDestinations(directTo(1, 6, Direct)))
	wantErrno(t, dial(t, f.jobs, "127.0.0.1:1", "[::1]:1"), unix.ECONNREFUSED)
	f.wantCount(t, "direct", 2)
	// Nothing leads there, which is found out after the rules were asked; then to
	// the proxy, by the same socket.
	broadcast := netip.MustParsePrefix("255.255.255.255/32")
	must(t, f.SetDestinations([]Destination{{Prefix: broadcast, Verdict: Direct, Rule: 7}}))
	k = f.talk(t)
	if got := k.do("connect=255.255.255.255:9"); got != unix.ENETUNREACH.Error() {
		t.Errorf("connect: %s", got)
	}
	f.wantCount(t, "direct", 3)
	k.ok("connect=198.51.100.7:5432", "write=5", "shutdown", "eof", "close")
	if f.next(t).err == nil {
		t.Error("five bytes that are no claim are one")
	}
	f.wantFlows(t, map[uint64]DirectFlows{})
}

func TestPrivilegedSocketThatConnectsAgainCountsForEachRuleOnce(t *testing.T) {
	f := listening(t, Options{})
	a, b := newOther(t), newOther(t)
	must(t, f.SetDestinations(append(append(directTo(a.port, 1, Direct), directTo(b.port, 2, Direct)...), directTo(1, 3, Direct)...)))
	k := f.talk(t)
	// Refused, and tried again elsewhere.
	if got := k.do("connect=127.0.0.1:1"); got != unix.ECONNREFUSED.Error() {
		t.Fatalf("connect: %s", got)
	}
	k.ok(a.at("127.0.0.1"))
	k.exchange(a.accept(t), 10, 20)
	k.ok("unspec", b.at("127.0.0.1"))
	k.exchange(b.accept(t), 100, 200)
	// To the proxy, which talks as in [fixture.accept].
	k.ok("unspec", "connect=198.51.100.7:5432", "write=5", "shutdown", "eof", "unspec", a.at("127.0.0.1"))
	if f.next(t).err == nil {
		t.Error("five bytes that are no claim are one")
	}
	k.exchange(a.accept(t), 1000, 2000)
	k.ok("unspec")
	want := map[uint64]DirectFlows{1: {Flows: 2, Up: 1010, Down: 2020}, 2: {Flows: 1, Up: 100, Down: 200}}
	f.wantFlows(t, want)
	// With the same socket, by who is not asked for a rule.
	fd := k.borrow()
	_, sa := sockaddr(b.address("127.0.0.1"))
	must(t, unix.Connect(fd, sa))
	must(t, errors.Join(b.accept(t).Close(), disconnect(fd), unix.Close(fd)))
	k.end()
	f.wantFlows(t, want)
}

func TestPrivilegedFlowCountsForTheRuleThatLetItGo(t *testing.T) {
	f := listening(t, Options{})
	a, b := newOther(t), newOther(t)
	must(t, f.SetDestinations(append(directTo(a.port, 1, Direct), directTo(b.port, 2, Direct)...)))
	first, second := f.talk(t), f.talk(t)
	first.ok(a.at("127.0.0.1"))
	second.ok(b.at("[::1]"))
	one, two := a.accept(t), b.accept(t)
	first.exchange(one, 1, 2)
	// Rule 1 is gone, and rule 2 is about something else.
	must(t, f.SetDestinations(append(directTo(a.port, 2, Direct), directTo(b.port, 3, Observed)...)))
	third := f.talk(t)
	third.ok(a.at("127.0.0.1"))
	third.exchange(a.accept(t), 1000, 2000)
	first.exchange(one, 10, 20)
	second.exchange(two, 100, 200)
	for _, k := range []*talker{first, second, third} {
		k.end()
	}
	f.wantFlows(t, map[uint64]DirectFlows{1: {Flows: 1, Up: 11, Down: 22}, 2: {Flows: 2, Up: 1100, Down: 2200}})
}

func TestPrivilegedSocketThatConnectsToItselfIsCounted(t *testing.T) {
	f := listening(t, Options{})
	port := testenv.FreePort(t)
	must(t, f.SetDestinations(directTo(port, 4, Direct)))
	k := f.talk(t)
	self := fmt.Sprintf("127.0.0.1:%d", port)
	k.ok("bind="+self, "connect="+self, "write=1000", "read=1000", "close")
	f.wantFlows(t, map[uint64]DirectFlows{4: {Flows: 1, Up: 1000, Down: 1000}})
}

func TestPrivilegedMPTCPIsCountedAsTCP(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	must(t, f.SetDestinations(directTo(o.port, 4, Direct)))
	k := f.talk(t)
	k.ok("mptcp")
	if got := k.do(o.at("127.0.0.1")); got == unix.EPROTONOSUPPORT.Error() || got == unix.ENOPROTOOPT.Error() {
		t.Skip("needs MPTCP")
	} else if got != "ok" {
		t.Fatal(got)
	}
	c := o.accept(t)
	k.exchange(c, 1234, 4321)
	k.end()
	wantEnd(t, c)
	must(t, c.Close())
	f.wantFlows(t, map[uint64]DirectFlows{4: {Flows: 1, Up: 1234, Down: 4321}})
}

func TestPrivilegedRulesBeyondTheTableAreCountedTogether(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	none := make([]bpf.HeadgateDirectTotal, len(perCPU(t, f)))
	// One entry is for what there is no room for.
	for rule := uint64(1); rule < uint64(f.maps.DirectTotals.MaxEntries()); rule++ {
		must(t, f.maps.DirectTotals.Put(rule, none))
	}
	want := map[uint64]DirectFlows{}
	for _, rule := range []uint64{1, 5000, 6000} {
		must(t, f.SetDestinations(directTo(o.port, rule, Direct)))
		k := f.talk(t)
		k.ok(o.at("127.0.0.1"))
		k.exchange(o.accept(t), 5, 6)
		k.end()
		if rule > 1 {
			rule = OtherRules
		}
		sum := want[rule]
		want[rule] = DirectFlows{Flows: sum.Flows + 1, Up: sum.Up + 5, Down: sum.Down + 6}
		f.wantFlows(t, want)
	}
}

func perCPU(t *testing.T, f *fixture) (totals []bpf.HeadgateDirectTotal) {
	t.Helper()
	must(t, f.maps.DirectTotals.Lookup(OtherRules, &totals))
	return totals
}

func TestPrivilegedFlowsAreCountedWhileNoDaemonRuns(t *testing.T) {
	o := Options{PinDir: filepath.Join(testenv.BPFFS(t), "headgate")}
	f := listening(t, o)
	there := newOther(t)
	must(t, f.SetDestinations(directTo(there.port, 9, Direct)))
	k := f.talk(t)
	k.ok(there.at("127.0.0.1"))
	k.exchange(there.accept(t), 50, 60)
	f.stop()
	must(t, f.Kernel.Close())
	k.ok("close")
	begun := f.talk(t)
	begun.ok(there.at("[::1]"))
	begun.exchange(there.accept(t), 5, 6)
	f.open(t, Options{CgroupPath: f.dir, PinDir: o.PinDir})
	f.wantFlows(t, map[uint64]DirectFlows{9: {Begun: 1, Flows: 1, Up: 50, Down: 60}})
	begun.ok("close")
	f.wantFlows(t, map[uint64]DirectFlows{9: {Flows: 2, Up: 55, Down: 66}})
	must(t, f.Detach())
}
