package kernel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// model is the decision about a destination as the design says it, written down
// for the second time.
type model []Destination

func (m model) verdict(target netip.AddrPort) (v Verdict, found bool) {
	at := func(port uint16) (best Destination, found bool) {
		for _, d := range m {
			if d.Port != port || !d.Prefix.Contains(target.Addr()) || found && d.Prefix.Bits() < best.Prefix.Bits() {
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

// want returns what an agent's connect returns: 0 if it is redirected.
func (m model) want(target netip.AddrPort) syscall.Errno {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	v, found := m.verdict(target)
	switch {
	case found && v == Deny:
		return unix.EPERM
	case found && v == Direct, !found && target.Addr().IsLoopback():
		return unix.ECONNREFUSED // as asked: nobody listens there
	default:
		return 0
	}
}

// TestPrivilegedModelEqualsKernel compares the model with the attached programs
// on random rules. Only loopback is ever reached as asked, so nothing leaves the
// machine.
func TestPrivilegedModelEqualsKernel(t *testing.T) {
	f := listening(t, Options{})
	random := rand.New(rand.NewPCG(1, 2))
	hosts := []string{"127.0.0.1", "127.0.1.1", "127.3.0.9", "198.51.100.1", "198.51.100.129", "203.0.113.5", "::1", "2001:db8::1", "2001:db8:0:1::1"}
	for round := range 40 {
		var rules model
		for range random.IntN(12) {
			rules = append(rules, randomRule(random, netip.MustParseAddr(hosts[random.IntN(len(hosts))])))
		}
		must(t, f.SetDestinations(rules))
		var targets []string
		for range 24 {
			addr := netip.MustParseAddr(hosts[random.IntN(len(hosts))])
			if addr.Is4() && random.IntN(3) == 0 {
				addr = netip.AddrFrom16(addr.As16())
			}
			targets = append(targets, netip.AddrPortFrom(addr, uint16(1+random.IntN(3))).String())
		}
		for i, got := range dial(t, f.jobs, targets...) {
			want := rules.want(netip.MustParseAddrPort(targets[i]))
			if got.Errno != want {
				t.Errorf("round %d: connect to %s: %v, the model says %v\nrules: %s", round, targets[i], got.Errno, want, fmt.Sprint(rules))
			}
			if got.Errno == 0 {
				must(t, f.next(t).err)
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
	return Destination{Prefix: prefix, Port: uint16(random.IntN(4)), Verdict: verdicts[random.IntN(len(verdicts))]}
}
