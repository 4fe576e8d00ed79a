package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/headgate/headgate/pkg/transparent"
)

// Static is what the kernel does with a flow without asking anybody. The zero
// Static is Denied.
type Static uint8

// The static verdicts, the most restrictive first. Direct lets a flow go where
// it wants, unseen by the proxy; Observed does too, and has the kernel report
// what would be Denied if everything that observes enforced.
const (
	Denied Static = iota
	Proxied
	Observed
	Direct
)

// String returns "denied", "proxied", "observed" or "direct".
func (s Static) String() string {
	switch s {
	case Observed:
		return "observed"
	case Direct:
		return "direct"
	case Proxied:
		return "proxied"
	default:
		return "denied"
	}
}

// Destination is a range of addresses and a port that belong to a resource.
type Destination struct {
	Prefix    netip.Prefix
	Port      uint16
	Transport transparent.Transport
	// Verdict is that of all resources whose ranges hold this one: the longest
	// prefix that holds an address answers for it.
	Verdict Static
	// Resource is the name of the one that the range names most narrowly, of
	// those that are inspected if there are any.
	Resource string
	// Rule is the name of the rule that made the verdict Denied, Observed or
	// Direct, or "default" where none did; empty for Proxied.
	Rule string
}

// UnixSocket says what becomes of connections to unix sockets.
type UnixSocket struct {
	// Pattern is an absolute path; a * in it is a whole component or the end of
	// the last one.
	Pattern string
	// Verdict is Denied, Observed or Direct.
	Verdict  Static
	Resource string
	// Rule is the name of the rule that made the verdict, or "default" where
	// none did: only what a rule allows was meant by somebody.
	Rule string
}

// Match reports whether the pattern stands for a path, which must be absolute.
func (u UnixSocket) Match(path string) bool { return matchSocket(u.Pattern, path) }

// judgement is a static verdict and the rule that made it.
type judgement struct {
	verdict Static
	rule    string
}

// judge says what the kernel does about one resource by itself. In a policy that
// observes, or where a rule does, what is inspected is left to the proxy, so
// that what they would have said is recorded.
func (e *Engine) judge(r *resource) judgement {
	if !r.kind.static() {
		if rule := e.denial(r); rule != "" {
			return judgement{Denied, rule}
		}
		return judgement{verdict: Proxied}
	}
	v := makeResourceView(r, r.rules)
	o := e.effect(&v, Connect, &Request{}, nil)
	switch {
	case o.acting.verdict != Allow:
		return judgement{Denied, o.acting.name()}
	case o.full.verdict != Allow:
		return judgement{Observed, o.full.name()}
	}
	return judgement{Direct, o.acting.name()}
}

// denial returns the name of the first rule that denies everybody to connect to
// what is otherwise inspected, if nothing there only observes.
func (e *Engine) denial(r *resource) string {
	observing := func(o *rule) bool { return o.mode == Observe }
	if e.mode == Observe || slices.ContainsFunc(r.rules, observing) {
		return ""
	}
	for _, one := range r.rules {
		if c, ok := one.candidate(Connect); ok && c.verdict == Deny && c.condition == nil && one.everybody() {
			return one.name
		}
	}
	return ""
}

// everybody reports whether the rule is for every principal and agent.
func (r *rule) everybody() bool {
	return len(r.agents) == 0 && (len(r.principals) == 0 ||
		slices.ContainsFunc(r.principals, func(p pattern) bool { return p.kind == patternEverybody }))
}

// Destinations returns every range of addresses, with its port and transport,
// that belongs to a resource, in the order of addresses. What belongs to none is
// not for the kernel to let pass: TCP goes to the proxy, UDP is refused. Name
// servers are not listed; see [Engine.Servers].
func (e *Engine) Destinations() []Destination {
	if e == nil {
		return nil
	}
	var list []Destination
	for transport, t := range map[transparent.Transport]*targets{transparent.TCP: &e.tcp, transparent.UDP: &e.udp} {
		for at, g := range t.byDest {
			d := Destination{Prefix: at.prefix, Port: at.port, Transport: transport, Resource: g.primary(nil, 0).Name}
			all := e.judgeAll(g)
			d.Verdict, d.Rule = all.verdict, all.rule
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Destination) int {
		return cmp.Or(compareDestinations(destination{a.Prefix, a.Port}, destination{b.Prefix, b.Port}), cmp.Compare(a.Transport, b.Transport))
	})
	return list
}

// judgeAll returns the most restrictive judgement of a group's resources.
func (e *Engine) judgeAll(g *group) judgement {
	all := e.judge(g.resources[0])
	for _, r := range g.resources[1:] {
		all = all.and(e.judge(r))
	}
	return all
}

// and returns the more restrictive of two judgements. Of two that deny, or would,
// a rule's says more than the default's; of two that let pass, the default's,
// which nobody meant.
func (j judgement) and(k judgement) judgement {
	if j.verdict != k.verdict {
		if k.verdict < j.verdict {
			return k
		}
		return j
	}
	if (j.rule == DefaultRule) != (k.rule == DefaultRule) {
		if (k.rule == DefaultRule) == (j.verdict == Direct) {
			return k
		}
		return j
	}
	return judgement{j.verdict, min(j.rule, k.rule)}
}

// UnixSockets returns the paths of unix sockets that belong to resources, sorted
// and each once. Where several match a path, Denied holds, and then Observed; a
// path that none matches is not for the policy to judge.
func (e *Engine) UnixSockets() []UnixSocket {
	if e == nil {
		return nil
	}
	byPattern := map[string]UnixSocket{}
	for _, r := range e.resources {
		if r.kind != sockets {
			continue
		}
		j := e.judge(r)
		for _, p := range r.paths {
			one := UnixSocket{Pattern: p, Verdict: j.verdict, Resource: r.Name, Rule: j.rule}
			if other, ok := byPattern[p]; ok {
				if before := (judgement{other.Verdict, other.Rule}); before.and(j) == before {
					one = other
				}
			}
			byPattern[p] = one
		}
	}
	list := make([]UnixSocket, 0, len(byPattern))
	for _, s := range byPattern {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b UnixSocket) int { return cmp.Compare(a.Pattern, b.Pattern) })
	return list
}

// staticRule refuses a rule that cannot be kept by the kernel, which knows a
// flow's destination only.
func (c *compiler) staticRule(f *File, at string, r *rule, res *resource) {
	if !res.kind.static() {
		return
	}
	if _, concerns := r.candidate(Connect); !concerns {
		return
	}
	refuse := func(key, what string) {
		c.bad(f, at+"."+key, "rule %s: %s, but resource %s (%s) is judged by the kernel, which knows only where a flow goes",
			r.name, what, res.Name, res.kind.key())
	}
	if len(r.agents) > 0 {
		refuse("agents", "it is for some agents")
	} else if !r.everybody() {
		refuse("principals", "it is for some principals")
	}
	if _, given := f.at[at+".when"]; given {
		refuse("when", "it has a condition")
	}
	if r.effect == Approve {
		refuse("effect", "it asks for approval")
	}
	if !r.star && slices.ContainsFunc(r.operations, func(o string) bool { return o != Connect && o != Unknown }) {
		refuse("operations", "it is for some operations")
	}
}

// key is what in a file makes a resource one of the kind.
func (k kind) key() string {
	switch k {
	case uninspected:
		return "inspection: none"
	case datagrams:
		return "protocol: " + protocolUDP
	case sockets:
		return "protocol: " + protocolUnix
	case questions:
		return "protocol: " + protocolDNS
	case inspected:
	}
	return "inspection: full"
}
