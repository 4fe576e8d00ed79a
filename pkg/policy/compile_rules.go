package policy

import (
	"errors"
	"slices"
	"strings"
)

// selectResources returns the resources that a list of patterns names. A name or
// glob that names nothing is an error; "*" and a protocol may name nothing, so
// that a pack can be there before the first resource is.
func (c *compiler) selectResources(f *File, at string, patterns []string) []*resource {
	chosen := map[*resource]bool{}
	for i, p := range patterns {
		protocol, byProtocol := strings.CutPrefix(p, protocolPrefix)
		hit := p == "*" || byProtocol
		for _, r := range c.engine.resources {
			if byProtocol && r.Protocol == protocol || !byProtocol && glob(p, r.Name) {
				chosen[r], hit = true, true
			}
		}
		if byProtocol && !c.speaks(protocol) {
			c.bad(f, index(at, i), "unknown protocol %q", protocol)
		}
		if !hit {
			c.bad(f, index(at, i), "unknown resource %q", p)
		}
	}
	var list []*resource
	for _, r := range c.engine.resources {
		if chosen[r] {
			list = append(list, r)
		}
	}
	return list
}

func (c *compiler) compilePatterns(f *File, at string, list []string) []pattern {
	var patterns []pattern
	for i, s := range list {
		p, err := parsePattern(s)
		switch here := index(at, i); {
		case err != nil:
			c.bad(f, here, "%v", err)
		case p.kind == patternAgent && !c.agents[p.name]:
			c.bad(f, here, "unknown agent %q", p.name)
		case p.kind == patternSubject && c.Issuers != nil && !slices.ContainsFunc(c.Issuers, func(s string) bool { return glob(p.issuer, s) }):
			c.bad(f, here, "pattern %q: unknown issuer %q, want issuer:subject", s, p.issuer)
		}
		patterns = append(patterns, p)
	}
	return patterns
}

func (c *compiler) compileRules(f *File) {
	for i, s := range f.syntax.Rules {
		at := index("rules", i)
		r := &rule{
			name: s.Name, message: strings.TrimSpace(s.Message), effect: parseVerdict(s.Effect),
			mode:       c.mode(f, s.Mode),
			principals: c.compilePatterns(f, at+".principals", s.Principals),
			agents:     slices.Clone(s.Agents),
			star:       len(s.Operations) == 0 || slices.Contains(s.Operations, "*"),
			operations: slices.DeleteFunc(slices.Clone(s.Operations), func(o string) bool { return o == "*" }),
			limit:      s.Limits.limit(s.Name),
			approval:   s.Approval.approval(s.Name),
			at:         f.at.At(at), written: s,
		}
		for j, a := range s.Agents {
			if !c.agents[a] {
				c.bad(f, index(at+".agents", j), "unknown agent %q", a)
			}
		}
		chosen := c.selectResources(f, at+".resources", s.Resources)
		c.compileCondition(f, at, s, r, protocolsOf(s.Resources, chosen))
		for _, res := range chosen {
			c.staticRule(f, at, r, res)
			c.keepsLimits(f, at, r, res)
			res.rules = append(res.rules, r)
			r.used = true
		}
		c.vocabulary(f, at+".operations", s)
		c.engine.rules = append(c.engine.rules, r)
		if !r.used {
			c.engine.idle = append(c.engine.idle, "rule "+r.name)
		}
	}
}

func (c *compiler) compileCondition(f *File, at string, s ruleSyntax, r *rule, protocols []string) {
	if s.When == "" {
		return
	}
	condition, err := c.condition(s.When, protocols)
	if err == nil && condition == nil {
		err = errors.New("compiled to nothing")
	}
	if err != nil {
		c.bad(f, at+".when", "rule %s: %v", s.Name, err)
		return
	}
	r.condition = condition
	if cond, ok := condition.(*celCondition); ok && cond.asksFacts {
		r.asksFacts = true
		if i := slices.Index(s.Operations, Connect); i >= 0 {
			c.bad(f, index(at+".operations", i), "rule %s: its condition asks for facts of an operation, and whoever connects does nothing yet; make a rule of its own for %s", s.Name, Connect)
		}
	}
}

// condition compiles a condition for operations of the protocols.
func (c *compiler) condition(expression string, protocols []string) (Condition, error) {
	if c.conditions != nil {
		return c.conditions(expression)
	}
	return c.cel.compile(expression, protocols)
}

// protocolsOf returns the protocols that a rule with these resources is for.
func protocolsOf(patterns []string, chosen []*resource) []string {
	var protocols []string
	for _, p := range patterns {
		if protocol, ok := strings.CutPrefix(p, protocolPrefix); ok {
			protocols = append(protocols, protocol)
		}
	}
	for _, r := range chosen {
		protocols = append(protocols, r.Protocol)
	}
	slices.Sort(protocols)
	return slices.Compact(protocols)
}

// vocabulary refuses operations that no protocol of the rule's resources has.
func (c *compiler) vocabulary(f *File, at string, s ruleSyntax) {
	if c.Vocabulary == nil {
		return
	}
	known := map[string]bool{"*": true, Connect: true, Unknown: true}
	learn := func(protocol string) {
		for _, o := range c.Vocabulary[protocol] {
			known[o] = true
		}
	}
	for _, p := range s.Resources {
		if protocol, ok := strings.CutPrefix(p, protocolPrefix); ok {
			learn(protocol)
			continue
		}
		if p == "*" {
			for protocol := range c.Vocabulary {
				learn(protocol)
			}
		}
		for _, r := range c.engine.resources {
			if glob(p, r.Name) {
				learn(r.Protocol)
			}
		}
	}
	for i, o := range s.Operations {
		if !known[o] {
			c.bad(f, index(at, i), "rule %s: unknown operation %q", s.Name, o)
		}
	}
}

func (c *compiler) compileMasks(f *File) {
	for i, s := range f.syntax.Masks {
		at := index("masks", i)
		m := &maskEntry{rule: maskRule(s), unless: c.compilePatterns(f, at+".unless", s.Unless), mode: c.mode(f, ""), at: f.at.At(at)}
		used := false
		for _, res := range c.selectResources(f, at+".resources", s.Resources) {
			if res.kind == inspected {
				res.masks = append(res.masks, m)
				used = true
				continue
			}
			if !slices.Contains(s.Resources, "*") {
				c.bad(f, at+".resources", "mask %s: nothing is masked at resource %s (%s)", s.Name, res.Name, res.kind.key())
			}
		}
		if !used {
			c.engine.idle = append(c.engine.idle, "mask "+s.Name)
		}
	}
}
