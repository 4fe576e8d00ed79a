package policy

import (
	"net/netip"
	"slices"

	"github.com/headgate/headgate/pkg/transparent"
)

// Place is where a flow goes, and by which names.
type Place struct {
	Target    netip.AddrPort
	Transport transparent.Transport
	Names     []string
}

// placeholder is an address for what has none: it is of a range that is kept for
// documentation (RFC 5737), and no resource of a real policy has it.
var placeholder = netip.MustParseAddr("192.0.2.1")

// Somewhere returns a place that belongs to a resource, for requests that nobody
// made: its first host, by the address where that is known and else by the name. It
// returns false for unix sockets and for names that no resource has.
func (e *Engine) Somewhere(name string) (Place, bool) {
	if e == nil {
		return Place{}, false
	}
	i := slices.IndexFunc(e.resources, func(r *resource) bool { return r.Name == name })
	if i < 0 || e.resources[i].kind == sockets {
		return Place{}, false
	}
	r := e.resources[i]
	if r.kind == questions {
		if len(r.servers) > 0 {
			return Place{Target: r.servers[0]}, true
		}
		return Place{Target: netip.AddrPortFrom(placeholder, portDNS)}, true
	}
	h := r.hosts[0]
	p := Place{Target: netip.AddrPortFrom(placeholder, h.Port), Transport: r.kind.transport()}
	switch {
	case h.suffix:
		p.Names = []string{"any." + h.Name}
	case h.Name != "":
		p.Names = []string{h.Name}
	}
	if prefixes := hostPrefixes(h.Host, e.addresses); !h.suffix && len(prefixes) > 0 {
		p.Target = netip.AddrPortFrom(prefixes[0].Addr(), h.Port)
	}
	return p, true
}
