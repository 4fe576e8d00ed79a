package policy

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/transparent"
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
	rules            []*rule
	questions        []*resource // those of that kind
	hosts            []*resource // those that have host names
	tcp, udp         targets
	addresses        map[string][]netip.Addr // of host names
	names            nameIndex
	nobody           *group // the group without resources
	firstJoined      int    // the id of the first group in joined
	unresolved       []string
	idle             []string
	maskOptions      []mask.Option

	seed   maphash.Seed
	mu     sync.RWMutex
	views  map[viewKey]*view // a cache: what it holds could be made again
	joined map[joinKey]*group
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
	if req.Operation.Protocol == protocolDNS {
		return e.decideDNS(d, req)
	}
	g := e.group(req)
	if g == nil {
		return e.unknownResource(d, req)
	}
	d.Resource = g.primary(req.Names, req.Target.Port()).Name
	v := e.view(g, req)
	all := e.groupOf(v, req)
	if slices.Contains(req.Operation.Effects, Connect) {
		all = understood(all, v.enforced)
	}
	d = d.from(all)
	if d.Verdict != Deny {
		d.Limits = v.limits(req)
	}
	if d.Verdict == Approve {
		d.Approvals = v.approvals(req)
	}
	return d
}

// groupOf decides an operation at all resources of a view.
func (e *Engine) groupOf(v *view, req *Request) outcomes {
	all := nothing
	for i := range v.resources {
		all = all.and(e.resource(&v.resources[i], req, nil))
	}
	return all
}

// understood is what was found about connecting. Where something is enforced,
// the session has to be understood for it, whatever only observes.
func understood(all outcomes, enforced bool) outcomes {
	if all.acting.observed && enforced {
		all.acting = outcome{verdict: Allow, rank: rankUnmatched}
	}
	return all
}

// unknownResource decides about a target that belongs to no resource. UDP there
// is refused whatever the defaults say, because nobody would see what it carries.
func (e *Engine) unknownResource(d Decision, req *Request) Decision {
	unmatched := e.unmatched
	if req.Transport != transparent.TCP {
		unmatched = Deny
	}
	all := e.byDefault(outcome{verdict: unmatched, rank: rankUnknownResource})
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

// resource decides all effects of an operation at one resource. What is implied,
// if anything, holds for the effect "address" where no rule says anything.
func (e *Engine) resource(v *resourceView, req *Request, implied *outcomes) outcomes {
	all := nothing
	for _, effect := range req.Operation.Effects {
		switch {
		case effect == Unknown:
		case implied != nil && effect == effectAddress:
			all = all.and(e.effect(v, effect, req, implied))
		default:
			all = all.and(e.effect(v, effect, req, nil))
		}
	}
	if !hasUnknown(&req.Operation) {
		return all
	}
	all = all.and(e.effect(v, Unknown, req, nil))
	// The default for unknown operations opens nothing to those who may not even
	// connect.
	connect := e.effect(v, Connect, req, nil)
	if connect.full.verdict == Deny {
		all.full = all.full.and(connect.full)
	}
	if connect.acting.verdict == Deny {
		all.acting = all.acting.and(connect.acting)
	}
	return all
}

// effect decides one effect at one resource. Where no rule says anything, what
// is implied holds, and else the defaults.
func (e *Engine) effect(v *resourceView, effect string, req *Request, implied *outcomes) outcomes {
	all := nothing
	for _, c := range v.candidates(effect) {
		o := outcome{verdict: c.verdict, rank: rankRule, rule: c.rule}
		if c.condition != nil {
			holds, err := c.condition.Eval(req, v.at)
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
	if all.full.rank != rankUndecided && all.acting.rank != rankUndecided {
		return all
	}
	if implied != nil {
		all = all.otherwise(*implied)
	}
	otherwise := outcome{verdict: e.unmatched, rank: rankUnmatched}
	if effect == Unknown {
		otherwise = outcome{verdict: e.unknownOperation, rank: rankUnknownOperation}
	}
	return all.otherwise(e.byDefault(otherwise))
}

// byDefault is what the defaults say; where they only observe, they let pass.
func (e *Engine) byDefault(o outcome) outcomes {
	all := outcomes{o, o}
	if e.mode == Observe {
		all.acting = outcome{verdict: Allow, rank: o.rank, observed: true}
	}
	return all
}

// Resource returns the resource that a TCP target belongs to by its address.
// Where there are several, names, which an agent may have made up, choose among
// them, and else the narrowest range does; names never add one.
func (e *Engine) Resource(target netip.AddrPort, names []string) (Resource, bool) {
	if e == nil || !e.compiled {
		return Resource{}, false
	}
	g := e.tcp.find(target)
	if g == nil {
		return Resource{}, false
	}
	return g.primary(names, target.Port()).Resource, true
}

// ResourceOf returns the resource that a request's target belongs to, its names
// included; it is the one that decisions about it name. It looks at the target,
// the transport and the names only.
func (e *Engine) ResourceOf(req *Request) (Resource, bool) {
	if e == nil || !e.compiled || req == nil {
		return Resource{}, false
	}
	g := e.group(req)
	if g == nil {
		return Resource{}, false
	}
	r := g.primary(req.Names, req.Target.Port())
	found := r.Resource
	found.Host = r.hostOf(req.Target, req.Names, e.addresses)
	return found, true
}

// Masks returns what must be masked for a request's principal at its target,
// whatever its operation. The set is shared and must not be changed; nil masks
// nothing.
func (e *Engine) Masks(req *Request) *mask.Set {
	if e == nil || !e.compiled || req == nil {
		return nil
	}
	g := e.group(req)
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
		list[i] = list[i].clone()
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

// Hosts returns the host names of all resources, patterns left out, each once
// per port.
func (e *Engine) Hosts() []Host {
	if e == nil {
		return nil
	}
	var list []Host
	for _, r := range e.resources {
		for _, h := range r.hosts {
			if h.Name != "" && !h.suffix && !slices.Contains(list, h.Host) {
				list = append(list, h.Host)
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

// Idle returns the rules and masks, as in "rule no-drop", that apply to no
// resource because there is none of their protocol, or none at all.
func (e *Engine) Idle() []string {
	if e == nil {
		return nil
	}
	return slices.Clone(e.idle)
}
