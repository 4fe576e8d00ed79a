package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// checker finds what is wrong with one file by itself.
type checker struct {
	*File
	errs strict.Errors
}

// bad adds a finding about the value at a path.
func (c *checker) bad(at, format string, args ...any) {
	c.errs.Add(c.at.At(at), format, args...)
}

// given reports whether the file mentions a path.
func (c *checker) given(at string) bool {
	_, ok := c.at[at]
	return ok
}

func (c *checker) file() {
	if c.syntax.Version != 1 {
		c.bad("version", "version is required and must be 1")
	}
	c.oneOf("mode", c.syntax.Mode, "observe", "enforce")
	names := uniqueNames{}
	for i, a := range c.syntax.Agents {
		c.named("agents", i, a.Name, names)
		c.agent(index("agents", i), a)
	}
	for i, r := range c.syntax.Resources {
		c.named("resources", i, r.Name, names)
		c.resource(index("resources", i), r)
	}
	for i, r := range c.syntax.Rules {
		c.named("rules", i, r.Name, names)
		c.rule(index("rules", i), r)
	}
	for i, m := range c.syntax.Masks {
		c.named("masks", i, m.Name, names)
		c.mask(index("masks", i), m)
	}
	c.defaults()
}

func index(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// uniqueNames remembers where a name of a kind was first used.
type uniqueNames map[[2]string]strict.Position

// add reports where the name was used before.
func (u uniqueNames) add(kind, name string, at strict.Position) (strict.Position, bool) {
	key := [2]string{kind, name}
	if first, ok := u[key]; ok {
		return first, false
	}
	u[key] = at
	return at, true
}

func (c *checker) named(kind string, i int, name string, names uniqueNames) {
	at := index(kind, i) + ".name"
	switch {
	case !c.given(at):
		c.bad(at, "%s: name is required", index(kind, i))
	case !validName(name):
		c.bad(at, "name %q: want letters, digits, '.', '_' and '-', at most 63, a letter or digit first", name)
	case kind == "rules" && name == DefaultRule:
		c.bad(at, "name %q is what decisions say where no rule decided", name)
	default:
		if first, ok := names.add(kind, name, c.at.At(at)); !ok {
			c.bad(at, "name %q is used twice in %s, first at %s", name, kind, first)
		}
	}
}

// oneOf checks a word where the file gives one.
func (c *checker) oneOf(at, got string, want ...string) {
	if c.given(at) && !slices.Contains(want, got) {
		c.bad(at, "%s: unknown value %q, want %s", lastKey(at), got, strings.Join(want, " or "))
	}
}

func (c *checker) required(at string) {
	if !c.given(at) {
		c.bad(at, "%s is required", at)
	}
}

func lastKey(at string) string { return at[strings.LastIndexByte(at, '.')+1:] }

// maxMessage bounds the text, in bytes, that a rule gives to an agent.
const maxMessage = 1000

func (c *checker) rule(at string, r ruleSyntax) {
	c.required(at + ".effect")
	c.oneOf(at+".effect", r.Effect, "allow", "deny", "approve")
	c.oneOf(at+".mode", r.Mode, "observe", "enforce")
	c.resourcePatterns(at+".resources", r.Resources)
	c.patterns(at+".principals", r.Principals)
	for i, a := range r.Agents {
		if !validName(a) {
			c.bad(index(at+".agents", i), "agent %q is not a name", a)
		}
	}
	for i, o := range r.Operations {
		switch here := index(at+".operations", i); {
		case o == "*":
		case o == Unknown && r.Effect != "deny":
			c.bad(here, "operation %q can only be denied by a rule; to let it pass, set defaults.unknown_operation", o)
		case !validOperation(o):
			c.bad(here, "operation %q is not a word of a protocol; the only wildcard is \"*\" alone", o)
		}
	}
	if len(r.Message) > maxMessage {
		c.bad(at+".message", "message is longer than %d bytes", maxMessage)
	}
	if c.given(at+".when") && strings.TrimSpace(r.When) == "" {
		c.bad(at+".when", "when is empty")
	}
	if c.given(at + ".approval") {
		c.approval(at, r)
	}
	if c.given(at + ".limits") {
		c.limits(at, r)
	}
}

func (c *checker) approval(at string, r ruleSyntax) {
	if r.Effect != "approve" {
		c.bad(at+".approval", "approval is for rules with effect: approve")
	}
	at += ".approval"
	for i, g := range r.Approval.Groups {
		if !validName(g) {
			c.bad(index(at+".groups", i), "group %q is not a name", g)
		}
	}
	if c.given(at+".count") && (r.Approval.Count < 1 || r.Approval.Count > 10) {
		c.bad(at+".count", "count: want 1 to 10")
	}
	if d, err := time.ParseDuration(r.Approval.Timeout); c.given(at+".timeout") && (err != nil || d <= 0) {
		c.bad(at+".timeout", "timeout %q is not a duration, as in 10m", r.Approval.Timeout)
	}
	if g := r.Approval.Grant; c.given(at+".grant") && !slices.Contains([]string{"once", "statement", "session"}, g) {
		if d, err := time.ParseDuration(g); err != nil || d <= 0 {
			c.bad(at+".grant", "grant %q: want once, statement, session or a duration, as in 30m", g)
		}
	}
}

// protocolPrefix begins a pattern for all resources that speak a protocol.
const protocolPrefix = "protocol:"

func (c *checker) resourcePatterns(at string, list []string) {
	if !c.given(at) {
		c.bad(at, "%s is required; [\"*\"] is every resource", at)
	}
	for i, s := range list {
		name, _ := strings.CutPrefix(s, protocolPrefix)
		if stripped := strings.ReplaceAll(name, "*", "x"); !validName(stripped) || name != s && stripped != name {
			c.bad(index(at, i), "resource %q: want a name, a glob over names, or %sNAME", s, protocolPrefix)
		}
	}
}

func (c *checker) patterns(at string, list []string) {
	for i, s := range list {
		if _, err := parsePattern(s); err != nil {
			c.bad(index(at, i), "%v", err)
		}
	}
}

func (c *checker) mask(at string, m maskSyntax) {
	c.resourcePatterns(at+".resources", m.Resources)
	c.patterns(at+".unless", m.Unless)
	before := len(c.errs)
	for i, col := range m.Columns {
		if _, err := mask.ParseColumn(col); err != nil {
			c.bad(index(at+".columns", i), "%v", err)
		}
	}
	for i, d := range m.Detect {
		c.oneOf(index(at+".detect", i), d, mask.Detectors()...)
	}
	c.required(at + ".with")
	c.oneOf(at+".with", m.With, mask.Transforms()...)
	for key, value := range map[string]string{"predicates": m.Predicates, "copies": m.Copies, "definitions": m.Definitions} {
		here := at + "." + key
		c.oneOf(here, value, "allow", "deny")
		if c.given(here) && len(m.Columns) == 0 {
			c.bad(here, "%s is about columns, and the mask names none", key)
		}
	}
	if len(m.Columns)+len(m.Detect) == 0 {
		c.bad(at, "%s: want columns, detect or both", at)
	}
	if len(c.errs) > before {
		return
	}
	// Whatever else the mask package has against it.
	if _, err := mask.Compile([]mask.Rule{maskRule(m)}); err != nil {
		c.bad(at, "%v", err)
	}
}

func maskRule(m maskSyntax) mask.Rule {
	return mask.Rule{
		Name: m.Name, Columns: m.Columns, Detect: m.Detect, With: m.With, Constant: m.Constant,
		DenyPredicates: m.Predicates == "deny", AllowCopies: m.Copies == "allow", DenyDefinitions: m.Definitions == "deny",
	}
}

func (c *checker) defaults() {
	d := c.syntax.Defaults
	c.oneOf("defaults.mode", d.Mode, "observe", "enforce")
	c.oneOf("defaults.unmatched", d.Unmatched, "deny", "allow")
	c.oneOf("defaults.unknown_operation", d.UnknownOperation, "deny", "allow")
	c.oneOf("defaults.on_failure", d.OnFailure, "closed", "open")
}
