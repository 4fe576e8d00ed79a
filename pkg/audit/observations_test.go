package audit

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

func mustObserve(t *testing.T, state string, since time.Time) []policy.Observation {
	t.Helper()
	var list []policy.Observation
	for o, err := range Observations(state, since) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
	return list
}

func TestWhatWasDecidedIsObservedWithEverythingThatThePolicySaw(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	open := opening("a1")
	open.Names = []string{"db.example"}
	open.Lineage = []Process{
		{ID: process.ID{PID: 3, Start: 3}, Exe: "/usr/bin/psql", Argv: []string{"psql"}, UID: 7},
		{ID: process.ID{PID: 2, Start: 2}, Exe: "/bin/sh"},
	}
	open.LineagePartial = true
	mustAppend(t, l, KindSessionOpen, open)
	observed := decision("a1", "a1-1", "DROP TABLE t", policy.Allow)
	observed.Mode, observed.WouldHave, observed.Rule = "observe", "deny", "no-drop"
	mustAppend(t, l, KindDecision, observed)
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "a1", Reason: "done"})
	mustAppend(t, l, KindDecision, decision("a1", "a1-2", "SELECT 1", policy.Deny)) // of nobody any more
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := mustObserve(t, state, time.Time{})
	if len(got) != 1 {
		t.Fatalf("%d observations, want 1", len(got))
	}
	o := got[0]
	shell := &process.Process{ID: process.ID{PID: 2, Start: 2}, Image: &process.Image{Exe: "/bin/sh"}, Partial: true}
	want := policy.Observation{
		Request: policy.Request{
			Agent: open.Agent, Principal: open.Principal, Target: open.Origin.Target, Transport: open.Origin.Transport, Names: open.Names,
			Process:   &process.Process{ID: process.ID{PID: 3, Start: 3}, UID: 7, Image: &process.Image{Exe: "/usr/bin/psql", Argv: []string{"psql"}}, Parent: shell},
			Operation: observed.Operation.Operation, Time: o.Request.Time,
		},
		Session: "a1", Op: "a1-1", Verdict: policy.Allow, WouldHave: policy.Deny, Mode: policy.Observe, Rule: "no-drop",
		Reason: observed.Reason, Resource: observed.Resource, Generation: observed.Generation,
	}
	if d := cmp.Diff(want, o, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Errorf("observation (-want +got):\n%s", d)
	}
	if o.Request.Time.IsZero() {
		t.Error("it has no time")
	}
	if later := mustObserve(t, state, o.Request.Time.Add(time.Hour)); len(later) != 0 {
		t.Errorf("observed %d later", len(later))
	}
}

func TestObservationsEndWhereTheLogIsBroken(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustAct(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(state, auditDir, "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range Observations(state, time.Time{}) {
		last = err
	}
	if last == nil || errors.Is(last, os.ErrNotExist) {
		t.Errorf("got %v", last)
	}
}

// A rule may observe in a policy that enforces.
func TestAnEventTellsWhatARuleThatObservesWouldHaveSaid(t *testing.T) {
	for _, test := range []struct {
		d                policy.Decision
		wantHave, wantBy string
	}{
		{policy.Decision{Verdict: policy.Allow, WouldHave: policy.Deny, Rule: "a", WouldHaveRule: "d"}, "deny", "d"},
		{policy.Decision{Verdict: policy.Allow, WouldHave: policy.Deny, Rule: "d", WouldHaveRule: "d", Mode: policy.Observe}, "deny", ""},
		{policy.Decision{Verdict: policy.Deny, WouldHave: policy.Allow, Rule: "default", WouldHaveRule: "a"}, "allow", "a"},
		{policy.Decision{Verdict: policy.Allow, WouldHave: policy.Allow, Rule: "a", WouldHaveRule: "b"}, "", ""},
	} {
		e := DecisionOf(&policy.Operation{}, test.d)
		if e.WouldHave != test.wantHave || e.WouldHaveRule != test.wantBy {
			t.Errorf("%+v: would have %q by %q", test.d, e.WouldHave, e.WouldHaveRule)
		}
	}
}
