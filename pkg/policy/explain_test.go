package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told renders an explanation, a line for each rule.
func told(x Explanation) string {
	var b strings.Builder
	for _, r := range x.Rules {
		mark := " "
		if r.Decided {
			mark = "*"
		}
		fmt.Fprintf(&b, "%s%s: %s", mark, r.Rule, r.Why)
		if c := r.Condition; c != nil {
			fmt.Fprintf(&b, " (%s: %s; %s)", c.Result, c.Part, strings.Join(c.Values, "; "))
		}
		b.WriteString("\n")
	}
	return b.String() + x.Default
}

func TestAnExplanationNamesTheFirstThingThatDidNotMatch(t *testing.T) {
	e := compileWith(t, conditionOptions, `agents: [{name: runner, users: [ci]}, {name: build, users: [build]}]
rules:
  - {name: a-other, effect: deny, resources: [other]}
  - {name: b-agent, effect: deny, resources: [app-db], agents: [build]}
  - {name: c-group, effect: deny, resources: [app-db], principals: ["group:dba"]}
  - {name: d-drop, effect: deny, resources: [app-db], operations: [drop]}
  - {name: e-exe, effect: deny, resources: [app-db], operations: [delete], when: "process.uid == 1002 && process.exe == '/bin/sh'"}
  - {name: f-wide, effect: deny, resources: [app-db], operations: [delete], when: "sql.has_where || sql.tables.exists(t, t == 'public.invoices')"}
  - {name: g-broken, effect: allow, mode: observe, resources: [app-db], when: "sql.text == ''"}
  - {name: h-work, effect: allow, resources: [app-db]}
  - {name: i-not, effect: allow, resources: [app-db], when: "!(agent == 'runner')"}
`)
	want := ` a-other: it is for resources [other]; this concerns [app-db]
 b-agent: it is for agents [build]; this one is "runner"
 c-group: it is for principals [group:dba]; this one is github:repo:acme/web of [ci]
 d-drop: it is about operations [drop]; this is [delete, select]
 e-exe: it is about [delete], but its condition does not hold (false: process.exe == "/bin/sh"; process.exe = "/usr/bin/claude")
*f-wide: it is about [delete], and its condition holds (true: sql.tables.exists(t, t == "public.invoices"); sql.tables = ["public.invoices"])
 g-broken: it is about [delete, select], and its condition could not be evaluated, which denies (error: sql.text == ""; sql.text = sql.text: not known: the schema is not known)
 h-work: it is about [delete, select]
 i-not: it is about [delete, select], but its condition does not hold (false: agent == "runner"; agent = "runner")
`
	if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(told(e.Explain(full())), "\n")); d != "" {
		t.Errorf("explanation (-want +got):\n%s", d)
	}
}

func TestAnExplanationTellsWhatTheDefaultsSaid(t *testing.T) {
	for body, want := range map[string]string{
		"rules: [{name: r, effect: allow, resources: [other]}]":                                "no rule matched; defaults.unmatched is deny",
		"defaults: {mode: observe}":                                                            "no rule matched; defaults.unmatched is deny; defaults.mode is observe, so it passes",
		"rules: [{name: r, effect: deny, resources: [app-db], operations: [delete]}]":          "",
		"rules: [{name: r, effect: allow, resources: [app-db]}]\ndefaults: {unmatched: allow}": "",
	} {
		if got := compileWith(t, conditionOptions, body).Explain(full()).Default; got != want {
			t.Errorf("%s\n got %q\nwant %q", body, got, want)
		}
	}
	req := full()
	req.Target = nowhere
	x := compileWith(t, conditionOptions, "rules: [{name: r, effect: allow, resources: ['*']}]").Explain(req)
	if x.Default != "the target belongs to no resource; defaults.unmatched is deny" || x.Rules[0].Why != "no resource of the policy has this target, and rules are about resources" {
		t.Errorf("got %q and %q", x.Default, x.Rules[0].Why)
	}
	if x := (*Engine)(nil).Explain(req); x.Decision.Reason != ReasonNoPolicy {
		t.Errorf("without an engine: %+v", x)
	}
}

func TestAnExplanationAgreesWithTheDecision(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(3, 4))}
	for range 100 {
		e, _ := d.compileShuffled(t, d.policy())
		for range 30 {
			req := d.request()
			x := e.Explain(req)
			if diff := cmp.Diff(e.Decide(req), x.Decision); diff != "" {
				t.Fatalf("another decision:\n%s", diff)
			}
			for _, r := range x.Rules {
				if r.Decided && !r.Matched {
					t.Fatalf("rule %s decided %+v, and did not match: %s\n%+v", r.Rule, x.Decision, r.Why, req)
				}
				if r.Matched && r.Mode == Enforce && r.Effect == Deny && x.Decision.Verdict != Deny && !slices.Contains(req.Operation.Effects, Connect) {
					t.Fatalf("rule %s denies and matched (%s), and the decision is %+v", r.Rule, r.Why, x.Decision)
				}
			}
		}
	}
}
