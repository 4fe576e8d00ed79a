package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/identity"
)

var (
	appDB   = netip.MustParseAddrPort("10.0.3.7:5432")
	otherDB = netip.MustParseAddrPort("10.0.4.7:5432")
	nowhere = netip.MustParseAddrPort("192.0.2.1:5432")
	ciJob   = identity.Principal{Issuer: "repo", Subject: "acme/web", Groups: []string{"ci"}}
)

const resources = `
resources:
  - {name: app-db, protocol: sqlish, hosts: ["10.0.3.7:5432"]}
  - {name: other, protocol: sqlish, hosts: ["10.0.4.7:5432"]}
`

// mustCompile compiles one file that holds the test resources and a body.
func mustCompile(tb testing.TB, body string) *Engine {
	tb.Helper()
	return compileWith(tb, Options{Generation: 7}, body)
}

func compileWith(tb testing.TB, o Options, body string) *Engine {
	tb.Helper()
	e, err := o.Compile(mustParse(tb, "version: 1\n"+resources+body))
	if err != nil {
		tb.Fatalf("compile:\n%v", err)
	}
	return e
}

// ask is a request by the CI job at the application's database.
func ask(effects ...string) *Request {
	r := &Request{Principal: ciJob, Agent: "runner", Target: appDB}
	if len(effects) > 0 {
		r.Operation = Operation{Protocol: "sqlish", Verb: effects[0], Effects: effects}
	}
	return r
}

// answer is the part of a decision that most tests look at.
func answer(d Decision) string {
	return d.Verdict.String() + " " + d.Rule + " " + d.Reason
}

func TestZeroValueDenies(t *testing.T) {
	if d := (Decision{}); d.Verdict != Deny || d.WouldHave != Deny || d.Mode != Enforce {
		t.Errorf("the zero Decision does not deny: %+v", d)
	}
	empty, err := Compile(1)
	if err != nil {
		t.Fatal(err)
	}
	bare := mustCompile(t, "")
	tests := []struct {
		name   string
		engine *Engine
		req    *Request
		want   string
	}{
		{"nil engine", nil, ask("select"), "deny  no_policy"},
		{"zero engine", &Engine{}, ask("select"), "deny  no_policy"},
		{"nil request", bare, nil, "deny  error"},
		{"no files", empty, ask("select"), "deny default unknown_resource"},
		{"zero request", bare, &Request{}, "deny default unknown_resource"},
		{"no rules", bare, ask("select"), "deny default unmatched"},
		{"no rules, connecting", bare, ask(Connect), "deny default unmatched"},
		{"no effects", bare, ask(), "deny default unknown_operation"},
		{"target without a resource", bare, &Request{Target: nowhere}, "deny default unknown_resource"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := test.engine.Decide(test.req)
			if got := answer(d); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if d.Mode != Enforce || d.WouldHave != Deny {
				t.Errorf("mode %v, would have %v", d.Mode, d.WouldHave)
			}
		})
	}
	if e := (*Engine)(nil); e.OnFailure() != Closed || e.Mode() != Enforce || e.Masks(ask("select")) != nil || e.Agents() != nil {
		t.Error("a nil engine says something")
	}
	var nobody pattern
	if nobody.match(&ciJob, "runner") {
		t.Error("the zero pattern matches somebody")
	}
}

func TestADecisionCarriesWhatIsNeededToExplainIt(t *testing.T) {
	e := mustCompile(t, `
rules:
  - {name: no-schema-changes, effect: deny, resources: [app-db], operations: [ddl], message: "Use migrations.\n"}
`)
	want := Decision{
		Verdict: Deny, Rule: "no-schema-changes", Reason: ReasonRule, Message: "Use migrations.",
		Resource: "app-db", WouldHave: Deny, WouldHaveRule: "no-schema-changes", Mode: Enforce, Generation: 7,
	}
	if diff := cmp.Diff(want, e.Decide(ask("drop", "ddl"))); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}

// Each row is a sentence of the package documentation.
func TestSemantics(t *testing.T) {
	const rules = `
rules:
  - {name: a-read, effect: allow, resources: [app-db], operations: [select, insert, update]}
  - {name: b-hold, effect: approve, resources: [app-db], operations: [update, delete]}
  - {name: c-no-drop, effect: deny, resources: [app-db], operations: [drop, insert]}
`
	tests := []struct {
		name, body string
		req        *Request
		want       string
	}{
		{"allow where every effect is allowed", rules, ask("select"), "allow a-read rule"},
		{"deny where one effect is denied", rules, ask("select", "drop"), "deny c-no-drop rule"},
		{"deny beats allow on the same effect", rules, ask("insert"), "deny c-no-drop rule"},
		{"approve beats allow on the same effect", rules, ask("update"), "approve b-hold rule"},
		{"deny beats approve", rules, ask("update", "drop"), "deny c-no-drop rule"},
		{"the verdict is the most restrictive of all effects", rules, ask("select", "delete"), "approve b-hold rule"},
		{"an effect without a rule falls to the default", rules, ask("select", "truncate"), "deny default unmatched"},
		{"a permission by default is said to be one", rules + "defaults: {unmatched: allow}", ask("select", "truncate"), "allow default unmatched"},
		{"a default does not soften a rule", rules + "defaults: {unmatched: allow}", ask("truncate", "delete"), "approve b-hold rule"},
		{"another resource's rules do not apply", rules, &Request{Principal: ciJob, Target: netip.MustParseAddrPort("10.0.4.7:5432"), Operation: Operation{Effects: []string{"select"}}}, "deny default unmatched"},

		{"operations left out are all", "rules: [{name: r, effect: allow, resources: [app-db]}]", ask("anything", "at-all"), "allow r rule"},
		{"a star is all", `rules: [{name: r, effect: deny, resources: [app-db], operations: ["*"]}]` + "\ndefaults: {unmatched: allow}", ask("anything"), "deny r rule"},
		{"a star is not unknown", `rules: [{name: r, effect: allow, resources: [app-db], operations: ["*"]}]`, ask(Unknown), "deny default unknown_operation"},
		{"a denying star is not unknown", `rules: [{name: r, effect: deny, resources: [app-db], operations: ["*"]}]`, ask("select", Unknown), "deny r rule"},
		{"unknown falls to its default", "rules: [{name: r, effect: allow, resources: [app-db]}]", ask("select", Unknown), "deny default unknown_operation"},
		{"no effects are unknown", "rules: [{name: r, effect: allow, resources: [app-db]}]", ask(), "deny default unknown_operation"},
		{"unknown may be let pass", "rules: [{name: r, effect: allow, resources: [app-db]}]\ndefaults: {unknown_operation: allow}", ask("select", Unknown), "allow default unknown_operation"},
		{"unknown passes with its other effects only", rules + "defaults: {unknown_operation: allow}", ask("truncate", Unknown), "deny default unmatched"},
		{"unknown passes only for those who may connect", "defaults: {unknown_operation: allow}", ask(Unknown), "deny default unmatched"},
		{"unknown does not pass a rule against connecting", "rules: [{name: r, effect: deny, resources: [app-db]}]\ndefaults: {unknown_operation: allow, unmatched: allow}", ask(), "deny r rule"},
		{"unknown may be denied by a rule", "rules: [{name: a, effect: allow, resources: [app-db]}, {name: r, effect: deny, resources: [app-db], operations: [unknown]}]\ndefaults: {unknown_operation: allow}", ask(), "deny r rule"},
		{"a rule's denial is named before an unknown operation's", rules, ask("drop", Unknown), "deny c-no-drop rule"},

		{"who may do anything may connect", rules, ask(Connect), "allow a-read rule"},
		{"who may do something after approval may connect", "rules: [{name: r, effect: approve, resources: [app-db], operations: [delete]}]", ask(Connect), "allow r rule"},
		{"an approval for everything holds the connection", "rules: [{name: r, effect: approve, resources: [app-db]}]", ask(Connect), "approve r rule"},
		{"an approval for connecting holds the connection", rules + "  - {name: r, effect: approve, resources: [app-db], operations: [connect]}", ask(Connect), "approve r rule"},
		{"a denial of something does not deny connecting", rules, ask(Connect), "allow a-read rule"},
		{"a denial of everything denies connecting", rules + "  - {name: r, effect: deny, resources: [app-db]}", ask(Connect), "deny r rule"},
		{"a denial of star denies connecting", rules + "  - {name: r, effect: deny, resources: [app-db], operations: [\"*\"]}", ask(Connect), "deny r rule"},
		{"a denial of connecting denies it", rules + "  - {name: r, effect: deny, resources: [app-db], operations: [connect]}", ask(Connect), "deny r rule"},
		{"only denials open nothing", "rules: [{name: r, effect: deny, resources: [app-db], operations: [drop]}]", ask(Connect), "deny default unmatched"},

		{"a target without a resource falls to the default", rules + "defaults: {unmatched: allow}", &Request{Target: nowhere, Operation: Operation{Effects: []string{"drop"}}}, "allow default unknown_resource"},
		{"an unknown operation there needs both defaults", "defaults: {unmatched: allow}", &Request{Target: nowhere}, "deny default unknown_operation"},
		{"no rule applies there", "rules: [{name: r, effect: allow, resources: [\"*\"]}]", &Request{Target: nowhere, Operation: Operation{Effects: []string{"select"}}}, "deny default unknown_resource"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := answer(mustCompile(t, test.body).Decide(test.req)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPrincipalsAndAgentsSelectRules(t *testing.T) {
	anonymous := identity.Principal{Subject: "acme/web", Groups: []string{"ci"}}
	tests := []struct {
		keys  string
		who   identity.Principal
		agent string
		want  bool
	}{
		{``, anonymous, "", true},
		{`principals: ["*"]`, anonymous, "", true},
		{`principals: [anonymous]`, anonymous, "", true},
		{`principals: [anonymous]`, ciJob, "", false},
		{`principals: ["*:*"]`, anonymous, "", false},
		{`principals: ["repo:acme/*"]`, ciJob, "", true},
		{`principals: ["repo:acme/*"]`, identity.Principal{Issuer: "people", Subject: "repo:acme/web"}, "", false},
		{`principals: ["repo:acme/*"]`, identity.Principal{Issuer: "repo", Subject: "acmeinc/web"}, "", false},
		{`principals: ["repo:*/web"]`, ciJob, "", true},
		{`principals: ["r*:acme/web"]`, ciJob, "", true},
		{`principals: ["repo:acme/we"]`, ciJob, "", false},
		{`principals: ["repo:Acme/web"]`, ciJob, "", false},
		{`principals: ["group:ci"]`, ciJob, "", true},
		{`principals: ["group:c*"]`, ciJob, "", true},
		{`principals: ["group:dba"]`, ciJob, "", false},
		{`principals: ["group:ci"]`, anonymous, "", false},
		{`principals: ["group:dba", "group:ci"]`, ciJob, "", true},
		{`principals: ["agent:runner"]`, anonymous, "runner", true},
		{`principals: ["agent:runner"]`, anonymous, "backup", false},
		{`principals: ["agent:default"], agents: [default]`, anonymous, "default", true},
		{`agents: [runner]`, ciJob, "runner", true},
		{`agents: [runner]`, ciJob, "", false},
		{`agents: [runner], principals: ["group:dba"]`, ciJob, "runner", false},
	}
	for _, test := range tests {
		t.Run(test.keys+" "+test.who.String()+" "+test.agent, func(t *testing.T) {
			e := mustCompile(t, "agents: [{name: runner, users: [ci]}]\n"+
				"rules: [{name: r, effect: allow, resources: [app-db], "+test.keys+"}]\n")
			req := ask("select")
			req.Principal, req.Agent = test.who, test.agent
			if got := e.Decide(req).Verdict == Allow; got != test.want {
				t.Errorf("matched %v, want %v", got, test.want)
			}
		})
	}
}

func TestAGlobStarMatchesAnyRun(t *testing.T) {
	tests := []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"*", "", true}, {"*", "a/b:c", true}, {"a*", "a", true},
		{"a*c", "abcbc", true}, {"a*c", "abcb", false}, {"*a*b*", "xaxbx", true}, {"*a*b", "ba", false}, {"**", "x", true},
		{strings.Repeat("a*", 20) + "b", strings.Repeat("a", 2000), false},
	}
	for _, test := range tests {
		if got := glob(test.pattern, test.text); got != test.want {
			t.Errorf("glob(%.20q, %.20q) = %v, want %v", test.pattern, test.text, got, test.want)
		}
	}
}

// fake is a condition with a fixed answer.
type fake struct {
	holds bool
	err   error
}

func (f fake) Eval(*Request, *Resource) (bool, error) { return f.holds, f.err }

func fakes(expression string) (Condition, error) {
	switch expression {
	case "true", "false":
		return fake{holds: expression == "true"}, nil
	case "broken":
		return fake{holds: true, err: errors.New("no such fact")}, nil
	}
	return nil, errors.New("no such condition")
}

func TestAConditionDecidesWhetherARuleMatches(t *testing.T) {
	tests := []struct {
		name, body string
		effect     string
		want       string
	}{
		{"holds", "rules: [{name: r, effect: allow, resources: [app-db], operations: [select], when: 'true'}]", "select", "allow r rule"},
		{"does not hold", "rules: [{name: r, effect: allow, resources: [app-db], operations: [select], when: 'false'}]", "select", "deny default unmatched"},
		{"an error denies", "rules: [{name: r, effect: allow, resources: [app-db], operations: [select], when: broken}]", "select", "deny r error"},
		{"an error denies beside another rule that allows", "rules: [{name: r, effect: allow, resources: [app-db], operations: [select], when: broken}, {name: a, effect: allow, resources: [app-db]}]", "select", "deny r error"},
		{"an error denies where the default allows", "rules: [{name: r, effect: deny, resources: [app-db], operations: [select], when: broken}]\ndefaults: {unmatched: allow}", "select", "deny r error"},
		{"an error in an approval denies", "rules: [{name: r, effect: approve, resources: [app-db], operations: [select], when: broken}]", "select", "deny r error"},
		{"a rule that denies is named before an error", "rules: [{name: a, effect: allow, resources: [app-db], operations: [select], when: broken}, {name: z, effect: deny, resources: [app-db], operations: [select]}]", "select", "deny z rule"},
		{"an error elsewhere does not matter", "rules: [{name: r, effect: allow, resources: [app-db], operations: [drop], when: broken}, {name: a, effect: allow, resources: [app-db]}]", "select", "allow a rule"},
		{"is not asked for connecting by a rule about something else", "rules: [{name: r, effect: allow, resources: [app-db], operations: [select], when: broken}]", Connect, "allow r rule"},
		{"is asked for connecting by a rule about everything", "rules: [{name: r, effect: allow, resources: [app-db], when: 'false'}]", Connect, "deny default unmatched"},
		{"an error about everything denies connecting", "rules: [{name: r, effect: allow, resources: [app-db], when: broken}]", Connect, "deny r error"},
		{"that holds is not hidden by another that does not", "rules: [{name: a, effect: deny, resources: [app-db], operations: [select], when: 'false'}, {name: b, effect: deny, resources: [app-db], operations: [select], when: 'true'}]\ndefaults: {unmatched: allow}", "select", "deny b rule"},
		{"an observing rule's error does not act", "rules: [{name: r, effect: deny, mode: observe, resources: [app-db], operations: [select], when: broken}, {name: a, effect: allow, resources: [app-db]}]", "select", "allow a rule"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := compileWith(t, Options{conditions: fakes}, test.body)
			if got := answer(e.Decide(ask(test.effect))); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// identityOf is a principal with groups.
func identityOf(issuer, subject string, groups ...string) identity.Principal {
	return identity.Principal{Issuer: issuer, Subject: subject, Groups: groups}
}
