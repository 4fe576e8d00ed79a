package audit

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/record"
)

// A pointer to an event is the same event, within the same bounds, and is its
// caller's again afterwards.
func TestAnEventByPointerIsTheSameEvent(t *testing.T) {
	state := t.TempDir()
	l, err := OpenLog(state, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	long := strings.Repeat("é", maxText)
	d := decision("s", "1", long, policy.Allow)
	d.Message, d.Operation.Parameters = long, make([]string, 2*maxItems)
	result := Result{Session: "s", Op: "1", Outcome: OutcomeError, Tag: long, Code: long, Error: long}
	mustAppend(t, l, KindDecision, d)
	mustAppend(t, l, KindResult, result)
	byPointer, resultByPointer := d, result
	mustAppend(t, l, KindDecision, &byPointer)
	mustAppend(t, l, KindResult, &resultByPointer)
	byPointer, resultByPointer = decision("s", "2", "SELECT 2", policy.Deny), Result{Op: "2"}
	mustAppend(t, l, KindDecision, decision("s", "3", "SELECT 3", policy.Deny)) // what waited is written with it
	if err := l.Append(KindResult, &byPointer); err == nil {
		t.Error("a decision was written as a result")
	}
	var bodies []string
	for e, err := range record.Read(filepath.Join(state, auditDir)) {
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, e.Kind+" "+string(e.Body))
	}
	if n := len(bodies); n < 5 || bodies[n-5] != bodies[n-3] || bodies[n-4] != bodies[n-2] || !strings.Contains(bodies[n-1], "SELECT 3") {
		t.Errorf("%d events, of which those by pointer are not the others", n)
	}
}

func TestEventsOfEachOperationAllocateNothing(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector is on")
	}
	l, err := OpenLog(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, r := decision("s", "1", "SELECT 1", policy.Allow), Result{Session: "s", Op: "1", Outcome: OutcomeOK, Tag: "SELECT 1"}
	got := testing.AllocsPerRun(1000, func() {
		mustAppend(t, l, KindDecision, &d)
		mustAppend(t, l, KindResult, &r)
	})
	if got >= 1 {
		t.Errorf("%v allocations for two events", got)
	}
}
