package policy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsHeldNamesEverythingThatHasToBeApproved(t *testing.T) {
	e := compileWith(t, conditionOptions, `rules:
  - {name: b-dba, effect: approve, resources: [app-db], operations: [delete], approval: {groups: [dba], count: 2, timeout: 5m, grant: 30m}}
  - {name: a-wide, effect: approve, resources: [app-db], operations: [delete, select], when: "!sql.has_where", approval: {groups: [security], grant: statement}}
  - {name: c-narrow, effect: approve, resources: [app-db], operations: [delete], when: "sql.has_where", approval: {grant: session}}
  - {name: d-tried, effect: approve, mode: observe, resources: [app-db]}
  - {name: e-plain, effect: approve, resources: [app-db], operations: [select, delete]}
  - {name: work, effect: allow, resources: [app-db]}
`)
	d := e.Decide(full())
	want := []Approval{
		{Rule: "a-wide", Groups: []string{"security"}, Count: 1, Timeout: 10 * time.Minute, Scope: PerStatement},
		{Rule: "b-dba", Groups: []string{"dba"}, Count: 2, Timeout: 5 * time.Minute, Scope: ForTime, For: 30 * time.Minute},
		{Rule: "e-plain", Count: 1, Timeout: 10 * time.Minute},
	}
	if d.Verdict != Approve || d.Rule != "a-wide" {
		t.Errorf("decision %+v", d)
	}
	if diff := cmp.Diff(want, d.Approvals); diff != "" {
		t.Errorf("approvals (-want +got):\n%s", diff)
	}
	req := full()
	req.Operation.Effects = []string{"insert"}
	if d := e.Decide(req); d.Verdict != Allow || d.Approvals != nil {
		t.Errorf("what is allowed: %+v", d)
	}
}
