package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// resource is a resource with everything that applies to it.
type resource struct {
	Resource
	// id is its place in Engine.resources.
	id    int
	kind  kind
	hosts []resourceHost
	paths []string
	// asked and servers are what a resource of the kind questions is about; no
	// servers are every server.
	asked   nameSet
	servers []netip.AddrPort
	rules   []*rule      // by name
	masks   []*maskEntry // by name
}

// destination is a range of addresses and a port.
type destination struct {
	prefix netip.Prefix
	port   uint16
}

// group is the resources that share a destination: those that are inspected
// first, and of these the one with the narrowest range.
type group struct {
	// id is unique in an engine; it is negative for a group that is not kept.
	id        int
	resources []*resource
}

// inspectedFirst brings the resources into their order and keeps it otherwise:
// what is inspected decides how a flow is spoken.
func (g *group) inspectedFirst() {
	slices.SortStableFunc(g.resources, func(a, b *resource) int {
		return cmp.Compare(min(a.kind, uninspected), min(b.kind, uninspected))
	})
}

// primary is the resource that a flow is said to belong to: of those that are
// inspected, if any, the one that a name chooses, and else the first.
func (g *group) primary(names []string, port uint16) *resource {
	list := g.resources
	if len(names) == 0 {
		return list[0]
	}
	if n := slices.IndexFunc(list, func(r *resource) bool { return r.kind != inspected }); n > 0 {
		list = list[:n]
	}
	for _, exact := range []bool{true, false} {
		for _, name := range names {
			for _, r := range list {
				if r.isNamed(normalName(name), port, exact) {
					return r
				}
			}
		}
	}
	return list[0]
}

// isNamed reports whether one of the resource's host names, or, if exact is
// false, one of its patterns, means a name and port.
func (r *resource) isNamed(name string, port uint16, exact bool) bool {
	return slices.ContainsFunc(r.hosts, func(h resourceHost) bool {
		if h.Name == "" || h.Port != port || h.suffix == exact {
			return false
		}
		return exact && h.Name == name || !exact && isBelow(name, h.Name)
	})
}

// targets finds the group of an address. Ranges are nested or disjoint, so the
// narrowest one that holds an address knows all the others.
type targets struct {
	groups []*group
	byDest map[destination]*group
	bits4  []int // the lengths of IPv4 prefixes in byDest, longest first
	bits6  []int
}

// find returns the group of a target, nil if there is none.
func (t *targets) find(target netip.AddrPort) *group {
	addr := target.Addr().Unmap().WithZone("")
	bits := t.bits6
	if addr.Is4() {
		bits = t.bits4
	}
	for _, n := range bits {
		p, err := addr.Prefix(n)
		if err != nil {
			return nil
		}
		if g := t.byDest[destination{p, target.Port()}]; g != nil {
			return g
		}
	}
	return nil
}

// buildTargets makes the table of the resources of a transport, which are sorted
// by name, and returns the host names that have no address. The ids of groups
// begin at first.
func buildTargets(resources []*resource, addresses map[string][]netip.Addr, first int) (targets, []string) {
	own := map[destination][]*resource{}
	var unresolved []string
	for _, r := range resources {
		for _, h := range r.hosts {
			if h.suffix {
				continue
			}
			prefixes := hostPrefixes(h.Host, addresses)
			if len(prefixes) == 0 {
				unresolved = append(unresolved, h.Name)
			}
			for _, p := range prefixes {
				d := destination{p, h.Port}
				if !slices.Contains(own[d], r) {
					own[d] = append(own[d], r)
				}
			}
		}
	}
	slices.Sort(unresolved)
	return groupTargets(own, first), slices.Compact(unresolved)
}

// normalAddresses returns what names mean, by their normal form.
func normalAddresses(resolved map[string][]netip.Addr) map[string][]netip.Addr {
	addresses := map[string][]netip.Addr{}
	for name, list := range resolved {
		for _, a := range list {
			if a = a.Unmap().WithZone(""); a.IsValid() {
				addresses[normalName(name)] = append(addresses[normalName(name)], a)
			}
		}
	}
	return addresses
}

// hostOf returns the host name by which a target belongs to the resource, or "".
// Of several it is the one that the agent knows the target by.
func (r *resource) hostOf(target netip.AddrPort, names []string, addresses map[string][]netip.Addr) string {
	for _, exact := range []bool{true, false} {
		for _, name := range names {
			if name = normalName(name); r.isNamed(name, target.Port(), exact) {
				return name
			}
		}
	}
	addr := target.Addr().Unmap().WithZone("")
	for _, h := range r.hosts {
		if h.Name != "" && !h.suffix && h.Port == target.Port() && slices.Contains(addresses[h.Name], addr) {
			return h.Name
		}
	}
	return ""
}

func hostPrefixes(h Host, addresses map[string][]netip.Addr) []netip.Prefix {
	if h.Name == "" {
		return []netip.Prefix{h.Prefix}
	}
	var list []netip.Prefix
	for _, a := range addresses[h.Name] {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	return list
}

// groupTargets completes every destination by the resources of the wider ranges
// around it.
func groupTargets(own map[destination][]*resource, first int) targets {
	t := targets{byDest: make(map[destination]*group, len(own))}
	lengths := map[bool]map[int]bool{false: {}, true: {}}
	var order []destination
	for d := range own {
		order = append(order, d)
		lengths[d.prefix.Addr().Is4()][d.prefix.Bits()] = true
	}
	slices.SortFunc(order, compareDestinations)
	t.bits4, t.bits6 = descending(lengths[true]), descending(lengths[false])
	for _, d := range order {
		g := &group{id: first + len(t.groups)}
		bits := t.bits6
		if d.prefix.Addr().Is4() {
			bits = t.bits4
		}
		for _, n := range bits {
			if n > d.prefix.Bits() {
				continue
			}
			wider := netip.PrefixFrom(d.prefix.Addr(), n).Masked()
			for _, r := range own[destination{wider, d.port}] {
				if !slices.Contains(g.resources, r) {
					g.resources = append(g.resources, r)
				}
			}
		}
		g.inspectedFirst()
		t.groups = append(t.groups, g)
		t.byDest[d] = g
	}
	return t
}

func descending(set map[int]bool) []int {
	var list []int
	for n := range set {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b int) int { return b - a })
	return list
}

func compareDestinations(a, b destination) int {
	return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), a.prefix.Bits()-b.prefix.Bits(), cmp.Compare(a.port, b.port))
}
