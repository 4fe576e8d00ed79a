package kernel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/transparent"
)

// model is the decision about a destination as the design says it, written down
// for the second time.
type model struct {
	rules   []Destination
	observe bool
}

// judged is what the rules say of a target: the one that decides, and the one
// that would refuse and is only observed.
type judged struct {
	Destination
	found    bool
	observed *Destination
}

// openness orders verdicts, the most restrictive first.
var openness = map[Verdict]int{Deny: 0, Proxy: 1, Observed: 2, Direct: 3}

func (m model) judge(transport transparent.Transport, target netip.AddrPort) judged {
	at := func(port uint16) (best Destination, found bool) {
		for _, d := range m.rules {
			if d.Transport != transport || d.Port != port || !d.Prefix.Contains(target.Addr()) || found && d.Prefix.Bits() < best.Prefix.Bits() {
				continue
			}
			if found && d.Prefix.Bits() == best.Prefix.Bits() && openness[best.Verdict] <= openness[d.Verdict] {
				continue
			}
			best, found = d, true
		}
		return best, found
	}
	port, named := at(target.Port())
	any, anyPort := at(0)
	j := judged{Destination: port, found: named || anyPort}
	if anyPort && any.Verdict == Deny || !named {
		j.Destination = any
	}
	switch {
	case !j.found || j.Verdict == Deny:
	case anyPort && any.Verdict == Observed:
		j.observed = &any
	case j.Verdict == Observed:
		j.observed = &port
	}
	return j
}

// dnsPort is 53, which the daemon's resolver answers.
const dnsPort = 53

// said is what becomes of a connect or of a datagram.
type said struct {
	Errno     syscall.Errno // 0 if it is redirected, or passes as UDP
	Redirects bool          // the daemon sees it
	// Reported is what is told of it; nothing if it has no reason.
	Reported Refusal
}

// about returns what an agent's connect comes to, or its send of a datagram.
func (m model) about(transport transparent.Transport, target netip.AddrPort) said {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	j := m.judge(transport, target)
	told := func(d Destination, observed bool) Refusal {
		reason := map[Cause]string{ByRule: "denied_rule", MetadataOnly: "denied_metadata"}[d.Cause]
		return Refusal{Reason: reason, Observed: observed, Rule: d.Rule, Target: target}
	}
	if j.found && j.Verdict == Deny {
		return said{Errno: unix.EPERM, Reported: told(j.Destination, false)}
	}
	var s said
	if j.observed != nil {
		s.Reported = told(*j.observed, true)
	}
	asked := j.found && j.Verdict >= Direct || !j.found && target.Addr().IsLoopback() && target.Port() != dnsPort
	switch {
	case asked && transport == transparent.TCP:
		s.Errno = unix.ECONNREFUSED // nobody listens there
	case asked:
	case transport == transparent.TCP || target.Port() == dnsPort:
		s.Redirects = true
	case m.observe:
		// One report for one attempt: that nobody mediates it.
		s.Reported = Refusal{Reason: "denied_udp", Observed: true, Target: target}
	default:
		s = said{Errno: unix.EPERM, Reported: Refusal{Reason: "denied_udp", Target: target}}
	}
	return s
}

// wantReports compares what was told with what the model says, in order.
func wantReports(t *testing.T, reports <-chan Refusal, want []said) {
	t.Helper()
	for i, s := range want {
		if s.Reported.Reason == "" {
			continue
		}
		r := nextOf(t, reports)
		got := Refusal{Reason: r.Reason, Observed: r.Observed, Rule: r.Rule, Target: r.Target, Path: r.Path}
		if got != s.Reported {
			t.Errorf("attempt %d is reported as %+v, the model says %+v", i, got, s.Reported)
		}
	}
	select {
	case r := <-reports:
		t.Errorf("reported beside that: %+v", r)
	default:
	}
}

func nextOf(t *testing.T, reports <-chan Refusal) Refusal {
	t.Helper()
	select {
	case r := <-reports:
		return r
	case <-time.After(patience):
		t.Fatal("a refusal is not reported")
		return Refusal{}
	}
}

// TestPrivilegedModelEqualsKernel compares the model with the attached programs
// on random rules, for connections and for datagrams, and what is reported of
// them. Only loopback is ever reached as asked, so nothing leaves the machine.
func TestPrivilegedModelEqualsKernel(t *testing.T) {
	f := listening(t, Options{})
	reports := f.refusals(t)
	random := rand.New(rand.NewPCG(1, 2))
	everywhere := []string{"127.0.0.1", "127.0.1.1", "127.3.0.9", "198.51.100.1", "198.51.100.129", "203.0.113.5", "::1", "2001:db8::1", "2001:db8:0:1::1"}
	ports := []uint16{1, 2, dnsPort}
	for round := range 40 {
		rules := model{observe: round%3 == 0}
		hosts := everywhere
		if rules.observe {
			hosts = slices.DeleteFunc(slices.Clone(everywhere), func(h string) bool { return !netip.MustParseAddr(h).IsLoopback() })
		}
		for n := range random.IntN(16) {
			rule := randomRule(random, netip.MustParseAddr(hosts[random.IntN(len(hosts))]))
			if rule.Port != 0 {
				rule.Port = ports[rule.Port-1]
			}
			rule.Rule = uint64(n)
			rules.rules = append(rules.rules, rule)
		}
		must(t, f.SetObserve(rules.observe))
		must(t, f.SetDestinations(rules.rules))
		var targets []string
		for range 24 {
			addr := netip.MustParseAddr(hosts[random.IntN(len(hosts))])
			if addr.Is4() && random.IntN(3) == 0 {
				addr = netip.AddrFrom16(addr.As16())
			}
			targets = append(targets, netip.AddrPortFrom(addr, ports[random.IntN(len(ports))]).String())
		}
		var connects, sends []said
		for i, got := range dial(t, f.jobs, targets...) {
			target := netip.MustParseAddrPort(targets[i])
			want := rules.about(transparent.TCP, target)
			connects = append(connects, want)
			if got.Errno != want.Errno {
				t.Errorf("round %d: connect to %s: %v, the model says %v", round, target, got.Errno, want.Errno)
			}
			if got.Errno == 0 {
				must(t, f.next(t).err)
			}
		}
		wantReports(t, reports, connects)
		var ways []string
		for _, target := range targets {
			want := rules.about(transparent.UDP, netip.MustParseAddrPort(target))
			sends = append(sends, want)
			how := "sendto="
			if !want.Redirects {
				how = "nowait="
			}
			ways = append(ways, how+target)
		}
		for i, got := range outcome(t, helper(t, f.jobs, "send", ways...)) {
			if want := sends[i]; got.Errno != want.Errno || want.Redirects != (got.Answer != "") {
				t.Errorf("round %d: send to %s: %v, answer %q; the model says %+v", round, targets[i], got.Errno, got.Answer, want)
			}
		}
		wantReports(t, reports, sends)
		if t.Failed() {
			t.Fatalf("observing: %v, rules: %s", rules.observe, fmt.Sprint(rules.rules))
		}
	}
}

// randomRule covers addr more or less widely. What is not loopback is never
// direct, nor observed.
func randomRule(random *rand.Rand, addr netip.Addr) Destination {
	verdicts := []Verdict{Deny, Proxy, Direct, Observed, Observed}
	least := 8
	if !addr.IsLoopback() {
		verdicts, least = verdicts[:2], 16
	}
	if addr.Is6() {
		least = 48
	}
	if addr == netip.IPv6Loopback() {
		least = 128
	}
	bits := least + random.IntN(addr.BitLen()-least+1)
	prefix, err := addr.Prefix(bits)
	if err != nil {
		panic(err) // the length is in range
	}
	return Destination{
		Transport: transparent.Transport(random.IntN(2)), Prefix: prefix, Port: uint16(random.IntN(4)),
		Verdict: verdicts[random.IntN(len(verdicts))], Cause: Cause(random.IntN(2)),
	}
}

// socketModel is the same for unix sockets.
type socketModel []UnixSocket

// longest finds the rule whose name is the longest beginning of a name, and of
// those for the same name the most restrictive.
func (m socketModel) longest(name string, file bool) (best UnixSocket, found bool) {
	key := func(u UnixSocket) string {
		if u.Prefix {
			return u.Name
		}
		return u.Name + "\x00"
	}
	for _, u := range m {
		if u.File != file || !strings.HasPrefix(name+"\x00", key(u)) || found && len(key(u)) < len(key(best)) {
			continue
		}
		if found && len(key(u)) == len(key(best)) && openness[u.Verdict] >= openness[best.Verdict] {
			continue
		}
		best, found = u, true
	}
	return best, found
}

func (m socketModel) about(name string) said {
	u, found := m.longest(name, false)
	if !found || u.Prefix && u.Verdict == Observed {
		if file, there := m.longest(filepath.Base(name), true); there && (!found || file.Verdict == Deny) {
			u, found = file, true
		}
	}
	if !found || u.Verdict == Direct {
		return said{}
	}
	s := said{Reported: Refusal{Reason: "denied_unix", Observed: u.Verdict == Observed, Rule: u.Rule, Path: name}}
	if u.Verdict == Deny {
		s.Errno = unix.EPERM
	}
	return s
}

// TestPrivilegedModelEqualsKernelForUnixSockets compares names of unix sockets.
// Nobody listens at any.
func TestPrivilegedModelEqualsKernelForUnixSockets(t *testing.T) {
	f := listening(t, Options{})
	for _, l := range f.Lost() {
		if l.Program == bpf.HeadgateProgHeadgateConnectUnix {
			t.Skipf("needs %s: %v", l.Program, l.Cause)
		}
	}
	reports := f.refusals(t)
	random := rand.New(rand.NewPCG(3, 4))
	one := func(list ...string) string { return list[random.IntN(len(list))] }
	dir := t.TempDir()
	seen := map[Verdict]int{}
	for round := range 60 {
		// The mode is of no concern: the rules say what is observed.
		must(t, f.SetObserve(round%2 == 0))
		var rules socketModel
		for n := range random.IntN(8) {
			u := UnixSocket{Rule: uint64(n), Verdict: []Verdict{Deny, Observed, Direct}[random.IntN(3)]}
			switch random.IntN(3) {
			case 0:
				u.Name = filepath.Join(dir, one("a", "b"), one("x", "xx", "y"))
			case 1:
				u.Name, u.Prefix = filepath.Join(dir, one("a", "a/x", "b", "b/y")), true
			default:
				u.Name, u.File, u.Prefix = one("x", "xx", "y"), true, random.IntN(3) == 0
			}
			if u.Verdict == Direct && (u.Prefix || u.File) {
				u.Verdict = Observed
			}
			rules = append(rules, u)
		}
		must(t, f.SetUnixSockets(rules))
		var names []string
		var want []said
		for range 24 {
			name := one(dir+"/a/", dir+"/b/", dir+"/a/../b/", dir+"/c/", "./", "") + one("x", "xx", "y")
			s := rules.about(name)
			names, want = append(names, name), append(want, s)
			switch {
			case s.Errno != 0:
				seen[Deny]++
			case s.Reported.Reason != "":
				seen[Observed]++
			default:
				seen[Direct]++
			}
		}
		out, err := helper(t, f.jobs, "unix", names...).Output()
		must(t, err)
		for i, got := range strings.Fields(string(out)) {
			if (got == fmt.Sprint(int(unix.EPERM))) != (want[i].Errno == unix.EPERM) {
				t.Errorf("round %d: connect to %q: error number %s; the model says %+v", round, names[i], got, want[i])
			}
		}
		wantReports(t, reports, want)
		if t.Failed() {
			t.Fatalf("rules: %+v", rules)
		}
	}
	for v, n := range seen {
		if n < 100 {
			t.Errorf("verdict %d was met %d times", v, n)
		}
	}
}
