package kernel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/transparent"
)

// model is the decision about a destination as the design says it, written down
// for the second time.
type model []Destination

func (m model) verdict(transport transparent.Transport, target netip.AddrPort) (v Verdict, found bool) {
	at := func(port uint16) (best Destination, found bool) {
		for _, d := range m {
			if d.Transport != transport || d.Port != port || !d.Prefix.Contains(target.Addr()) || found && d.Prefix.Bits() < best.Prefix.Bits() {
				continue
			}
			if found && d.Prefix.Bits() == best.Prefix.Bits() && best.Verdict == Deny {
				continue
			}
			best, found = d, true
		}
		return best, found
	}
	port, named := at(target.Port())
	any, anyPort := at(0)
	if anyPort && any.Verdict == Deny || !named {
		return any.Verdict, anyPort
	}
	return port.Verdict, true
}

// dnsPort is 53, which the daemon's resolver answers.
const dnsPort = 53

// want returns what an agent's connect returns, or its send of a datagram: 0 if
// it is redirected, or passes as UDP.
func (m model) want(transport transparent.Transport, target netip.AddrPort) syscall.Errno {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	v, found := m.verdict(transport, target)
	direct := found && v == Direct || !found && target.Addr().IsLoopback() && target.Port() != dnsPort
	switch {
	case found && v == Deny:
		return unix.EPERM
	case direct && transport == transparent.TCP:
		return unix.ECONNREFUSED // as asked: nobody listens there
	case direct || target.Port() == dnsPort || transport == transparent.TCP:
		return 0
	default:
		return unix.EPERM
	}
}

// redirects tells whether the daemon sees it.
func (m model) redirects(transport transparent.Transport, target netip.AddrPort) bool {
	v, found := m.verdict(transport, netip.AddrPortFrom(target.Addr().Unmap(), target.Port()))
	return m.want(transport, target) == 0 && !(transport == transparent.UDP && (found && v == Direct || target.Port() != dnsPort))
}

// TestPrivilegedModelEqualsKernel compares the model with the attached programs
// on random rules, for connections and for datagrams. Only loopback is ever
// reached as asked, so nothing leaves the machine.
func TestPrivilegedModelEqualsKernel(t *testing.T) {
	f := listening(t, Options{})
	random := rand.New(rand.NewPCG(1, 2))
	hosts := []string{"127.0.0.1", "127.0.1.1", "127.3.0.9", "198.51.100.1", "198.51.100.129", "203.0.113.5", "::1", "2001:db8::1", "2001:db8:0:1::1"}
	ports := []uint16{1, 2, dnsPort}
	for round := range 40 {
		var rules model
		for range random.IntN(16) {
			rule := randomRule(random, netip.MustParseAddr(hosts[random.IntN(len(hosts))]))
			if rule.Port != 0 {
				rule.Port = ports[rule.Port-1]
			}
			rules = append(rules, rule)
		}
		must(t, f.SetDestinations(rules))
		var targets []string
		for range 24 {
			addr := netip.MustParseAddr(hosts[random.IntN(len(hosts))])
			if addr.Is4() && random.IntN(3) == 0 {
				addr = netip.AddrFrom16(addr.As16())
			}
			targets = append(targets, netip.AddrPortFrom(addr, ports[random.IntN(len(ports))]).String())
		}
		for i, got := range dial(t, f.jobs, targets...) {
			target := netip.MustParseAddrPort(targets[i])
			if want := rules.want(transparent.TCP, target); got.Errno != want {
				t.Errorf("round %d: connect to %s: %v, the model says %v\nrules: %s", round, target, got.Errno, want, fmt.Sprint(rules))
			}
			if got.Errno == 0 {
				must(t, f.next(t).err)
			}
		}
		var sends []string
		for _, target := range targets {
			how := "sendto="
			if !rules.redirects(transparent.UDP, netip.MustParseAddrPort(target)) {
				how = "nowait="
			}
			sends = append(sends, how+target)
		}
		for i, got := range outcome(t, helper(t, f.jobs, "send", sends...)) {
			target := netip.MustParseAddrPort(targets[i])
			if want := rules.want(transparent.UDP, target); got.Errno != want {
				t.Errorf("round %d: send to %s: %v, the model says %v\nrules: %s", round, target, got.Errno, want, fmt.Sprint(rules))
			}
			if rules.redirects(transparent.UDP, target) != (got.Answer != "") {
				t.Errorf("round %d: send to %s: answer %q; the model says redirected: %v", round, target, got.Answer, got.Answer == "")
			}
		}
		if t.Failed() {
			return
		}
	}
}

// randomRule covers addr more or less widely. What is not loopback is never
// direct.
func randomRule(random *rand.Rand, addr netip.Addr) Destination {
	verdicts := []Verdict{Deny, Proxy, Direct}
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
	return Destination{Transport: transparent.Transport(random.IntN(2)), Prefix: prefix, Port: uint16(random.IntN(4)), Verdict: verdicts[random.IntN(len(verdicts))]}
}
