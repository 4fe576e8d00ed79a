package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// makeTrials is "trials STATE", which makes a state directory with what agents of
// two trees tried, and sets SESSION to the id of the one session.
func makeTrials(ts *testscript.TestScript, _ bool, args []string) {
	log, err := audit.OpenLog(ts.MkAbs(args[0]), audit.Options{})
	ts.Check(err)
	id := audit.NewSessionID(time.Now())
	ts.Setenv("SESSION", id)
	ci, backup := process.ID{PID: 42, Start: 1}, process.ID{PID: 77, Start: 7}
	lineage := []audit.Process{{ID: ci, Exe: "/usr/bin/psql", Argv: []string{"psql"}}}
	decided := func(verb, text string, d policy.Decision) audit.Decision {
		e := audit.DecisionOf(&policy.Operation{Protocol: "postgres", Verb: verb, Effects: []string{verb}, Text: text}, d)
		e.Session, e.Op = id, id+"-"+verb
		return e
	}
	for _, event := range []struct {
		kind string
		body any
	}{
		{audit.KindEnrol, audit.Enrol{Agent: "ci", Root: ci, How: audit.HowRun}},
		{audit.KindSessionOpen, audit.SessionOpen{
			Session: id, Agent: "ci", Lineage: lineage, Names: []string{"db.example", "alias.example"}, NameSource: audit.NameSourceDNS,
			Origin: transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432"), Process: ci, Root: ci},
		}},
		{audit.KindDecision, decided(policy.Connect, "", policy.Decision{Verdict: policy.Allow, Rule: "reads", Reason: policy.ReasonRule})},
		{audit.KindDecision, decided("ddl", "DROP TABLE t\n-- \x1b[2J", policy.Decision{Rule: "no-drops", Reason: policy.ReasonRule})},
		{audit.KindSessionEnd, audit.SessionEnd{Session: id, Reason: "done"}},
		{audit.KindEscape, audit.EscapeAttempt{Kind: "udp", Agent: "ci", Root: ci, Process: ci, Target: "203.0.113.5:443", Names: []string{"cdn.example"}, Count: 3}},
		{audit.KindEscape, audit.EscapeAttempt{Kind: "metadata", Observed: true, Agent: "backup", Root: backup, Process: backup, Target: "169.254.169.254:80", Count: 1}},
	} {
		ts.Check(log.Append(event.kind, event.body))
	}
	ts.Check(log.Close())
}

// A flow is on its way to whoever watches before the next one happens, and the
// end of the watching is in order.
func TestWatchedFlowsAreShownAtOnce(t *testing.T) {
	state := t.TempDir()
	log, err := audit.OpenLog(state, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := watchFlows(ctx, newFlowPrinter(env{stdout: w}, "table"), state, audit.FlowFilter{})
		ended <- errors.Join(err, w.Close())
	}()
	// A table's line is one write.
	b := make([]byte, 4096)
	want := func(word string) {
		t.Helper()
		n, err := r.Read(b)
		if err != nil || !bytes.Contains(b[:n], []byte(word)) {
			t.Errorf("shown %q, %v; want %q", b[:n], err, word)
		}
	}
	want("VERDICT")
	for _, kind := range []string{"udp", "bind"} {
		if err := log.Append(audit.KindEscape, audit.EscapeAttempt{Kind: kind, Count: 1}); err != nil {
			t.Fatal(err)
		}
		want(kind)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNewestFlowsComeInTheirOrderAndBeforeAnError(t *testing.T) {
	broken := errors.New("broken")
	flows := func(n int, err error) iter.Seq2[audit.Flow, error] {
		return func(yield func(audit.Flow, error) bool) {
			for i := range n {
				if !yield(audit.Flow{Seq: uint64(i + 1)}, nil) {
					return
				}
			}
			if err != nil {
				yield(audit.Flow{}, err)
			}
		}
	}
	for _, c := range []struct {
		n, limit int
		err      error
		want     []uint64
	}{
		{0, 2, nil, nil}, {1, 2, nil, []uint64{1}}, {3, 3, nil, []uint64{1, 2, 3}}, {10, 3, nil, []uint64{8, 9, 10}}, {6, 3, broken, []uint64{4, 5, 6}}, {5, 1, nil, []uint64{5}},
	} {
		var got []uint64
		var err error
		for f, e := range newest(flows(c.n, c.err), c.limit) {
			if e != nil {
				err = e
				continue
			}
			got = append(got, f.Seq)
		}
		if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%d of %d: %v, %v; want %v, %v", c.limit, c.n, got, err, c.want, c.err)
		}
	}
}

func TestTreesAreNamedByTheirRoot(t *testing.T) {
	for s, want := range map[string]process.ID{"": {}, "42": {PID: 42}, "42@7": {PID: 42, Start: 7}} {
		if got, err := parseTree(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1", "x", "42@", "42@0", "@7", "42@7@8", "4294967296", "0@7"} {
		if got, err := parseTree(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func TestVerdictsAreWords(t *testing.T) {
	for want, f := range map[string]audit.Flow{
		"-":          {},
		"allowed":    {Verdict: "allow", WouldHave: "allow"},
		"denied":     {Verdict: "deny"},
		"held":       {Verdict: "approve"},
		"would deny": {Verdict: "allow", WouldHave: "deny"},
		"would hold": {Verdict: "allow", WouldHave: "approve"},
	} {
		if got := verdictOf(&f); got != want {
			t.Errorf("%+v is %q, want %q", f, got, want)
		}
	}
	if f := (audit.Flow{Verdict: "whatever"}); verdictOf(&f) != "denied" {
		t.Error("a verdict that nobody knows is not a denial")
	}
}

func TestLongTextsAreShortOnOneLine(t *testing.T) {
	for s, want := range map[string]string{
		"select 1":               "select 1",
		"a\nb":                   `a\nb`,
		strings.Repeat("é", 80):  strings.Repeat("é", 80),
		strings.Repeat("é", 81):  strings.Repeat("é", 80) + "…",
		strings.Repeat("\n", 99): strings.Repeat(`\n`, 80) + "…",
		"\xff":                   `\xff`,
	} {
		if got := shortened(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
}
