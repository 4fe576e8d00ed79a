package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Explanation tells how a decision came about.
type Explanation struct {
	Decision Decision `json:"-"`
	// Resources are those that the request concerns, all of which must allow.
	Resources []string `json:"resources"`
	// Rules are all rules of the policy, by name.
	Rules []RuleExplanation `json:"rules"`
	// Default says in words what the defaults said, where a rule left something to
	// them; empty otherwise.
	Default string `json:"default,omitempty"`
}

// RuleExplanation tells what became of one rule.
type RuleExplanation struct {
	Rule   string  `json:"rule"`
	File   string  `json:"file"` // where it stands
	Line   int     `json:"line"`
	Effect Verdict `json:"effect"`
	Mode   Mode    `json:"mode"`
	// Matched says that it had a say: all of it matched, or its condition failed.
	Matched bool `json:"matched"`
	// Decided says that it is the rule of the decision, or of what would have been.
	Decided bool `json:"decided"`
	// Why says in words what matched, or the first thing that did not.
	Why string `json:"why"`
	// Condition tells about the rule's condition, if it came to that.
	Condition *ConditionExplanation `json:"condition,omitempty"`
}

// ConditionExplanation tells how a condition came out.
type ConditionExplanation struct {
	Expression string `json:"expression"`
	// Result is "true", "false" or "error".
	Result string `json:"result"`
	// Part is the part of the expression that made it so, and Values are what it
	// looked at, as in `process.uid = 1001`; cut to a length fit for people.
	Part   string   `json:"part,omitempty"`
	Values []string `json:"values,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// Explain tells how [Engine.Decide] answers a request. It takes much longer.
func (e *Engine) Explain(req *Request) Explanation {
	x := Explanation{Decision: e.Decide(req)}
	if e == nil || !e.compiled || req == nil {
		return x
	}
	concerned := e.concerned(req)
	for _, r := range concerned {
		x.Resources = append(x.Resources, r.Name)
	}
	for _, r := range e.rules {
		one := e.explainRule(r, req, concerned)
		one.Decided = r.name == x.Decision.Rule || r.name == x.Decision.WouldHaveRule
		x.Rules = append(x.Rules, one)
	}
	if x.Decision.Rule == DefaultRule || x.Decision.WouldHaveRule == DefaultRule {
		x.Default = e.explainDefault(x.Decision)
	}
	return x
}

// concerned returns the resources that a request concerns, by name.
func (e *Engine) concerned(req *Request) []*resource {
	var list []*resource
	if g := e.group(req); g != nil {
		list = slices.Clone(g.resources)
	}
	if req.Operation.Protocol == protocolDNS {
		list = append(list, e.asked(req)...)
	}
	slices.SortFunc(list, func(a, b *resource) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(list)
}

// asked returns the resources that questions to a name server concern, and those
// by which the questions may be implied.
func (e *Engine) asked(req *Request) []*resource {
	var names []string
	for _, o := range req.Operation.Objects {
		if o.Kind == objectName {
			names = append(names, normalName(o.Name))
		}
	}
	var list []*resource
	for _, r := range e.questions {
		if r.answersAt(req.Target) && (len(names) == 0 || slices.ContainsFunc(names, r.asked.has)) {
			list = append(list, r)
		}
	}
	for _, name := range names {
		for h := range e.names.of(name) {
			list = append(list, h.resource)
		}
	}
	return list
}

// explainRule goes through what a rule asks for in the order in which people read
// it, and ends at the first thing that does not match.
func (e *Engine) explainRule(r *rule, req *Request, concerned []*resource) RuleExplanation {
	x := RuleExplanation{Rule: r.name, File: r.at.File, Line: r.at.Line, Effect: r.effect, Mode: r.mode}
	of := slices.DeleteFunc(slices.Clone(concerned), func(one *resource) bool { return !slices.Contains(one.rules, r) })
	switch {
	case len(concerned) == 0:
		x.Why = "no resource of the policy has this target, and rules are about resources"
	case len(of) == 0:
		x.Why = fmt.Sprintf("it is for resources %s; this concerns %s", list(r.written.Resources), list(namesOf(concerned)))
	case len(r.agents) > 0 && !slices.Contains(r.agents, req.Agent):
		x.Why = fmt.Sprintf("it is for agents %s; this one is %q", list(r.agents), req.Agent)
	case !r.matches(&req.Principal, req.Agent):
		x.Why = fmt.Sprintf("it is for principals %s; this one is %s%s", list(r.written.Principals), req.Principal, groupsOf(req))
	default:
		e.explainEffects(&x, r, req, of)
	}
	return x
}

// explainEffects tells which of the operation's effects the rule is about, and, if
// any, how its condition came out.
func (e *Engine) explainEffects(x *RuleExplanation, r *rule, req *Request, of []*resource) {
	var matched []string
	unasked := false
	for _, effect := range effectsOf(&req.Operation) {
		if c, ok := r.candidate(effect); ok {
			matched = append(matched, effect)
			unasked = unasked || c.condition == nil
		}
	}
	if len(matched) == 0 && hasUnknown(&req.Operation) && r.keepsOut(req, of) {
		x.Matched, x.Why = true, "who may not connect may not do either what is not understood"
		return
	}
	switch {
	case len(matched) == 0 && r.asksFacts && slices.Contains(req.Operation.Effects, Connect):
		x.Why = "its condition is about what is done, and this only connects"
		return
	case len(matched) == 0:
		x.Why = fmt.Sprintf("it is about operations %s; this is %s", operationsOf(r), list(effectsOf(&req.Operation)))
		return
	case unasked && r.condition != nil:
		x.Why = "whoever it lets do something may connect; its condition is not asked"
		x.Matched = true
		return
	}
	x.Matched = true
	x.Why = "it is about " + list(matched)
	if r.condition == nil {
		return
	}
	for _, one := range of {
		x.Condition = explainCondition(r.condition, req, &one.Resource)
		if x.Condition.Result != "false" {
			break
		}
	}
	switch x.Condition.Result {
	case "false":
		x.Matched = false
		x.Why += ", but its condition does not hold"
	case "true":
		x.Why += ", and its condition holds"
	default:
		x.Why += ", and its condition could not be evaluated, which denies"
	}
}

// keepsOut reports whether a rule denies to connect to one of the resources.
func (r *rule) keepsOut(req *Request, of []*resource) bool {
	c, ok := r.candidate(Connect)
	if !ok || c.condition == nil {
		return ok && c.verdict == Deny
	}
	return slices.ContainsFunc(of, func(one *resource) bool {
		holds, err := c.condition.Eval(req, &one.Resource)
		return err != nil || holds && c.verdict == Deny
	})
}

// explainDefault says what decided where no rule did.
func (e *Engine) explainDefault(d Decision) string {
	word := map[string]string{
		ReasonUnmatched:        "no rule matched; defaults.unmatched is " + e.unmatched.String(),
		ReasonUnknownResource:  "the target belongs to no resource; defaults.unmatched is " + e.unmatched.String(),
		ReasonUnknownOperation: "the operation was not understood; defaults.unknown_operation is " + e.unknownOperation.String(),
	}[d.Reason]
	if e.mode == Observe {
		word = strings.TrimPrefix(word+"; defaults.mode is observe, so it passes", "; ")
	}
	return word
}

// effectsOf returns what decisions are made about. An operation without effects is
// unknown.
func effectsOf(op *Operation) []string {
	if len(op.Effects) == 0 {
		return []string{Unknown}
	}
	return op.Effects
}

func operationsOf(r *rule) string {
	if len(r.written.Operations) == 0 {
		return "[*]"
	}
	return list(r.written.Operations)
}

func groupsOf(req *Request) string {
	if req.Principal.IsAnonymous() || len(req.Principal.Groups) == 0 {
		return ""
	}
	return " of " + list(req.Principal.Groups)
}

func namesOf(resources []*resource) []string {
	var names []string
	for _, r := range resources {
		names = append(names, r.Name)
	}
	return names
}

func list(words []string) string { return "[" + strings.Join(words, ", ") + "]" }
