package policy

import (
	"net/netip"
	"slices"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// Part is a rule or a mask of a policy, for tools that look at the policy itself.
type Part struct {
	// Kind is [PartRule] or [PartMask].
	Kind string
	// Name is unique among the parts of a kind in one policy.
	Name string
	At   strict.Position
}

// The kinds of parts.
const (
	PartRule = "rule"
	PartMask = "mask"
)

// Parts returns the file's rules and masks in the order of the file.
func (f *File) Parts() []Part {
	var list []Part
	for i, r := range f.syntax.Rules {
		list = append(list, Part{PartRule, r.Name, f.at.At(index("rules", i))})
	}
	for i, m := range f.syntax.Masks {
		list = append(list, Part{PartMask, m.Name, f.at.At(index("masks", i))})
	}
	return list
}

// AgentList and ResourceList are the sections agents and resources of a policy
// file, for files of other formats that have such sections. They are decoded by
// [strict.Decode], and used by [Sections].
type (
	AgentList    []agentSyntax
	ResourceList []resourceSyntax
)

// Sections makes a policy file of the sections agents and resources of a file of
// another format, in which these are top-level keys. The name is that file's, and at
// the places that decoding it noted. An error is an [Errors].
func Sections(name string, agents AgentList, resources ResourceList, at strict.Positions) (*File, error) {
	f := &File{name: name, syntax: fileSyntax{Version: 1, Agents: agents, Resources: resources}, at: at}
	c := &checker{File: f}
	names := uniqueNames{}
	for i, a := range agents {
		c.named("agents", i, a.Name, names)
		c.agent(index("agents", i), a)
	}
	for i, r := range resources {
		c.named("resources", i, r.Name, names)
		c.resource(index("resources", i), r)
	}
	c.errs.Sort()
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// placeholder is an address for what has none: it is of a range that is kept for
// documentation (RFC 5737), and no resource of a real policy has it.
var placeholder = netip.MustParseAddr("192.0.2.1")

// Example returns a request that goes to a resource, with its Target, Transport and
// Names set: to the first of its hosts that has an address, or else to its first host
// by the name, or, for a resource with protocol: dns, to its first server. ok is false for
// unix sockets and for names that no resource has.
func (e *Engine) Example(name string) (req Request, ok bool) {
	if e == nil {
		return Request{}, false
	}
	i := slices.IndexFunc(e.resources, func(r *resource) bool { return r.Name == name })
	if i < 0 || e.resources[i].kind == sockets {
		return Request{}, false
	}
	r := e.resources[i]
	req.Transport = r.kind.transport()
	if r.kind == questions {
		req.Target = netip.AddrPortFrom(placeholder, portDNS)
		if len(r.servers) > 0 {
			req.Target = r.servers[0]
		}
		return req, true
	}
	for _, h := range r.hosts {
		prefixes := hostPrefixes(h.Host, e.addresses)
		if h.suffix || len(prefixes) == 0 {
			continue
		}
		req.Target = netip.AddrPortFrom(prefixes[0].Addr(), h.Port)
		if h.Name != "" {
			req.Names = []string{h.Name}
		}
		return req, true
	}
	h := r.hosts[0]
	req.Target, req.Names = netip.AddrPortFrom(placeholder, h.Port), []string{h.Name}
	if h.suffix {
		req.Names = []string{"any." + h.Name}
	}
	return req, true
}

// MasksByName returns the masks that a request's principal is not exempt from at its
// target, each as a set of its own, those included that only observe. What they
// come to together is what [Engine.Masks] returns.
func (e *Engine) MasksByName(req *Request) map[string]*mask.Set {
	if e == nil || req == nil {
		return nil
	}
	g := e.group(req)
	if g == nil {
		return nil
	}
	sets := map[string]*mask.Set{}
	for _, m := range g.masks(func(m *maskEntry) bool { return !anyMatches(m.unless, &req.Principal, req.Agent) }) {
		// A mask that does not compile alone did not compile with the others.
		if set, err := compileMasks([]*maskEntry{m}, e.maskOptions); err == nil {
			sets[m.rule.Name] = set
		}
	}
	return sets
}

// KernelVerdict returns what the kernel does with a flow to a request's target
// without asking anybody; ok is false for what belongs to no resource by its
// address. The names are those of [Destination].
func (e *Engine) KernelVerdict(req *Request) (found Destination, ok bool) {
	addr := req.Target.Addr().Unmap().WithZone("")
	for _, d := range e.Destinations() {
		if d.Port == req.Target.Port() && d.Transport == req.Transport && d.Prefix.Contains(addr) && (!ok || d.Prefix.Bits() > found.Prefix.Bits()) {
			found, ok = d, true
		}
	}
	return found, ok
}

// Question is the operation of asking a name server for a name. The effects are what
// is asked for: its addresses, if there are none.
func Question(name string, effects []string) Operation {
	if len(effects) == 0 {
		effects = []string{effectAddress}
	}
	return Operation{Protocol: protocolDNS, Verb: effects[0], Effects: effects, Objects: []Object{{Kind: objectName, Name: name}}}
}
