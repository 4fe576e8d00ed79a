package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestModesFallBackFromRuleToFileToDefaults(t *testing.T) {
	tests := []struct {
		name, own, file, defaults string
		want                      Mode
	}{
		{"nothing given enforces", "", "", "", Enforce},
		{"default", "", "", "observe", Observe},
		{"file before default", "", "enforce", "observe", Enforce},
		{"rule before file", "observe", "enforce", "enforce", Observe},
		{"rule before all", "enforce", "observe", "observe", Enforce},
	}
	line := func(key, mode string) string {
		if mode == "" {
			return ""
		}
		return key + mode
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := mustCompile(t, line("mode: ", test.file)+"\n"+
				line("defaults:\n  mode: ", test.defaults)+"\n"+
				"rules: [{name: r, effect: deny, resources: [app-db], operations: [drop]"+line(", mode: ", test.own)+"}]")
			d := e.Decide(ask("drop"))
			if acts := d.Rule == "r" && d.Verdict == Deny; acts != (test.want == Enforce) {
				t.Errorf("decision %+v", d)
			}
			if d.WouldHave != Deny || d.WouldHaveRule != "r" {
				t.Errorf("would have said %v by %s", d.WouldHave, d.WouldHaveRule)
			}
		})
	}
}

func TestWhatObservesNeverActs(t *testing.T) {
	const enforced = "rules:\n  - {name: read, effect: allow, resources: [app-db], operations: [select]}\n"
	tests := []struct {
		name, body string
		effects    []string
		want       Decision
	}{
		{
			"an observing denial", enforced + "  - {name: no-read, effect: deny, mode: observe, resources: [app-db], operations: [select]}",
			[]string{"select"},
			Decision{Verdict: Allow, Rule: "read", Reason: ReasonRule, WouldHave: Deny, WouldHaveRule: "no-read", Mode: Enforce},
		},
		{
			"an observing denial of connecting leaves the session enforced",
			enforced + "  - {name: no-one, effect: deny, mode: observe, resources: [app-db]}",
			[]string{Connect},
			Decision{Verdict: Allow, Rule: "read", Reason: ReasonRule, WouldHave: Deny, WouldHaveRule: "no-one", Mode: Enforce},
		},
		{
			"an observing permission", enforced + "  - {name: write, effect: allow, mode: observe, resources: [app-db], operations: [insert]}",
			[]string{"insert"},
			Decision{Verdict: Deny, Rule: DefaultRule, Reason: ReasonUnmatched, WouldHave: Allow, WouldHaveRule: "write", Mode: Enforce},
		},
		{
			"observing defaults", "defaults: {mode: observe}", []string{"select"},
			Decision{Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnmatched, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe},
		},
		{
			"observing defaults and an unknown operation", "defaults: {mode: observe}", nil,
			Decision{Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnknownOperation, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe},
		},
		{
			"everything observing", "defaults: {mode: observe}\nrules: [{name: no-drop, effect: deny, resources: [app-db], operations: [drop], message: No.}]",
			[]string{"drop"},
			Decision{Verdict: Allow, Rule: "no-drop", Reason: ReasonRule, Message: "No.", WouldHave: Deny, WouldHaveRule: "no-drop", Mode: Observe},
		},
		{
			"everything observing, connecting", "defaults: {mode: observe}\nrules: [{name: no-drop, effect: deny, resources: [app-db], operations: [drop]}]",
			[]string{Connect},
			Decision{Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnmatched, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe},
		},
		{
			"one enforced rule acts", "defaults: {mode: observe}\nrules: [{name: no-drop, mode: enforce, effect: deny, resources: [app-db], operations: [drop]}]",
			[]string{"select", "drop"},
			Decision{Verdict: Deny, Rule: "no-drop", Reason: ReasonRule, WouldHave: Deny, WouldHaveRule: "no-drop", Mode: Enforce},
		},
		{
			"one enforced rule makes the session one to understand", "defaults: {mode: observe}\nrules: [{name: no-drop, mode: enforce, effect: deny, resources: [app-db], operations: [drop]}]",
			[]string{Connect},
			Decision{Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnmatched, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Enforce},
		},
		{
			"one enforced rule for others does not", "defaults: {mode: observe}\nrules: [{name: no-drop, mode: enforce, effect: deny, resources: [app-db], principals: [anonymous]}]",
			[]string{Connect},
			Decision{Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnmatched, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe},
		},
		{
			"what an enforced rule allows and what an observing default lets pass", "defaults: {mode: observe}\n" + enforced[:len(enforced)-2] + ", mode: enforce}",
			[]string{"select", "drop"},
			Decision{Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnmatched, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.want.Resource, test.want.Generation = "app-db", 7
			if diff := cmp.Diff(test.want, mustCompile(t, test.body).Decide(ask(test.effects...))); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnObservingDefaultLetsUnknownTargetsPass(t *testing.T) {
	d := mustCompile(t, "defaults: {mode: observe}").Decide(&Request{Target: nowhere, Operation: Operation{Effects: []string{Connect}}})
	want := Decision{
		Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnknownResource,
		WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe, Generation: 7,
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}
