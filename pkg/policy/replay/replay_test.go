package replay

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
)

func compile(t *testing.T, rules string) *policy.Engine {
	t.Helper()
	f, err := policy.Parse("p.yaml", []byte("version: 1\nresources: [{name: db, protocol: sqlish, hosts: ['10.0.0.1:5432']}]\n"+rules))
	if err != nil {
		t.Fatal(err)
	}
	o := policy.Options{Facts: map[string]policy.FactType{"sqlish": {Variable: "sql", Fields: []policy.FactField{{Name: "wide", Kind: policy.FactBool}}}}}
	e, err := o.Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func observed(text, effect string, v policy.Verdict) *policy.Observation {
	return &policy.Observation{
		Request: policy.Request{
			Agent: "ci", Target: netip.MustParseAddrPort("10.0.0.1:5432"),
			Operation: policy.Operation{Protocol: "sqlish", Verb: effect, Effects: []string{effect}, Text: text},
		},
		Verdict: v, WouldHave: v, Rule: "old", Reason: policy.ReasonRule,
	}
}

type wide bool

func (f wide) Fact(string) (any, error) { return bool(f), nil }

func read(_, text string) ([]policy.Operation, error) {
	if text == "?" {
		return nil, errors.New("not understood")
	}
	return []policy.Operation{{Facts: wide(text == "wide")}}, nil
}

func TestOnlyWhatWouldHaveGoneOtherwiseIsReportedWorstFirst(t *testing.T) {
	r := New(compile(t, `rules:
  - {name: no-drop, effect: deny, resources: [db], operations: [drop]}
  - {name: work, effect: allow, resources: [db]}
`), read)
	for range 3 {
		r.Add(observed("a", "select", policy.Allow))
		r.Add(observed("b", "drop", policy.Allow))
	}
	r.Add(observed("c", "insert", policy.Deny))
	got := r.Report()
	if got.Total != 7 || got.Same != 3 || got.Refuses() != 3 || got.Allows() != 1 || got.Unsure != 0 || len(got.Changes) != 2 {
		t.Fatalf("got %+v", got)
	}
	if c := got.Changes[0]; c.To.Rule != "no-drop" || c.Count != 3 || c.Example.Request.Operation.Text != "b" || c.From.Rule != "old" || c.Agents[0] != "ci" {
		t.Errorf("first %+v", c)
	}
}

func TestConditionsAreAskedAboutTheTextThatWasRecorded(t *testing.T) {
	e := compile(t, "rules:\n  - {name: r, effect: allow, resources: [db], operations: [select], when: '!sql.wide'}\n")
	for text, want := range map[string]struct {
		allows, unsure uint64
	}{"narrow": {1, 0}, "wide": {0, 0}, "?": {0, 1}, "": {0, 1}} {
		r := New(e, read)
		r.Add(observed(text, "select", policy.Deny))
		if got := r.Report(); got.Allows() != want.allows || got.Unsure != want.unsure {
			t.Errorf("%q: %+v", text, got)
		}
	}
	cut := observed("narrow", "select", policy.Deny)
	cut.Cut = true
	r := New(e, read)
	r.Add(cut)
	if got := r.Report(); got.Allows() != 0 || got.Unsure != 1 {
		t.Errorf("of what was cut: %+v", got)
	}
}
