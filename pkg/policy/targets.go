package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// resource is a resource with everything that applies to it.
type resource struct {
	Resource
	hosts []Host
	names map[string]bool // the host names among hosts
	rules []*rule         // by name
	masks []*maskEntry    // by name
}

// destination is a range of addresses and a port.
type destination struct {
	prefix netip.Prefix
	port   uint16
}

// group is the resources that share a destination, the one with the narrowest
// range first.
type group struct {
	id        int
	resources []*resource
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

// buildTargets makes the table of all resources, which are sorted by name, and
// returns the host names that have no address.
func buildTargets(resources []*resource, resolved map[string][]netip.Addr) (targets, []string) {
	addresses := map[string][]netip.Addr{}
	for name, list := range resolved {
		addresses[normalName(name)] = append(addresses[normalName(name)], list...)
	}
	own := map[destination][]*resource{}
	var unresolved []string
	for _, r := range resources {
		for _, h := range r.hosts {
			prefixes := hostPrefixes(h, addresses)
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
	return groupTargets(own), slices.Compact(unresolved)
}

func hostPrefixes(h Host, addresses map[string][]netip.Addr) []netip.Prefix {
	if h.Name == "" {
		return []netip.Prefix{h.Prefix}
	}
	var list []netip.Prefix
	for _, a := range addresses[h.Name] {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}

// groupTargets completes every destination by the resources of the wider ranges
// around it.
func groupTargets(own map[destination][]*resource) targets {
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
		g := &group{id: len(t.groups)}
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

// Destination is a range of addresses and a TCP port that belong to a resource.
type Destination struct {
	Prefix netip.Prefix
	Port   uint16
	// Resource is the name of the one that the range names most narrowly.
	Resource string
}

// destinations lists the table in the order of addresses.
func (t *targets) destinations() []Destination {
	list := make([]Destination, 0, len(t.byDest))
	for d, g := range t.byDest {
		list = append(list, Destination{Prefix: d.prefix, Port: d.port, Resource: g.resources[0].Name})
	}
	slices.SortFunc(list, func(a, b Destination) int {
		return compareDestinations(destination{a.Prefix, a.Port}, destination{b.Prefix, b.Port})
	})
	return list
}
