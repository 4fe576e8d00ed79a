package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// effectAddress is the effect of asking for the addresses of a name.
const effectAddress = "address"

// objectName is the kind of the objects that say which names are asked for.
const objectName = "name"

// Servers returns the name servers that resources with protocol: dns name, each
// once, in the order of addresses.
func (e *Engine) Servers() []netip.AddrPort {
	if e == nil {
		return nil
	}
	var list []netip.AddrPort
	for _, r := range e.resources {
		list = append(list, r.servers...)
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return slices.Compact(list)
}

// answersAt reports whether the resource says what may be asked of a server.
func (r *resource) answersAt(server netip.AddrPort) bool {
	return len(r.servers) == 0 ||
		slices.Contains(r.servers, netip.AddrPortFrom(server.Addr().Unmap().WithZone(""), server.Port()))
}

// decideDNS answers a request of a name server. A server that belongs to another
// resource too needs that one's permission as well.
func (e *Engine) decideDNS(d Decision, req *Request) Decision {
	var all outcomes
	if effects := req.Operation.Effects; len(effects) == 1 && effects[0] == Connect {
		all = e.connectDNS(&d, req)
	} else {
		all = e.queries(&d, req)
	}
	if g := e.group(req); g != nil {
		all = all.and(e.groupOf(e.view(g, req), req))
	}
	return d.from(all)
}

// queries decides about everything that an operation asks for. One that names
// nothing may mean whatever the server knows.
func (e *Engine) queries(d *Decision, req *Request) outcomes {
	all, named := nothing, false
	for i := range req.Operation.Objects {
		if o := &req.Operation.Objects[i]; o.Kind == objectName {
			name := normalName(o.Name)
			all = all.and(e.query(d, req, name, func(r *resource) bool { return r.asked.has(name) }))
			named = true
		}
	}
	if !named {
		all = e.query(d, req, "", func(*resource) bool { return true })
	}
	return all
}

// query decides about one name, which concerns the resources that are meant.
func (e *Engine) query(d *Decision, req *Request, name string, meant func(*resource) bool) outcomes {
	g := e.nobody
	for _, r := range e.questions {
		if r.answersAt(req.Target) && meant(r) {
			g = e.join(g, r)
		}
	}
	implied, host := nothing, ""
	if name != "" && slices.Contains(req.Operation.Effects, effectAddress) {
		implied, host = e.implied(name, req)
	}
	if len(g.resources) == 0 {
		d.Resource = cmp.Or(d.Resource, host)
		return e.unknownName(req, implied)
	}
	d.Resource = cmp.Or(d.Resource, g.resources[0].Name)
	v := e.view(g, req)
	all := nothing
	for i := range v.resources {
		all = all.and(e.resource(&v.resources[i], req, &implied))
	}
	return all
}

// unknownName decides about a name that no resource with protocol: dns lists.
func (e *Engine) unknownName(req *Request, implied outcomes) outcomes {
	byDefault := e.byDefault(outcome{verdict: e.unmatched, rank: rankUnknownResource})
	all := nothing
	for _, effect := range req.Operation.Effects {
		if effect == effectAddress {
			all = all.and(implied.otherwise(byDefault))
		} else {
			all = all.and(byDefault)
		}
	}
	if hasUnknown(&req.Operation) {
		all = all.and(byDefault).and(e.byDefault(outcome{verdict: e.unknownOperation, rank: rankUnknownOperation}))
	}
	return all
}

// implied is the permission to ask for the addresses of a name because a rule
// lets the principal connect to a resource that has it; the resource is named.
func (e *Engine) implied(name string, req *Request) (all outcomes, host string) {
	all = nothing
	for h := range e.names.of(name) {
		one := e.impliedBy(h.resource, req)
		if all == nothing && one != nothing {
			host = h.resource.Name
		}
		all = all.or(one)
	}
	return all, host
}

func (e *Engine) impliedBy(r *resource, req *Request) outcomes {
	connect := *req
	connect.Operation = Operation{Protocol: r.Protocol, Verb: Connect, Effects: []string{Connect}}
	v := e.view(e.join(e.nobody, r), &connect)
	o := e.effect(&v.resources[0], Connect, &connect, nil)
	return outcomes{o.full.implying(), o.acting.implying()}
}

// implying is what an outcome for connecting says about asking for the address.
func (o outcome) implying() outcome {
	if o.rule == nil || o.verdict == Deny {
		return undecided
	}
	return outcome{verdict: Allow, rank: rankImplied, rule: o.rule}
}

// connectDNS lets whoever may ask for anything talk to a server.
func (e *Engine) connectDNS(d *Decision, req *Request) outcomes {
	all, enforced, everyName := nothing, e.mode == Enforce, false
	add := func(one outcomes, resource string) {
		before := all.acting
		if all = all.or(one); all.acting != before {
			d.Resource = resource
		}
	}
	for _, r := range e.questions {
		if !r.answersAt(req.Target) {
			continue
		}
		v := e.view(e.join(e.nobody, r), req)
		add(e.resource(&v.resources[0], req, nil), r.Name)
		enforced = enforced || v.enforced
		everyName = everyName || r.asked.everything
	}
	for _, r := range e.hosts {
		if all.settled() {
			break
		}
		add(e.impliedBy(r, req), r.Name)
	}
	if !everyName {
		add(e.byDefault(outcome{verdict: e.unmatched, rank: rankUnknownResource}), "")
	}
	return understood(all, enforced)
}
