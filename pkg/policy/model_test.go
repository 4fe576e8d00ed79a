package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// finding is one thing that the model found about an operation.
type finding struct {
	verdict      Verdict
	rule, reason string
	observed     bool
}

// weight orders findings as the documentation does: the most restrictive first,
// then what observes, then what explains most, then by name.
func (f finding) weight() string {
	order := []string{ReasonRule, ReasonError, ReasonUnknownResource, ReasonUnknownOperation, ReasonUnmatched}
	why := slices.Index(order, f.reason)
	if f.verdict != Deny {
		why = len(order) - why
	}
	observed := 1
	if f.observed {
		observed = 0
	}
	return fmt.Sprintf("%d %d %d %s", f.verdict, observed, why, f.rule)
}

func worst(list []finding) finding {
	return slices.MinFunc(list, func(a, b finding) int { return strings.Compare(a.weight(), b.weight()) })
}

// model answers requests from the files as they are written, by going through
// every rule for every effect.
type model struct {
	files    []*File
	defaults defaultsSyntax
}

func (m *model) mode(f *File, r ruleSyntax) string {
	for _, s := range []string{r.Mode, f.syntax.Mode, m.defaults.Mode} {
		if s != "" {
			return s
		}
	}
	return "enforce"
}

// at lists the names of the resources that a target belongs to.
func (m *model) at(target netip.AddrPort) []string {
	var list []string
	for _, f := range m.files {
		for _, r := range f.syntax.Resources {
			for _, h := range r.Hosts {
				host, err := ParseHost(h)
				if err == nil && host.Port == target.Port() && host.Prefix.Contains(target.Addr()) {
					list = append(list, r.Name)
				}
			}
		}
	}
	return list
}

// byDefault is what a default says; acting only.
func (m *model) byDefault(said, reason string, acting bool) finding {
	if acting && m.defaults.Mode == "observe" {
		return finding{Allow, DefaultRule, reason, true}
	}
	return finding{parseVerdict(said), DefaultRule, reason, false}
}

func concerns(r ruleSyntax, resource string, req *Request) bool {
	if !slices.ContainsFunc(r.Resources, func(p string) bool { return p == "*" || p == resource }) {
		return false
	}
	if len(r.Agents) > 0 && !slices.Contains(r.Agents, req.Agent) {
		return false
	}
	return len(r.Principals) == 0 || slices.ContainsFunc(r.Principals, func(p string) bool {
		return p == "*" || p == "anonymous" && req.Principal.IsAnonymous() || p == req.Principal.String() ||
			!req.Principal.IsAnonymous() && slices.ContainsFunc(req.Principal.Groups, func(g string) bool { return p == "group:"+g })
	})
}

// says is what one rule says about one effect.
func says(r ruleSyntax, effect string) (finding, bool) {
	all := len(r.Operations) == 0 || slices.Contains(r.Operations, "*")
	if !(all && effect != Unknown) && !slices.Contains(r.Operations, effect) {
		return finding{Allow, r.Name, ReasonRule, false}, effect == Connect && r.Effect != "deny"
	}
	switch r.When {
	case "broken":
		return finding{Deny, r.Name, ReasonError, false}, true
	case "false":
		return finding{}, false
	}
	return finding{parseVerdict(r.Effect), r.Name, ReasonRule, false}, true
}

func (m *model) effect(resource, effect string, req *Request, acting bool) finding {
	var list []finding
	for _, f := range m.files {
		for _, r := range f.syntax.Rules {
			if !concerns(r, resource, req) || acting && m.mode(f, r) != "enforce" {
				continue
			}
			if one, ok := says(r, effect); ok {
				list = append(list, one)
			}
		}
	}
	if len(list) > 0 {
		return worst(list)
	}
	if effect == Unknown {
		return m.byDefault(m.defaults.UnknownOperation, ReasonUnknownOperation, acting)
	}
	return m.byDefault(m.defaults.Unmatched, ReasonUnmatched, acting)
}

func (m *model) decide(req *Request, acting bool) finding {
	effects := req.Operation.Effects
	if len(effects) == 0 {
		effects = []string{Unknown}
	}
	unknown := slices.Contains(effects, Unknown)
	var list []finding
	resources := m.at(req.Target)
	for _, resource := range resources {
		for _, effect := range effects {
			list = append(list, m.effect(resource, effect, req, acting))
		}
		if connect := m.effect(resource, Connect, req, acting); unknown && connect.verdict == Deny {
			list = append(list, connect)
		}
	}
	if len(resources) == 0 {
		list = append(list, m.byDefault(m.defaults.Unmatched, ReasonUnknownResource, acting))
		if unknown {
			list = append(list, m.byDefault(m.defaults.UnknownOperation, ReasonUnknownOperation, acting))
		}
	}
	return worst(list)
}

// enforces reports whether anything for a principal at a target acts.
func (m *model) enforces(req *Request) bool {
	for _, resource := range m.at(req.Target) {
		for _, f := range m.files {
			for _, r := range f.syntax.Rules {
				if concerns(r, resource, req) && m.mode(f, r) == "enforce" {
					return true
				}
			}
		}
	}
	return m.defaults.Mode != "observe"
}

// limits are those of every rule that acts and allows anything of the operation.
func (m *model) limits(req *Request) []Limit {
	effects := slices.DeleteFunc(slices.Clone(req.Operation.Effects), func(e string) bool { return e == Connect || e == Unknown })
	unknown := len(req.Operation.Effects) == 0 || slices.Contains(req.Operation.Effects, Unknown)
	found := map[string]Limit{}
	for _, resource := range m.at(req.Target) {
		for _, f := range m.files {
			for _, r := range f.syntax.Rules {
				limit := r.Limits.limit(r.Name)
				if limit.Empty() || !concerns(r, resource, req) || m.mode(f, r) != "enforce" {
					continue
				}
				if unknown || slices.ContainsFunc(effects, func(e string) bool { _, ok := says(r, e); return ok }) {
					found[r.Name] = limit
				}
			}
		}
	}
	var list []Limit
	for _, name := range slices.Sorted(maps.Keys(found)) {
		list = append(list, found[name])
	}
	return list
}

// answer is what the model expects of a decision; the resource's name and the
// message are left to other tests.
func (m *model) answer(req *Request) Decision {
	acting, full := m.decide(req, true), m.decide(req, false)
	d := Decision{Verdict: acting.verdict, Rule: acting.rule, Reason: acting.reason, WouldHave: full.verdict, WouldHaveRule: full.rule}
	if d.Verdict != Deny {
		d.Limits = m.limits(req)
	}
	if !acting.observed {
		return d
	}
	if slices.Contains(req.Operation.Effects, Connect) && m.enforces(req) {
		d.Rule, d.Reason = DefaultRule, ReasonUnmatched
		return d
	}
	d.Mode, d.Rule, d.Reason = Observe, full.rule, full.reason
	return d
}

// dice makes random policies and requests of few words, so that they meet.
type dice struct{ *rand.Rand }

func (d dice) one(words ...string) string { return words[d.IntN(len(words))] }

// some is a list of words in YAML, or nothing for leaving the key out.
func (d dice) some(key string, words ...string) string {
	var list []string
	for range d.IntN(3) {
		list = append(list, `"`+d.one(words...)+`"`)
	}
	if len(list) == 0 {
		return ""
	}
	return ", " + key + ": [" + strings.Join(list, ", ") + "]"
}

func (d dice) rule(name string) string {
	effect := d.one("allow", "allow", "deny", "approve")
	words := []string{"select", "insert", "drop", "connect", "*"}
	if effect == "deny" {
		words = append(words, Unknown)
	}
	text := "  - {name: " + name + ", effect: " + effect + `, resources: ["` + d.one("a", "b", "c", "*") + `"]` +
		d.some("operations", words...) +
		d.some("principals", "*", "anonymous", "group:ci", "group:dba", "repo:web") +
		d.some("agents", "runner", "backup")
	if d.IntN(4) == 0 {
		text += `, mode: ` + d.one("observe", "enforce")
	}
	if d.IntN(4) == 0 {
		text += `, when: "` + d.one("true", "false", "broken") + `"`
	}
	if effect != "deny" && d.IntN(3) == 0 {
		text += `, limits: {rows: ` + d.one("1", "20") + `, per_minute: {bytes: ` + d.one("3kB", "1GiB") + `}}`
	}
	return text + "}\n"
}

// policy returns the texts of two files and the rules that are in them.
func (d dice) policy() []string {
	const head = "version: 1\n"
	texts := []string{head + "agents: [{name: runner, users: [a]}, {name: backup, users: [b]}]\n" +
		"resources: [{name: a, protocol: p, hosts: ['10.0.0.1:1', '10.0.1.0/24:1']}, {name: b, protocol: p, hosts: ['10.0.0.0/16:1']}, {name: c, protocol: p, hosts: ['10.0.0.0/8:1', '10.0.0.1:1']}]\n" +
		"defaults: {mode: " + d.one("observe", "enforce") + ", unmatched: " + d.one("allow", "deny") + ", unknown_operation: " + d.one("allow", "deny") + "}\n", head}
	for i := range texts {
		if d.IntN(3) == 0 {
			texts[i] += "mode: " + d.one("observe", "enforce") + "\n"
		}
		var rules []string
		for range d.IntN(6) {
			rules = append(rules, d.rule(fmt.Sprintf("r%d-%d-%d", d.IntN(90), i, len(rules))))
		}
		if len(rules) > 0 {
			texts[i] += "rules:\n" + strings.Join(rules, "")
		}
	}
	return texts
}

func (d dice) request() *Request {
	req := &Request{Agent: d.one("runner", "backup", "")}
	req.Target = netip.MustParseAddrPort(d.one("10.0.0.1:1", "10.0.1.9:1", "10.0.9.9:1", "10.9.9.9:1", "11.0.0.1:1"))
	if d.IntN(3) > 0 {
		req.Principal = identityOf("repo", d.one("web", "api"), d.one("ci", "dba", "none"))
	}
	for range d.IntN(4) {
		req.Operation.Effects = append(req.Operation.Effects, d.one("select", "insert", "drop", "truncate", Connect, Unknown))
	}
	return req
}

// compileShuffled compiles the texts with all rules and files in another order.
func (d dice) compileShuffled(t *testing.T, texts []string) (*Engine, *model) {
	t.Helper()
	m := &model{}
	for _, text := range texts {
		f := mustParse(t, text)
		if f.syntax.Defaults.Mode != "" {
			m.defaults = f.syntax.Defaults
		}
		m.files = append(m.files, f)
	}
	d.Shuffle(len(m.files), func(i, j int) { m.files[i], m.files[j] = m.files[j], m.files[i] })
	for _, f := range m.files {
		rules := f.syntax.Rules
		d.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
		res := f.syntax.Resources
		d.Shuffle(len(res), func(i, j int) { res[i], res[j] = res[j], res[i] })
	}
	e, err := Options{conditions: fakes}.Compile(m.files...)
	if err != nil {
		t.Fatalf("compile:\n%v", err)
	}
	return e, m
}

func TestTheEngineAnswersLikeTheModelInAnyOrder(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(1, 2))}
	seen := map[string]int{}
	for range 600 {
		texts := d.policy()
		one, m := d.compileShuffled(t, texts)
		other, _ := d.compileShuffled(t, texts)
		for range 60 {
			req := d.request()
			got, want := one.Decide(req), m.answer(req)
			if diff := cmp.Diff(got, other.Decide(req)); diff != "" {
				t.Fatalf("another order, another answer (-one +other):\n%s\n%s\n%+v", diff, strings.Join(texts, "---\n"), req)
			}
			if names := approvalRules(got.Approvals); (got.Verdict == Approve) != slices.Contains(names, got.Rule) {
				t.Fatalf("%s by %s, to be approved by %q\n%s\n%+v", got.Verdict, got.Rule, names, strings.Join(texts, "---\n"), req)
			}
			got.Resource, got.Approvals = "", nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("the engine differs (-model +engine):\n%s\n%s\n%+v", diff, strings.Join(texts, "---\n"), req)
			}
			if len(got.Limits) > 1 {
				seen["several limits"]++
			}
			seen[got.Verdict.String()+" "+got.Reason+" "+got.Mode.String()]++
		}
	}
	// The model must have met everything that can be said.
	for _, answer := range []string{
		"several limits",
		"deny rule enforce", "deny error enforce", "deny unmatched enforce", "deny unknown_operation enforce", "deny unknown_resource enforce",
		"approve rule enforce", "allow rule enforce", "allow unmatched enforce", "allow unknown_operation enforce",
		"allow rule observe", "allow error observe", "allow unmatched observe", "allow unknown_operation observe", "allow unknown_resource observe",
	} {
		if seen[answer] < 10 {
			t.Errorf("%q was met %d times", answer, seen[answer])
		}
	}
}

func approvalRules(list []Approval) []string {
	var names []string
	for _, a := range list {
		names = append(names, a.Rule)
	}
	return names
}
