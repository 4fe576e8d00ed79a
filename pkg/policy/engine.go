package policy

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/headgate/headgate/pkg/mask"
)

// DefaultRule is the rule of a decision that no rule made.
const DefaultRule = "default"

// Failure tells what becomes of connections when headgate itself fails. The
// zero Failure is Closed.
type Failure uint8

// The ways to fail.
const (
	Closed Failure = iota
	Open
)

// String returns "closed" or "open".
func (f Failure) String() string {
	if f == Open {
		return "open"
	}
	return "closed"
}

// Engine answers requests by one generation of a policy. It does not change and
// may be used by any number of goroutines. A nil or zero Engine denies.
type Engine struct {
	compiled         bool
	generation       uint64
	mode             Mode
	unmatched        Verdict
	unknownOperation Verdict
	onFailure        Failure
	agents           []Agent
	resources        []*resource
	targets          targets
	unresolved       []string
	idle             []string
	maskOptions      []mask.Option

	seed  maphash.Seed
	mu    sync.RWMutex
	views map[viewKey]*view // a cache: what it holds could be made again
}

// Decide answers a request. It does not keep it. The package documentation says
// how the answer is found.
func (e *Engine) Decide(req *Request) Decision {
	if e == nil || !e.compiled {
		return Decision{Reason: ReasonNoPolicy}
	}
	if req == nil {
		return Decision{Reason: ReasonError, Generation: e.generation}
	}
	d := Decision{Generation: e.generation}
	g := e.targets.find(req.Target)
	if g == nil {
		return e.unknownResource(d, req)
	}
	d.Resource = g.resources[0].Name
	v := e.view(g, req)
	all := outcomes{undecided, undecided}
	for i := range v.resources {
		all = all.and(e.resource(&v.resources[i], req))
	}
	if all.acting.observed && v.enforced && slices.Contains(req.Operation.Effects, Connect) {
		// The session has to be understood for what is enforced later.
		all.acting = outcome{verdict: Allow, rank: rankUnmatched}
	}
	return d.from(all)
}

func (e *Engine) unknownResource(d Decision, req *Request) Decision {
	all := e.byDefault(outcome{verdict: e.unmatched, rank: rankUnknownResource})
	if hasUnknown(&req.Operation) {
		all = all.and(e.byDefault(outcome{verdict: e.unknownOperation, rank: rankUnknownOperation}))
	}
	return d.from(all)
}

// from completes the decision by what was found.
func (d Decision) from(all outcomes) Decision {
	d.Verdict, d.Mode = all.acting.verdict, Enforce
	d.WouldHave, d.WouldHaveRule = all.full.verdict, all.full.name()
	why := all.acting
	if all.acting.observed {
		d.Mode, why = Observe, all.full
	}
	d.Rule, d.Reason = why.name(), why.rank.reason()
	if why.rule != nil {
		d.Message = why.rule.message
	}
	return d
}

func hasUnknown(op *Operation) bool {
	return len(op.Effects) == 0 || slices.Contains(op.Effects, Unknown)
}

// resource decides all effects of an operation at one resource.
func (e *Engine) resource(v *resourceView, req *Request) outcomes {
	all := outcomes{undecided, undecided}
	for _, effect := range req.Operation.Effects {
		if effect != Unknown {
			all = all.and(e.effect(v, effect, req))
		}
	}
	if !hasUnknown(&req.Operation) {
		return all
	}
	all = all.and(e.effect(v, Unknown, req))
	// The default for unknown operations opens nothing to those who may not even
	// connect.
	connect := e.effect(v, Connect, req)
	if connect.full.verdict == Deny {
		all.full = all.full.and(connect.full)
	}
	if connect.acting.verdict == Deny {
		all.acting = all.acting.and(connect.acting)
	}
	return all
}

// effect decides one effect at one resource.
func (e *Engine) effect(v *resourceView, effect string, req *Request) outcomes {
	all := outcomes{undecided, undecided}
	for _, c := range v.candidates(effect) {
		o := outcome{verdict: c.verdict, rank: rankRule, rule: c.rule}
		if c.condition != nil {
			holds, err := c.condition.Eval(req)
			if err != nil {
				o.verdict, o.rank = Deny, rankError
			} else if !holds {
				continue
			}
		}
		all.full = all.full.and(o)
		if c.rule.mode == Enforce {
			all.acting = all.acting.and(o)
		}
	}
	otherwise := outcome{verdict: e.unmatched, rank: rankUnmatched}
	if effect == Unknown {
		otherwise = outcome{verdict: e.unknownOperation, rank: rankUnknownOperation}
	}
	byDefault := e.byDefault(otherwise)
	if all.full == undecided {
		all.full = byDefault.full
	}
	if all.acting == undecided {
		all.acting = byDefault.acting
	}
	return all
}

// byDefault is what the defaults say; where they only observe, they let pass.
func (e *Engine) byDefault(o outcome) outcomes {
	all := outcomes{o, o}
	if e.mode == Observe {
		all.acting = outcome{verdict: Allow, rank: o.rank, observed: true}
	}
	return all
}

// Resource returns the resource that a target belongs to. Where there are
// several, names, which an agent may have made up, choose among them, and else
// the narrowest range does; names never add one.
func (e *Engine) Resource(target netip.AddrPort, names []string) (Resource, bool) {
	if e == nil {
		return Resource{}, false
	}
	g := e.targets.find(target)
	if g == nil {
		return Resource{}, false
	}
	for _, r := range g.resources {
		if slices.ContainsFunc(names, func(n string) bool { return r.names[normalName(n)] }) {
			return r.Resource, true
		}
	}
	return g.resources[0].Resource, true
}

// Masks returns what must be masked for a request's principal at its target,
// whatever its operation. The set is shared and must not be changed; nil masks
// nothing.
func (e *Engine) Masks(req *Request) *mask.Set {
	if e == nil || !e.compiled || req == nil {
		return nil
	}
	g := e.targets.find(req.Target)
	if g == nil {
		return nil
	}
	return e.view(g, req).masks
}

// Generation returns the number that the engine was compiled with.
func (e *Engine) Generation() uint64 {
	if e == nil {
		return 0
	}
	return e.generation
}

// Mode returns the mode of the defaults.
func (e *Engine) Mode() Mode {
	if e == nil {
		return Enforce
	}
	return e.mode
}

// OnFailure returns what becomes of connections when headgate itself fails.
func (e *Engine) OnFailure() Failure {
	if e == nil {
		return Closed
	}
	return e.onFailure
}

// Agents returns the enrolment rules by name.
func (e *Engine) Agents() []Agent {
	if e == nil {
		return nil
	}
	list := slices.Clone(e.agents)
	for i := range list {
		list[i].Users, list[i].Cgroups = slices.Clone(list[i].Users), slices.Clone(list[i].Cgroups)
	}
	return list
}

// Resources returns the resources by name.
func (e *Engine) Resources() []Resource {
	if e == nil {
		return nil
	}
	list := make([]Resource, len(e.resources))
	for i, r := range e.resources {
		list[i] = r.Resource
	}
	return list
}

// Hosts returns the host names of all resources, each once per port.
func (e *Engine) Hosts() []Host {
	if e == nil {
		return nil
	}
	var list []Host
	for _, r := range e.resources {
		for _, h := range r.hosts {
			if h.Name != "" && !slices.Contains(list, h) {
				list = append(list, h)
			}
		}
	}
	slices.SortFunc(list, func(a, b Host) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// Unresolved returns the host names that had no address in [Options.Resolved]
// and therefore match nothing.
func (e *Engine) Unresolved() []string {
	if e == nil {
		return nil
	}
	return slices.Clone(e.unresolved)
}

// Destinations returns every range of addresses, with its port, that belongs to
// a resource, in the order of addresses.
func (e *Engine) Destinations() []Destination {
	if e == nil {
		return nil
	}
	return e.targets.destinations()
}

// Idle returns the rules and masks, as in "rule no-drop", that apply to no
// resource because there is none of their protocol, or none at all.
func (e *Engine) Idle() []string {
	if e == nil {
		return nil
	}
	return slices.Clone(e.idle)
}
