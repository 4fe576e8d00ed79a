package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/identity"
)

// The tests of this file are the numbered sentences of the policy language, each
// under its number. Reloading (7) is the gateway's, and tested there.

// decide compiles the rules, which are lines of a list, in any order, and answers.
func decide(t *testing.T, defaults string, rules []string, req *Request) string {
	t.Helper()
	shuffled := append([]string{}, rules...)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	body := "rules:\n"
	for _, r := range shuffled {
		body += "  - " + r + "\n"
	}
	return answer(compileWith(t, conditionOptions, body+defaults).Decide(req))
}

func TestSemantics1OrderNeverMattersAndTheMostRestrictiveWins(t *testing.T) {
	const (
		deny    = "{name: d, effect: deny, resources: [app-db], operations: [delete]}"
		approve = "{name: p, effect: approve, resources: [app-db], operations: [delete]}"
		allow   = "{name: a, effect: allow, resources: [app-db]}"
		other   = "{name: o, effect: allow, resources: [other]}"
	)
	for range 10 {
		for _, test := range []struct {
			rules []string
			want  string
		}{
			{[]string{deny, approve, allow, other}, "deny d rule"},
			{[]string{approve, allow, other}, "approve p rule"},
			{[]string{allow, other}, "allow a rule"},
			{[]string{other}, "deny default unmatched"},
		} {
			if got := decide(t, "", test.rules, full()); got != test.want {
				t.Errorf("%v: got %q, want %q", test.rules, got, test.want)
			}
		}
	}
	e := compileWith(t, conditionOptions, "rules: [{name: a, effect: allow, resources: ['*']}]\nmasks: [{name: m, resources: [app-db], columns: ['*.*.ssn'], with: redact}]\n")
	if _, masked := e.Masks(full()).Column("public", "people", "ssn"); !masked {
		t.Error("what is allowed by a rule for everything is not masked")
	}
}

func TestSemantics2TheSameEngineDecidesConnectingAndEveryOperation(t *testing.T) {
	rules := []string{"{name: reads, effect: allow, resources: [app-db], operations: [select]}", "{name: x, effect: deny, resources: [other]}"}
	for effect, want := range map[string]string{Connect: "allow reads rule", "select": "allow reads rule", "drop": "deny default unmatched"} {
		req := full()
		req.Operation.Effects = []string{effect}
		if got := decide(t, "", rules, req); got != want {
			t.Errorf("%s: got %q, want %q", effect, got, want)
		}
	}
	req := full()
	req.Target, req.Operation.Effects = otherDB, []string{Connect}
	if got := decide(t, "", rules, req); got != "deny x rule" {
		t.Errorf("elsewhere: %q", got)
	}
}

func TestSemantics3UnknownIsNotHarmless(t *testing.T) {
	everything := []string{"{name: a, effect: allow, resources: ['*']}"}
	for name, test := range map[string]struct {
		rules  []string
		change func(*Request)
		want   string
	}{
		"what does not parse":                        {everything, func(r *Request) { r.Operation.Effects = []string{Unknown} }, "deny default unknown_operation"},
		"no statements found":                        {everything, func(r *Request) { r.Operation.Effects = nil }, "deny default unknown_operation"},
		"one part of it":                             {everything, func(r *Request) { r.Operation.Effects = []string{"select", Unknown} }, "deny default unknown_operation"},
		"a fact that is missing":                     {append(everything, `{name: c, effect: deny, resources: [app-db], when: "sql.text == ''"}`), func(*Request) {}, "deny c error"},
		"a condition that costs too much":            {append(everything, `{name: c, effect: deny, resources: [app-db], when: "op.text.matches('a.*a.*a.*b')"}`), func(r *Request) { r.Operation.Text = strings.Repeat("a", 1<<20) }, "deny c error"},
		"a target that belongs to no resource":       {everything, func(r *Request) { r.Target = nowhere }, "deny default unknown_resource"},
		"a condition of a rule for another resource": {append(everything, `{name: c, effect: deny, resources: [other], when: "sql.text == ''"}`), func(*Request) {}, "allow a rule"},
	} {
		req := full()
		test.change(req)
		if got := decide(t, "", test.rules, req); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestSemantics4TheModeIsTheRulesItsFilesOrTheDefaults(t *testing.T) {
	for _, test := range []struct{ file, rule, defaults, want string }{
		{"", "", "", "deny/deny enforce"},
		{"", "", "observe", "allow/deny observe"},
		{"observe", "", "", "deny/deny enforce"}, // no rule is left, and the default enforces
		{"", "observe", "", "deny/deny enforce"},
		{"observe", "", "observe", "allow/deny observe"},
		{"enforce", "", "observe", "deny/deny enforce"},
		{"observe", "enforce", "observe", "deny/deny enforce"},
		{"enforce", "observe", "observe", "allow/deny observe"},
	} {
		text := "version: 1\n" + resources
		add := func(format, value string) {
			if value != "" {
				text += fmt.Sprintf(format, value)
			}
		}
		add("mode: %s\n", test.file)
		add("defaults: {mode: %s}\n", test.defaults)
		text += "rules:\n  - name: d\n    effect: deny\n    resources: [app-db]\n"
		add("    mode: %s\n", test.rule)
		e, err := Compile(1, mustParse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		d := e.Decide(full())
		if got := fmt.Sprintf("%s/%s %s", d.Verdict, d.WouldHave, d.Mode); got != test.want {
			t.Errorf("file %q, rule %q, defaults %q: got %q, want %q", test.file, test.rule, test.defaults, got, test.want)
		}
	}
}

func TestSemantics4AHostThatObservesEnforcesNothing(t *testing.T) {
	o := conditionOptions
	o.Host = Observe
	e := compileWith(t, o, `mode: enforce
rules: [{name: d, effect: deny, mode: enforce, resources: [app-db]}]
masks: [{name: m, resources: [app-db], columns: ["*.*.ssn"], with: redact}]
defaults: {mode: enforce}
`)
	d := e.Decide(full())
	if d.Verdict != Allow || d.WouldHave != Deny || d.WouldHaveRule != "d" || d.Mode != Observe || e.Mode() != Observe {
		t.Errorf("decision %+v", d)
	}
	if _, masked := e.Masks(full()).Column("public", "people", "ssn"); masked {
		t.Error("a column is masked")
	}
}

func TestSemantics5ConditionsSeeTheWholeLineage(t *testing.T) {
	for when, want := range map[string]string{
		"lineage.exists(p, p.exe == '/usr/bin/claude')": "deny c rule",
		"size(lineage) > 3":                             "allow a rule",
		"time.getFullYear() == 2026":                    "deny c rule",
	} {
		rules := []string{"{name: a, effect: allow, resources: [app-db]}", fmt.Sprintf("{name: c, effect: deny, resources: [app-db], when: %q}", when)}
		if got := decide(t, "", rules, full()); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
}

func TestSemantics6PrincipalsAreQualifiedAndAnonymousHasOnlyProcessFacts(t *testing.T) {
	claims := identityOf("", "", "ci")
	claims.Claims = map[string]string{"repository": "acme/web"}
	for _, test := range []struct {
		principal string
		who       identity.Principal
		want      string
	}{
		{"github:repo:acme/*", identityOf("github", "repo:acme/web"), "allow r rule"},
		{"github:repo:acme/*", identityOf("gitlab", "repo:acme/web"), "deny default unmatched"},
		{"group:ci", identityOf("github", "x", "ci"), "allow r rule"},
		{"group:ci", claims, "deny default unmatched"}, // nobody vouched for the group
		{"anonymous", claims, "allow r rule"},
		{"anonymous", identityOf("github", "x"), "deny default unmatched"},
	} {
		req := full()
		req.Principal = test.who
		rules := []string{fmt.Sprintf("{name: r, effect: allow, resources: [app-db], principals: [%q]}", test.principal)}
		if got := decide(t, "", rules, req); got != test.want {
			t.Errorf("%s for %s: got %q, want %q", test.principal, test.who, got, test.want)
		}
	}
	req := full()
	req.Principal = claims
	for when, want := range map[string]string{
		"'ci' in principal.groups":                   "deny default unmatched",
		"has(principal.claims.repository)":           "deny default unmatched",
		"principal.anonymous && process.uid == 1002": "allow r rule",
	} {
		if got := decide(t, "", []string{fmt.Sprintf("{name: r, effect: allow, resources: [app-db], when: %q}", when)}, req); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
}
