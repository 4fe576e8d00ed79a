package audit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/record"
)

// line is a flow in short, for comparison.
func line(f *Flow) string {
	return fmt.Sprintf("%s %s %s %s %s %s x%d", f.Kind, f.What, f.Agent, f.Verdict, f.Target, strings.Join(f.Names, ","), f.Count)
}

func mustFlows(t *testing.T, state string, s FlowFilter) []string {
	t.Helper()
	var got []string
	for f, err := range Flows(state, s) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, line(&f))
	}
	return got
}

func connecting(id string, v policy.Verdict) Decision {
	d := decision(id, id+"-0", "", v)
	d.Operation.Verb = policy.Connect
	return d
}

// mustAct writes what agents of two trees did: one session with an operation
// that is denied, one that is turned away, and what has no session.
func mustAct(t *testing.T, l *Log) {
	t.Helper()
	named := opening("a1")
	named.Names, named.NameSource, named.Origin.Root = []string{"db.example", "alias.example"}, NameSourceDNS, process.ID{PID: 10, Start: 1}
	mustAppend(t, l, KindEnrol, Enrol{Agent: "ci", Root: named.Origin.Root, How: HowRun})
	mustAppend(t, l, KindSessionOpen, named)
	mustAppend(t, l, KindDecision, connecting("a1", policy.Allow))
	mustAppend(t, l, KindDecision, decision("a1", "a1-1", "DROP TABLE t", policy.Deny))
	mustAppend(t, l, KindResult, Result{Session: "a1", Op: "a1-1", Outcome: OutcomeOK})
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "a1", Reason: "done"})
	turned := opening("b2")
	turned.Agent, turned.Origin.Root, turned.Origin.Target = "backup", process.ID{PID: 20, Start: 2}, netip.MustParseAddrPort("198.51.100.9:22")
	mustAppend(t, l, KindSessionOpen, turned)
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "b2", Reason: "error", Stage: "detect", Error: "no protocol"})
	mustAppend(t, l, KindEscape, EscapeAttempt{
		Kind: "udp", Agent: "ci", Root: process.ID{PID: 10, Start: 1}, Target: "203.0.113.5:443", Names: []string{"cdn.example"}, NameSource: NameSourceDNS, Count: 3,
	})
	mustAppend(t, l, KindEscape, EscapeAttempt{Kind: "metadata", Observed: true, Agent: "backup", Root: process.ID{PID: 20, Start: 2}, Target: "169.254.169.254:80", Count: 1})
	mustAppend(t, l, KindRefused, Refused{Agent: "ci", Root: process.ID{PID: 10, Start: 9}, Reason: "limit", Count: 40})
}

const (
	enrolled  = "enrol run ci    x1"
	connected = "connect connect ci allow 192.0.2.1:5432 db.example,alias.example x1"
	dropped   = "operation select ci deny 192.0.2.1:5432 db.example,alias.example x1"
	turned    = "connect connect backup deny 198.51.100.9:22  x1"
	datagram  = "escape udp ci deny 203.0.113.5:443 cdn.example x3"
	metadata  = "escape metadata backup allow 169.254.169.254:80  x1"
	flooded   = "refused  ci deny   x40"
)

func TestFlowsAreAllThatAgentsTried(t *testing.T) {
	state := t.TempDir()
	mustAct(t, mustOpen(t, state, Options{Now: clock()}))
	var first Flow
	for f, err := range Flows(state, FlowFilter{Kinds: []string{FlowOperation}}) {
		if err != nil {
			t.Fatal(err)
		}
		first = f
	}
	if first.Rule != "readers" || first.Resource != "billing" || first.Text != "DROP TABLE t" || first.Exe != "/usr/bin/tool" || first.NameSource != NameSourceDNS ||
		first.Session != "a1" || first.Transport != "tcp" {
		t.Errorf("operation %+v", first)
	}
	opened := first.Time
	for name, c := range map[string]struct {
		filter FlowFilter
		want   []string
	}{
		"all":         {FlowFilter{}, []string{enrolled, connected, dropped, turned, datagram, metadata, flooded}},
		"refused":     {FlowFilter{Refused: true}, []string{dropped, turned, datagram, metadata, flooded}},
		"kinds":       {FlowFilter{Kinds: []string{FlowEscape, FlowEnrol}}, []string{enrolled, datagram, metadata}},
		"agent":       {FlowFilter{Agent: "backup"}, []string{turned, metadata}},
		"tree by pid": {FlowFilter{Tree: process.ID{PID: 10}}, []string{enrolled, connected, dropped, datagram, flooded}},
		"tree":        {FlowFilter{Tree: process.ID{PID: 10, Start: 1}}, []string{enrolled, connected, dropped, datagram}},
		"no tree":     {FlowFilter{Tree: process.ID{PID: 11}}, nil},
		"protocol":    {FlowFilter{Protocol: "sql", Refused: true}, []string{dropped, turned}},
		"principal":   {FlowFilter{Principal: "corp:alice"}, []string{connected, dropped, turned}},
		"since":       {FlowFilter{Since: opened}, []string{dropped, turned, datagram, metadata, flooded}},
		"until":       {FlowFilter{Until: opened}, []string{enrolled, connected}},
	} {
		if diff := cmp.Diff(c.want, mustFlows(t, state, c.filter)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// Whoever takes no more flows is given no more, and none of a log that was edited.
func TestFlowsEndWhereTheLogIsBroken(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustAct(t, l)
	for f, err := range Flows(state, FlowFilter{}) {
		if err != nil || line(&f) != enrolled {
			t.Errorf("the first is %s, %v", line(&f), err)
		}
		break
	}
	mustClose(t, l)
	mustEdit(t, mustLast(t, state+"/"+auditDir), "DROP", "KEEP")
	var got []string
	var broken error
	for f, err := range Flows(state, FlowFilter{}) {
		if err != nil {
			broken = err
			break
		}
		got = append(got, line(&f))
	}
	if diff := cmp.Diff([]string{enrolled, connected}, got); diff != "" || !errors.Is(broken, record.ErrBroken) {
		t.Errorf("%v, -want +got\n%s", broken, diff)
	}
}

// Each flow is told once, whatever segment it is in, also of sessions that began
// before; and the end of the watching is no error.
func TestFollowedFlowsGoOnWithWhatIsWritten(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{SegmentBytes: 700})
	mustAct(t, l)
	mustAppend(t, l, KindSessionOpen, opening("c3"))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got, want []string
	want = append(want, enrolled, connected, dropped, turned, datagram, metadata, flooded)
	rounds := 0
	tear := ""
	between := func(context.Context, time.Duration) bool {
		switch rounds++; rounds {
		case 1: // nothing new
		case 2:
			for range 20 {
				mustAppend(t, l, KindDecision, decision("c3", "c3-1", "SELECT 1", policy.Allow))
				want = append(want, "operation select ci allow 192.0.2.1:5432  x1")
			}
		case 3: // as if a daemon were writing
			mustClose(t, l)
			tear = mustLast(t, state+"/"+auditDir)
			mustTear(t, tear)
		case 4:
			l = mustOpen(t, state, Options{})
			mustAppend(t, l, KindEscape, EscapeAttempt{Kind: "last", Count: 1})
			want = append(want, "connect connect ci deny 192.0.2.1:5432  x1", "escape last  deny   x1")
		default:
			stop()
			return false
		}
		return true
	}
	for f, err := range followFlows(ctx, state, FlowFilter{}, between) {
		if err != nil {
			t.Fatalf("round %d: %v", rounds, err)
		}
		got = append(got, line(&f))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if n, err := record.Segments(state + "/" + auditDir); err != nil || n < 3 {
		t.Errorf("%d segments, %v: the test shows nothing", n, err)
	}
}

// A record that was taken away while it is followed is not taken for a quiet one.
func TestAFollowedLogIsNotExchanged(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{Now: clock()})
	mustAct(t, l)
	exchange := func(context.Context, time.Duration) bool {
		mustClose(t, l)
		if err := os.RemoveAll(filepath.Join(state, auditDir)); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, state, Options{})
		mustAct(t, l)
		mustAct(t, l)
		return true
	}
	n := 0
	for _, err := range followFlows(t.Context(), state, FlowFilter{}, exchange) {
		if n++; n > 7 {
			if !errors.Is(err, errReplaced) {
				t.Errorf("flow %d, %v", n, err)
			}
			return
		}
	}
	t.Errorf("ended after %d", n)
}

func TestWhoStopsFollowingIsLetGo(t *testing.T) {
	state := t.TempDir()
	mustAct(t, mustOpen(t, state, Options{}))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	n := 0
	for _, err := range FollowFlows(ctx, state, FlowFilter{}) {
		if err != nil {
			t.Error(err)
		}
		if n++; n == 7 {
			stop()
		}
	}
	if n != 7 {
		t.Errorf("%d flows", n)
	}
	for _, err := range FollowFlows(t.Context(), t.TempDir(), FlowFilter{}) {
		if err == nil {
			t.Error("a record that is not there has flows")
		}
		return
	}
	t.Error("a record that is not there is followed")
}

// An escape attempt has a lineage too, and its arguments are the agent's own.
func TestEscapeAttemptsAreRedactedAndBoundedInACopy(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	lineage := opening("a1").Lineage
	for range 1000 {
		lineage = append(lineage, Process{Argv: []string{strings.Repeat("x", 4000)}})
	}
	e := EscapeAttempt{Kind: "unix", Lineage: lineage, Target: strings.Repeat("\x01", 200<<10), Names: slices.Repeat([]string{strings.Repeat("n", 200)}, 1000), Count: 1}
	mustAppend(t, l, KindEscape, e)
	if e.Lineage[0].Argv[2] != "hunter2" {
		t.Error("the caller's argv was changed")
	}
	found := false
	for entry, err := range record.Read(state + "/" + auditDir) {
		if err != nil {
			t.Fatal(err)
		}
		if entry.Kind != KindEscape {
			continue
		}
		found = true
		var got EscapeAttempt
		if err := readBody(entry, func(e *EscapeAttempt) { got = *e }); err != nil {
			t.Fatal(err)
		}
		if len(got.Lineage) != maxLineage || len(got.Target) != maxWord || len(got.Names) > maxItems || got.Lineage[0].Argv[2] != redacted {
			t.Errorf("%d processes, target of %d bytes, %d names, argv %q", len(got.Lineage), len(got.Target), len(got.Names), got.Lineage[0].Argv)
		}
	}
	if !found {
		t.Error("not in the record")
	}
}

func TestSessionsTellTheNamesOfTheirTarget(t *testing.T) {
	state := t.TempDir()
	mustAct(t, mustOpen(t, state, Options{}))
	list, err := Sessions(state, Filter{})
	if err != nil || len(list) != 2 || !slices.Equal(list[0].Names, []string{"db.example", "alias.example"}) || list[0].NameSource != NameSourceDNS {
		t.Errorf("%+v, %v", list, err)
	}
	detail, err := Session(state, "a1")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Play(&b, detail, PlayOptions{}); err != nil || !strings.Contains(b.String(), "names      db.example, alias.example (dns)\n") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
