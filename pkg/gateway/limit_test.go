package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// limitedRig has a rule with limits, and a clock that the test moves.
func limitedRig(t *testing.T, limits string, serve func(context.Context, *protocol.Session) error) (*rig, *clock) {
	t.Helper()
	r := newRig(t, serve)
	engine := compile(t, 1, strings.Replace(testPolicy, "operations: [read]}", "operations: [read], limits: "+limits+"}", 1))
	r.Engine = func() *policy.Engine { return engine }
	c := newClock()
	r.meters = newMeters(c.now)
	return r, c
}

func read() *policy.Operation {
	return &policy.Operation{Verb: "read", Effects: []string{"read"}, Text: "read it"}
}

// verdicts are the decisions of a session but that about its connection.
func (r *rig) verdicts() []string {
	r.t.Helper()
	var list []string
	for _, e := range r.session().Events {
		var d audit.Decision
		if e.Kind != audit.KindDecision {
			continue
		}
		if err := json.Unmarshal(e.Body, &d); err != nil {
			r.t.Fatal(err)
		}
		if d.Operation.Verb != policy.Connect {
			_, number, _ := strings.Cut(d.Op[strings.LastIndexByte(d.Op, '-'):], "-")
			list = append(list, strings.TrimSpace(strings.Join([]string{number, d.Verdict, d.Rule, d.Reason, d.Message}, " ")))
		}
	}
	return list
}

func TestOperationsPerMinuteAreDeniedWithTheTimeToTryAgain(t *testing.T) {
	var c *clock
	r, c := limitedRig(t, "{per_minute: {operations: 2}}", func(ctx context.Context, s *protocol.Session) error {
		for i := range 3 {
			ruling, err := s.Decide(ctx, read())
			if i < 2 {
				if err != nil || ruling.Spend != nil {
					t.Errorf("operation %d: %v, Spend %t", i, err, ruling.Spend != nil)
				}
				c.move(10 * time.Second)
				continue
			}
			var d *protocol.Denial
			if !errors.As(err, &d) || d.Rule != "reads" || d.Reason != protocol.ReasonLimit {
				t.Fatalf("the third: %v", err)
			}
			if want := `headgate: denied (limit): rule "reads" allows 2 operations in a minute`; d.Summary() != want {
				t.Errorf("summary %q, want %q", d.Summary(), want)
			}
			if want := "Try again in 45 s, or ask the operators"; !strings.HasPrefix(d.Hint(), want) {
				t.Errorf("hint %q, want %q…", d.Hint(), want)
			}
			c.move(d.Retry)
		}
		if _, err := s.Decide(ctx, read()); err != nil {
			t.Errorf("after the time that was given: %v", err)
		}
		announced := read()
		announced.Announced = true
		if _, err := s.Decide(ctx, announced); err != nil {
			t.Errorf("what is only announced: %v", err)
		}
		return nil
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"2 allow reads rule", "3 allow reads rule",
		`4 deny reads limit rule "reads" allows 2 operations in a minute`,
		"5 allow reads rule", "6 allow reads rule",
	}
	if diff := cmp.Diff(want, r.verdicts()); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if denied := r.session().Summary.Denied; denied != 1 {
		t.Errorf("%d denied in the list of sessions", denied)
	}
}

func TestAResultIsRefusedOnceAndTheRefusalIsRecorded(t *testing.T) {
	row := protocol.Volume{Rows: 1, Bytes: 10}
	r, _ := limitedRig(t, "{rows: 3, bytes: 1KiB}", func(ctx context.Context, s *protocol.Session) error {
		ruling, err := s.Decide(ctx, read())
		if err != nil {
			return err
		}
		var given protocol.Volume
		for i := range 5 {
			d := ruling.Spend(given, row)
			if i < 3 {
				if d != nil {
					t.Fatalf("row %d: %v", i, d)
				}
				given = protocol.Volume{Rows: given.Rows + 1, Bytes: given.Bytes + 10}
				continue
			}
			if d == nil || d.ID != ruling.ID || d.Retry != 0 || d.Detail != `rule "reads" allows 3 rows in one result` {
				t.Fatalf("row %d: %+v", i, d)
			}
		}
		if ruling, err = s.Decide(ctx, read()); err != nil {
			return err
		}
		if d := ruling.Spend(protocol.Volume{}, protocol.Volume{Rows: 1, Bytes: 1025}); d == nil || d.Detail != `rule "reads" allows 1 KiB in one result` {
			t.Errorf("1025 bytes: %+v", d)
		}
		return nil
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"2 allow reads rule", `2 deny reads limit rule "reads" allows 3 rows in one result`,
		"3 allow reads rule", `3 deny reads limit rule "reads" allows 1 KiB in one result`,
	}
	if diff := cmp.Diff(want, r.verdicts()); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestRowsPerMinuteAreThoseOfAllSessionsOfATree(t *testing.T) {
	sessions := 0
	r, _ := limitedRig(t, "{per_minute: {rows: 5}}", func(ctx context.Context, s *protocol.Session) error {
		sessions++
		ruling, err := s.Decide(ctx, read())
		if sessions == 3 {
			var d *protocol.Denial
			if !errors.As(err, &d) || d.Detail != `rule "reads" allows 5 rows in a minute` {
				t.Errorf("with nothing left, before it runs: %v", err)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if d := ruling.Spend(protocol.Volume{}, protocol.Volume{Rows: 3}); (d != nil) != (sessions == 2) {
			t.Errorf("session %d: %v", sessions, d)
		}
		if sessions == 2 {
			again, err := s.Decide(ctx, read())
			if err != nil {
				return err
			}
			if d := again.Spend(protocol.Volume{}, protocol.Volume{Rows: 2}); d != nil {
				t.Errorf("what is left was charged for what was refused: %v", d)
			}
		}
		return nil
	})
	for range 3 {
		if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimitsDoNotActWhileTheSessionOnlyObserves(t *testing.T) {
	r, _ := limitedRig(t, "{rows: 1, per_minute: {operations: 1}}", func(ctx context.Context, s *protocol.Session) error {
		s.Observe = true
		for range 3 {
			if ruling, err := s.Decide(ctx, read()); err != nil || ruling.Spend != nil {
				t.Errorf("observing: %v, Spend %t", err, ruling.Spend != nil)
			}
		}
		return nil
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutRoomForATreeItIsDenied(t *testing.T) {
	r, _ := limitedRig(t, "{per_minute: {rows: 1}}", func(ctx context.Context, s *protocol.Session) error {
		_, err := s.Decide(ctx, read())
		var d *protocol.Denial
		if !errors.As(err, &d) || d.Reason != protocol.ReasonLimit || d.Retry == 0 {
			t.Errorf("got %v", err)
		}
		return nil
	})
	r.meters.max = 0
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
}

func TestARefusalThatIsNotRecordedEndsTheSession(t *testing.T) {
	var r *rig
	r, _ = limitedRig(t, "{rows: 1}", func(ctx context.Context, s *protocol.Session) error {
		ruling, err := s.Decide(ctx, read())
		if err != nil {
			return err
		}
		if err := r.Audit.Close(); err != nil {
			t.Fatal(err)
		}
		if d := ruling.Spend(protocol.Volume{}, protocol.Volume{Rows: 2}); d == nil || d.Reason != protocol.ReasonAudit {
			t.Errorf("Spend: %v", d)
		}
		if err := s.Deny(ruling, read(), &protocol.Denial{ID: ruling.ID, Reason: protocol.ReasonMask}); err == nil {
			t.Error("Deny: no error")
		}
		return nil
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err == nil {
		t.Error("the session's end could be recorded: the log was not closed")
	}
}
