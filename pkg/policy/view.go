package policy

import (
	"hash/maphash"
	"slices"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// rule is a compiled rule.
type rule struct {
	name, message string
	effect        Verdict
	mode          Mode
	principals    []pattern // empty: everybody
	agents        []string  // empty: every agent
	operations    []string
	star          bool
	condition     Condition // nil: always
	// asksFacts: the condition needs facts of an operation, which connecting has not.
	asksFacts bool
	limit     Limit
	approval  Approval // for the effect approve
	used      bool
	// at and written are for people.
	at      strict.Position
	written ruleSyntax
}

// matches reports whether the rule concerns a principal acting through an agent.
func (r *rule) matches(who *identity.Principal, agent string) bool {
	if len(r.agents) > 0 && !slices.Contains(r.agents, agent) {
		return false
	}
	return len(r.principals) == 0 || anyMatches(r.principals, who, agent)
}

func anyMatches(list []pattern, who *identity.Principal, agent string) bool {
	for _, p := range list {
		if p.match(who, agent) {
			return true
		}
	}
	return false
}

// maskEntry is a compiled mask.
type maskEntry struct {
	rule   mask.Rule
	unless []pattern
	mode   Mode
	at     strict.Position
}

// candidate is a rule that says something about an effect, if its condition
// holds.
type candidate struct {
	rule      *rule
	verdict   Verdict
	condition Condition
}

// candidate returns what the rule says about an effect.
func (r *rule) candidate(effect string) (candidate, bool) {
	covered := r.star && effect != Unknown && (effect != Connect || !r.asksFacts)
	if covered || slices.Contains(r.operations, effect) {
		return candidate{r, r.effect, r.condition}, true
	}
	// Who may do anything may connect.
	if effect == Connect && r.effect != Deny {
		return candidate{r, Allow, nil}, true
	}
	return candidate{}, false
}

// view is what the rules and masks come to for one principal, acting through
// one agent, at one group of resources. It is immutable.
type view struct {
	principal identity.Principal // issuer, subject and groups only
	agent     string
	// enforced says that something here acts.
	enforced  bool
	resources []resourceView
	masks     *mask.Set
}

// resourceView holds the candidates of each effect that a rule lists, and those
// of all other effects.
type resourceView struct {
	at      *Resource
	effects map[string][]candidate
	others  []candidate
	// limited are the enforced rules that have limits.
	limited []*rule
}

func (v *resourceView) candidates(effect string) []candidate {
	if list, ok := v.effects[effect]; ok {
		return list
	}
	return v.others
}

type viewKey struct {
	group int
	hash  uint64
}

// maxViews bounds the cache. When it is full, further views are made for each
// request: slower, but nothing is evicted and nothing is wrong.
const maxViews = 4096

// view returns the view for a request, from the cache where it is there.
func (e *Engine) view(g *group, req *Request) *view {
	who := &req.Principal
	if g.id < 0 {
		return e.makeView(g, who, req.Agent)
	}
	key := viewKey{g.id, e.hash(who, req.Agent)}
	e.mu.RLock()
	v := e.views[key]
	e.mu.RUnlock()
	if v != nil && v.isFor(who, req.Agent) {
		return v
	}
	made := e.makeView(g, who, req.Agent)
	e.mu.Lock()
	defer e.mu.Unlock()
	if v == nil && len(e.views) < maxViews {
		e.views[key] = made
	}
	return made
}

// isFor guards against two principals with the same hash.
func (v *view) isFor(who *identity.Principal, agent string) bool {
	return v.agent == agent && v.principal.Issuer == who.Issuer && v.principal.Subject == who.Subject &&
		slices.Equal(v.principal.Groups, who.Groups)
}

func (e *Engine) hash(who *identity.Principal, agent string) uint64 {
	var h maphash.Hash
	h.SetSeed(e.seed)
	add := func(s string) {
		// Neither method ever returns an error.
		_, _ = h.WriteString(s)
		_ = h.WriteByte(0)
	}
	add(agent)
	add(who.Issuer)
	add(who.Subject)
	for _, g := range who.Groups {
		add(g)
	}
	return h.Sum64()
}

func (e *Engine) makeView(g *group, who *identity.Principal, agent string) *view {
	v := &view{
		principal: identity.Principal{Issuer: who.Issuer, Subject: who.Subject, Groups: slices.Clone(who.Groups)},
		agent:     agent,
		enforced:  e.mode == Enforce,
	}
	for _, r := range g.resources {
		var matching []*rule
		for _, one := range r.rules {
			if one.matches(who, agent) {
				matching = append(matching, one)
				v.enforced = v.enforced || one.mode == Enforce
			}
		}
		v.resources = append(v.resources, makeResourceView(r, matching))
	}
	masks := g.masks(func(m *maskEntry) bool { return m.mode == Enforce && !anyMatches(m.unless, who, agent) })
	v.enforced = v.enforced || len(masks) > 0
	set, err := compileMasks(masks, e.maskOptions)
	if err != nil {
		// A part of a set that was compiled before. Should it fail nevertheless,
		// nobody is exempt: the whole set was good.
		set = e.allMasks(g)
	}
	v.masks = set
	return v
}

func (e *Engine) allMasks(g *group) *mask.Set {
	all := g.masks(func(*maskEntry) bool { return true })
	set, err := compileMasks(all, e.maskOptions)
	if err != nil {
		// Compile has refused such a policy.
		panic("policy: masks that were compiled do not compile: " + err.Error())
	}
	return set
}

func makeResourceView(r *resource, rules []*rule) resourceView {
	v := resourceView{at: &r.Resource, effects: map[string][]candidate{Connect: nil, Unknown: nil}}
	if r.kind.static() {
		// Whoever may connect there may do anything.
		v.effects[Unknown], v.others = candidates(rules, Unknown), candidates(rules, Connect)
		v.effects[Connect] = v.others
		return v
	}
	for _, r := range rules {
		for _, o := range r.operations {
			v.effects[o] = nil
		}
		if r.mode == Enforce && !r.limit.Empty() {
			v.limited = append(v.limited, r)
		}
	}
	for effect := range v.effects {
		v.effects[effect] = candidates(rules, effect)
	}
	// No protocol has this effect, so that only "*" covers it.
	v.others = candidates(rules, "*")
	return v
}

// candidates lists what rules, which are sorted by name, say about an effect.
// Of the unconditional ones that say the same in the same mode, the first speaks
// for all, but for approvals.
func candidates(rules []*rule, effect string) []candidate {
	var list []candidate
	var said [Allow + 1][Observe + 1]bool
	for _, r := range rules {
		c, ok := r.candidate(effect)
		if !ok {
			continue
		}
		if c.condition == nil && c.verdict != Approve { // which ask different people
			if said[c.verdict][r.mode] {
				continue
			}
			said[c.verdict][r.mode] = true
		}
		list = append(list, c)
	}
	return list
}

// masks returns the masks of all resources of the group that are kept, by name.
func (g *group) masks(keep func(*maskEntry) bool) []*maskEntry {
	var list []*maskEntry
	for _, r := range g.resources {
		for _, m := range r.masks {
			if keep(m) && !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
	}
	slices.SortFunc(list, func(a, b *maskEntry) int {
		if a.rule.Name < b.rule.Name {
			return -1
		}
		return 1
	})
	return list
}

func compileMasks(list []*maskEntry, options []mask.Option) (*mask.Set, error) {
	if len(list) == 0 {
		return nil, nil
	}
	rules := make([]mask.Rule, len(list))
	for i, m := range list {
		rules[i] = m.rule
	}
	return mask.Compile(rules, options...)
}
