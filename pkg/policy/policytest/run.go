package policytest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/transparent"
)

// none is the decision about a socket that no resource names.
const none = "none"

// answer is what the policy says about all that a test asks for.
type answer struct {
	policy.Decision
	// verdict and wouldHave are words, because there may be none.
	verdict, wouldHave string
	kernel             string
	// about is the operation that decided, for people, and why tells of every rule
	// what became of it there.
	about string
	why   map[string]string
}

// run runs one test.
func (s *suite) run(c *testCase, report *Report) Result {
	result := Result{File: s.Tests.name, Name: c.Name, At: s.Tests.at.At(c.at)}
	if c.Socket != "" || len(c.operations) > 0 {
		a, rules := s.answer(c)
		report.covered(s.Policies, policy.PartRule, rules)
		result.Decision, result.Rule, result.Failures = a.verdict, a.Rule, s.compare(c, &a)
	} else if c.Expect.Kernel != "" {
		result.Failures = s.compare(c, &answer{kernel: s.kernel(&c.req)})
	}
	failures, masks := s.masks(c)
	result.Failures = append(result.Failures, failures...)
	report.covered(s.Policies, policy.PartMask, masks)
	return result
}

// answer decides everything that a test asks for, the connection first. The rules
// are those that say something about it.
func (s *suite) answer(c *testCase) (a answer, rules []string) {
	if c.Socket != "" {
		a = s.socket(c.Socket)
		return a, []string{a.Rule}
	}
	a.kernel = s.kernel(&c.req)
	for i := range c.operations {
		req := c.req
		req.Operation = c.operations[i]
		x := s.engine.Explain(&req)
		rules = append(rules, speaking(&x)...)
		limits := append(a.Limits, x.Decision.Limits...)
		if i == 0 || stricter(&x.Decision, &a.Decision) {
			a.decide(&x, describe(c.operations, i))
		}
		a.Limits = limits
	}
	connect := c.req
	connect.Operation = operation(c.operations[0].Protocol, []string{policy.Connect})
	if x := s.engine.Explain(&connect); x.Decision.Verdict < a.Verdict {
		a.decide(&x, "the connection")
		rules = append(rules, x.Decision.Rule)
	}
	a.verdict, a.wouldHave = a.Verdict.String(), a.WouldHave.String()
	return a, rules
}

// decide takes a decision for the answer.
func (a *answer) decide(x *policy.Explanation, about string) {
	a.Decision, a.about, a.why = x.Decision, about, map[string]string{}
	for i := range x.Rules {
		a.why[x.Rules[i].Rule] = x.Rules[i].Why
	}
}

// speaking returns the rules that say something about a request, whether they decide
// it or a stronger one does.
func speaking(x *policy.Explanation) []string {
	names := []string{x.Decision.Rule, x.Decision.WouldHaveRule}
	for i := range x.Rules {
		if x.Rules[i].Matched {
			names = append(names, x.Rules[i].Rule)
		}
	}
	return names
}

// stricter reports whether a decision is more restrictive than another one, or would
// have been.
func stricter(d, than *policy.Decision) bool {
	if d.Verdict != than.Verdict {
		return d.Verdict < than.Verdict
	}
	return d.WouldHave < than.WouldHave
}

func describe(operations []policy.Operation, i int) string {
	op := &operations[i]
	about := "effects " + strings.Join(op.Effects, ", ")
	if len(op.Effects) == 1 && op.Effects[0] == policy.Connect {
		return "connecting"
	}
	if op.Text != "" {
		about = fmt.Sprintf("%q has %s", shortened(op.Text), about)
	}
	if op.Reason != "" {
		about += ": " + op.Reason
	}
	if len(operations) > 1 {
		about = fmt.Sprintf("statement %d of %d, %s", i+1, len(operations), about)
	}
	return about
}

// shortened cuts a text for a message.
func shortened(s string) string {
	const enough = 80
	runes := []rune(s)
	if len(runes) > enough {
		return string(runes[:enough]) + "…"
	}
	return s
}

// socket is what the kernel says about a unix socket. Of several resources that name
// it the most restrictive holds.
func (s *suite) socket(path string) answer {
	a := answer{verdict: none, wouldHave: none, kernel: none, about: "socket " + path}
	strictest := policy.Direct + 1
	for _, u := range s.engine.UnixSockets() {
		if !u.Match(path) || u.Verdict >= strictest {
			continue
		}
		strictest = u.Verdict
		a.Rule, a.Reason, a.kernel, a.Mode = u.Rule, policy.ReasonRule, u.Verdict.String(), policy.Enforce
		if u.Rule == policy.DefaultRule {
			a.Reason = policy.ReasonUnmatched
		}
		a.verdict, a.wouldHave = policy.Allow.String(), policy.Allow.String()
		if u.Verdict == policy.Denied {
			a.verdict = policy.Deny.String()
		}
		if u.Verdict != policy.Direct {
			a.wouldHave = policy.Deny.String()
		}
		if u.Verdict == policy.Observed {
			a.Mode = policy.Observe
		}
	}
	return a
}

// kernel is what the kernel does with a flow. TCP that no resource names goes to the
// proxy; UDP is refused, but for what goes to name servers, which the proxy answers
// (RFC 1035, section 4.2, has their port).
func (s *suite) kernel(req *policy.Request) string {
	if d, ok := s.engine.KernelVerdict(req); ok {
		return d.Verdict.String()
	}
	const nameServers = 53
	if req.Transport == transparent.UDP && req.Target.Port() != nameServers {
		return policy.Denied.String()
	}
	return policy.Proxied.String()
}

// compare returns how an answer differs from what a test expects.
func (s *suite) compare(c *testCase, a *answer) []string {
	var failures []string
	e := &c.Expect
	decided := func() string {
		return fmt.Sprintf("%s by rule %s, reason %s (%s)", a.verdict, a.Rule, a.Reason, a.about)
	}
	if a.verdict == none {
		decided = func() string { return "none: no resource names " + a.about }
	}
	same := true
	for _, one := range []struct{ want, got string }{{e.Decision, a.verdict}, {e.Rule, a.Rule}, {e.Reason, a.Reason}} {
		same = same && (one.want == "" || one.want == one.got)
	}
	if !same {
		failure := "want " + s.wanted(e) + ", got " + decided()
		if why := a.why[e.Rule]; why != "" && e.Rule != a.Rule {
			failure += "; rule " + e.Rule + ": " + why
		}
		failures = append(failures, failure)
	}
	if e.WouldHave != "" && e.WouldHave != a.wouldHave {
		failures = append(failures, fmt.Sprintf("would_have: want %s, got %s by rule %s (%s)", e.WouldHave, a.wouldHave, a.WouldHaveRule, a.about))
	}
	if e.Mode != "" && e.Mode != a.Mode.String() {
		failures = append(failures, fmt.Sprintf("mode: want %s, got %s (%s)", e.Mode, a.Mode, a.about))
	}
	if e.Kernel != "" && e.Kernel != a.kernel {
		failures = append(failures, fmt.Sprintf("kernel: want %s, got %s", e.Kernel, a.kernel))
	}
	return append(failures, s.limits(c, a.Limits)...)
}

// wanted says which decision a test expects.
func (s *suite) wanted(e *expectSyntax) string {
	var words []string
	if e.Decision != "" {
		words = append(words, e.Decision)
	}
	if e.Rule != "" {
		rule := "by rule " + e.Rule
		if !s.hasRule(e.Rule) {
			rule += ", which the policy does not have"
		}
		words = append(words, rule)
	}
	if e.Reason != "" {
		words = append(words, "for reason "+e.Reason)
	}
	return strings.Join(words, " ")
}

func (s *suite) hasRule(name string) bool {
	return name == policy.DefaultRule || slices.ContainsFunc(s.Policies, func(f *policy.File) bool {
		return slices.ContainsFunc(f.Parts(), func(p policy.Part) bool { return p.Kind == policy.PartRule && p.Name == name })
	})
}

// limits compares the tightest of the limits that hold.
func (s *suite) limits(c *testCase, list []policy.Limit) []string {
	e, at := &c.Expect.Limits, c.at+".expect.limits."
	var failures []string
	for _, one := range []struct {
		key  string
		want amount
		of   func(*policy.Limit) uint64
	}{
		{"rows", e.Rows, func(l *policy.Limit) uint64 { return l.Rows }},
		{"bytes", e.Bytes, func(l *policy.Limit) uint64 { return l.Bytes }},
		{"operations_per_minute", e.Operations, func(l *policy.Limit) uint64 { return l.PerMinute.Operations }},
		{"rows_per_minute", e.RowsRate, func(l *policy.Limit) uint64 { return l.PerMinute.Rows }},
		{"bytes_per_minute", e.BytesRate, func(l *policy.Limit) uint64 { return l.PerMinute.Bytes }},
	} {
		got, rule := uint64(0), ""
		for i := range list {
			if v := one.of(&list[i]); v > 0 && (got == 0 || v < got) {
				got, rule = v, list[i].Rule
			}
		}
		expected := s.Tests.given(at+one.key) || e.None == noLimit
		if expected && got != uint64(one.want) {
			failures = append(failures, fmt.Sprintf("limit %s: want %s, got %s", one.key, bound(uint64(one.want), ""), bound(got, rule)))
		}
	}
	return failures
}

func bound(n uint64, rule string) string {
	switch {
	case n == 0:
		return noLimit
	case rule != "":
		return fmt.Sprintf("%d by rule %s", n, rule)
	}
	return fmt.Sprint(n)
}
