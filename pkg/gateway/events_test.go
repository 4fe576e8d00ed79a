package gateway

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// Events are made in memory that held others: nothing of those may be in them.
func TestAnEventHasNothingOfTheOneBefore(t *testing.T) {
	r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
		long := &policy.Operation{
			Verb: "drop", Effects: []string{"drop"}, Text: "drop it", Reason: "why", Parameters: []string{"p"},
			Objects: []policy.Object{{Kind: "table", Name: "t", Write: true}}, Announced: true,
		}
		if _, err := s.Decide(ctx, long); err == nil {
			t.Error("a drop was allowed")
		}
		first, err := s.Decide(ctx, &policy.Operation{Verb: "read", Effects: []string{"read"}})
		if err != nil {
			return err
		}
		failed := &protocol.Outcome{Code: "42P01", Error: "no such thing", Rows: 3, Bytes: 4, Masked: 5}
		if err := s.Record(protocol.Frame{Op: first.ID, Kind: protocol.FrameResult, Outcome: failed}); err != nil {
			return err
		}
		second, err := s.Decide(ctx, &policy.Operation{Verb: "read", Effects: []string{"read"}})
		if err != nil {
			return err
		}
		return s.Record(protocol.Frame{Op: second.ID, Kind: protocol.FrameResult, Outcome: &protocol.Outcome{Tag: "OK"}})
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
	detail := r.session()
	var decisions []audit.Decision
	var results []audit.Result
	for _, e := range detail.Events {
		switch e.Kind {
		case audit.KindDecision:
			decisions = append(decisions, eventOf[audit.Decision](t, e.Body))
		case audit.KindResult:
			results = append(results, eventOf[audit.Result](t, e.Body))
		}
	}
	if len(decisions) != 4 || len(results) != 2 {
		t.Fatalf("%d decisions and %d results", len(decisions), len(results))
	}
	allowed := audit.Decision{
		Session: decisions[3].Session, Op: decisions[3].Op, Stage: "exchange", Verdict: "allow", Mode: "enforce", Rule: "reads", Reason: "rule", Resource: "db", Generation: 1,
		Operation: audit.Operation{Operation: policy.Operation{Protocol: "line", Verb: "read", Effects: []string{"read"}}},
	}
	if diff := cmp.Diff(allowed, decisions[3]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(audit.Result{Session: decisions[3].Session, Op: decisions[3].Op, Outcome: audit.OutcomeOK, Tag: "OK"}, results[1]); diff != "" {
		t.Error(diff)
	}
}

func eventOf[T any](t *testing.T, body json.RawMessage) (event T) {
	t.Helper()
	if err := json.Unmarshal(body, &event); err != nil {
		t.Fatal(err)
	}
	return event
}
