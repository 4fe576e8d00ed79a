package audit

import (
	"bytes"
	"encoding/json"
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

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/record"
	"github.com/headgate/headgate/pkg/transparent"
)

func clock() func() time.Time {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return func() time.Time {
		at = at.Add(time.Millisecond)
		return at
	}
}

func mustOpen(tb testing.TB, state string, opts Options) *Log {
	tb.Helper()
	l, err := OpenLog(state, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, record.ErrClosed) {
			tb.Error(err)
		}
	})
	return l
}

func mustClose(tb testing.TB, l *Log) {
	tb.Helper()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

func mustAppend(tb testing.TB, l *Log, kind string, body any) {
	tb.Helper()
	if err := l.Append(kind, body); err != nil {
		tb.Fatal(err)
	}
}

func mustVerify(tb testing.TB, state string) *VerifyReport {
	tb.Helper()
	r, err := Verify(state)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func opening(id string) SessionOpen {
	shell := &process.Process{ID: process.ID{PID: 10, Start: 1}, Image: &process.Image{Exe: "/bin/sh", Argv: []string{"sh", "-c", "deploy"}}, UID: 7}
	tool := &process.Process{ID: process.ID{PID: 11, Start: 2}, Image: &process.Image{Exe: "/usr/bin/tool", Argv: []string{"tool", "--password", "hunter2", "x=1"}}, UID: 7, Parent: shell}
	lineage, partial := Lineage(tool)
	return SessionOpen{
		Session:        id,
		Agent:          "ci",
		Origin:         transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432"), Process: tool.ID},
		Lineage:        lineage,
		LineagePartial: partial,
		Principal:      identity.Principal{Issuer: "corp", Subject: "alice"},
		Protocol:       "sql",
	}
}

func decision(id, op, text string, v policy.Verdict) Decision {
	d := DecisionOf(
		&policy.Operation{Protocol: "sql", Verb: "select", Effects: []string{"select"}, Text: text},
		policy.Decision{Verdict: v, Rule: "readers", Reason: "rule", Resource: "billing", Generation: 3},
	)
	d.Session, d.Op, d.Stage = id, op, "decide"
	return d
}

func str(s string) *string { return &s }

// mustRecord writes a session with a recording and ends it.
func mustRecord(tb testing.TB, l *Log, id string, frames ...Frame) {
	tb.Helper()
	mustAppend(tb, l, KindSessionOpen, opening(id))
	mustAppend(tb, l, KindDecision, decision(id, "1", "SELECT 1", policy.Allow))
	r, err := l.Record(id)
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range frames {
		if err := r.Append(f); err != nil {
			tb.Fatal(err)
		}
	}
	mustAppend(tb, l, KindResult, Result{Session: id, Op: "1", Outcome: OutcomeOK, Rows: 2, Bytes: 99, Tag: "SELECT 2", Masked: 1})
	anchor, err := r.Close()
	if err != nil {
		tb.Fatal(err)
	}
	mustAppend(tb, l, KindSessionEnd, SessionEnd{Session: id, Reason: "closed", BytesUp: 10, BytesDown: 20, Recording: anchor})
}

// kinds returns the kinds of all events, in order.
func kinds(tb testing.TB, state string) []string {
	tb.Helper()
	var ks []string
	for e, err := range record.Read(filepath.Join(state, auditDir)) {
		if err != nil {
			tb.Fatal(err)
		}
		ks = append(ks, e.Kind)
	}
	return ks
}

func TestNoAuditNoAction(t *testing.T) {
	var none *Log
	if err := none.Append(KindDecision, Decision{}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("nil log: %v", err)
	}
	if err := new(Log).Append(KindDecision, Decision{}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("zero log: %v", err)
	}
	if _, err := none.Record("a1"); !errors.Is(err, ErrNoAudit) {
		t.Errorf("recording of a nil log: %v", err)
	}
	var noRecording *Recording
	if err := noRecording.Append(Frame{Kind: FrameData}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("nil recording: %v", err)
	}

	l := mustOpen(t, t.TempDir(), Options{})
	if err := l.Append(KindDecision, SessionEnd{}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("body of another kind: %v", err)
	}
	if err := l.Append("other", func() {}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("body that is no JSON: %v", err)
	}
	if err := l.Append("other", strings.Repeat("a", record.MaxEntryBytes)); !errors.Is(err, ErrNoAudit) {
		t.Errorf("body that is too large: %v", err)
	}
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(Frame{Kind: FrameData}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("closed recording: %v", err)
	}
	mustClose(t, l)
	if err := l.Append(KindDecision, Decision{}); !errors.Is(err, ErrNoAudit) {
		t.Errorf("closed log: %v", err)
	}
}

func TestRecordingThatCannotBeWrittenIsNoAudit(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	if err := os.WriteFile(filepath.Join(state, sessionsDir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 2)
	r.Failed = func(err error) { told <- err }
	if err := r.Append(Frame{Kind: FrameData, Text: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, ErrNoAudit) {
		t.Errorf("whoever waits is told %v", err)
	}
	next, err := l.Record("b2")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, r := range []*Recording{r, next} {
			if err := r.Append(Frame{Kind: FrameData, Text: "x"}); !errors.Is(err, ErrNoAudit) {
				t.Errorf("append: %v", err)
			}
		}
	}
	for _, r := range []*Recording{r, next} {
		if anchor, err := r.Close(); err == nil || anchor != nil {
			t.Errorf("close: %v, %v", anchor, err)
		}
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	state := t.TempDir()
	mustOpen(t, state, Options{})
	if _, err := OpenLog(state, Options{}); !errors.Is(err, record.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
}

func TestTamperedLogIsNotOpened(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustRecord(t, l, "a1")
	mustClose(t, l)
	mustEdit(t, filepath.Join(state, auditDir, "000001.log"), `"allow"`, `"denyy"`)
	if _, err := OpenLog(state, Options{}); !errors.Is(err, record.ErrBroken) {
		t.Errorf("open: %v", err)
	}
	r := mustVerify(t, state)
	if r.OK() || !errors.Is(r.Problems[0].Err, record.ErrBroken) || !strings.Contains(r.Problems[0].String(), "000001.log:4") {
		t.Errorf("verify: %v", r.Problems)
	}
	if _, err := Sessions(state, Filter{}); !errors.Is(err, record.ErrBroken) {
		t.Errorf("sessions: %v", err)
	}
}

func mustEdit(tb testing.TB, path, from, to string) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	edited := bytes.Replace(b, []byte(from), []byte(to), 1)
	if bytes.Equal(edited, b) {
		tb.Fatalf("%s does not hold %s", path, from)
	}
	if err := os.WriteFile(path, edited, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func TestOpenSessionsAreEndedByTheNextStart(t *testing.T) {
	state := t.TempDir()
	opts := Options{SegmentBytes: 2000, Now: clock()}
	l := mustOpen(t, state, opts)
	mustAppend(t, l, KindSessionOpen, opening("left0"))
	for i := range 5 {
		mustRecord(t, l, fmt.Sprintf("done%d", i), Frame{Kind: FrameTag, Text: "x"})
	}
	mustAppend(t, l, KindSessionOpen, opening("left1"))
	r, err := l.Record("left1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Append(Frame{Kind: FrameTag, Text: "half"}); err != nil {
		t.Fatal(err)
	}
	// The daemon dies: nobody closes the recording in order.
	r.lapse()
	if err := errors.Join(r.log.Close(), l.log.Close()); err != nil {
		t.Fatal(err)
	}
	mustTear(t, filepath.Join(state, sessionsDir, "left1", "000001.log"))
	mustTear(t, mustLast(t, filepath.Join(state, auditDir)))

	l = mustOpen(t, state, opts)
	got := kinds(t, state)
	want := []string{KindRecovered, KindSessionEnd, KindSessionEnd, KindLogOpen}
	if diff := cmp.Diff(want, got[len(got)-4:]); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	sessions, err := Sessions(state, Filter{})
	if err != nil || len(sessions) != 7 {
		t.Fatalf("%d sessions, %v", len(sessions), err)
	}
	for _, s := range sessions {
		left := strings.HasPrefix(s.ID, "left")
		if s.End == nil || s.End.Synthetic != left || (s.End.Reason == ReasonDaemonStopped) != left {
			t.Errorf("end of %s is %+v", s.ID, s.End)
		}
		if (s.End.Recording == nil) != (s.ID == "left0") {
			t.Errorf("anchor of %s is %+v", s.ID, s.End.Recording)
		}
	}
	if r := mustVerify(t, state); !r.OK() || r.Recordings != 6 || r.Open != 0 {
		t.Errorf("verify: %+v", r)
	}
	mustClose(t, l)

	// Once is enough.
	before := len(kinds(t, state))
	mustClose(t, mustOpen(t, state, opts))
	if diff := cmp.Diff([]string{KindLogOpen}, kinds(t, state)[before:]); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// mustTear appends the beginning of a line.
func mustTear(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := f.WriteString("00ff"); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

func mustLast(tb testing.TB, dir string) string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d segments, %v", len(files), err)
	}
	return files[len(files)-1]
}

func TestEventsAreBoundedAndRedactedInACopy(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	open := opening("a1")
	mustAppend(t, l, KindSessionOpen, open)
	if open.Lineage[0].Argv[2] != "hunter2" {
		t.Error("the caller's argv was changed")
	}
	worst := strings.Repeat("\x01", 200<<10)
	d := decision("a1", "1", worst, policy.Allow)
	for range 500 {
		d.Operation.Objects = append(d.Operation.Objects, policy.Object{Kind: "table", Name: worst[:300]})
		d.Operation.Parameters = append(d.Operation.Parameters, worst[:10000])
		d.Operation.Effects = append(d.Operation.Effects, worst[:100])
	}
	mustAppend(t, l, KindDecision, d)
	latin := decision("a1", "2", "caf\xe9", policy.Allow)
	mustAppend(t, l, KindDecision, latin)

	detail, err := Session(state, "a1")
	if err != nil {
		t.Fatal(err)
	}
	wantArgv := []string{"tool", "--password", redacted, "x=1"}
	if diff := cmp.Diff(wantArgv, detail.Open.Lineage[0].Argv); diff != "" {
		t.Errorf("argv: -want +got\n%s", diff)
	}
	var got [2]Decision
	for i := range got {
		if err := json.Unmarshal(detail.Events[i+1].Body, &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	if o := got[0].Operation; !o.Truncated || len(o.Text) != maxText || len(o.Parameters) > maxItems || len(o.Objects) > maxItems {
		t.Errorf("operation has %d bytes, %d parameters, %d objects, truncated %v", len(o.Text), len(o.Parameters), len(o.Objects), o.Truncated)
	}
	if o := got[1].Operation; string(o.TextBase64) != "caf\xe9" || o.Text != "" || o.Truncated {
		t.Errorf("operation that is not UTF-8: %+v", o)
	}
}

func TestNamesOfASessionAreBounded(t *testing.T) {
	given := slices.Repeat([]string{strings.Repeat("n", 200)}, 1000)
	body, _ := SessionOpen{Names: given}.prepared(RedactArgv)
	open := body.(SessionOpen)
	if len(open.Names) == 0 || len(open.Names) > maxItems || len(given) != 1000 {
		t.Errorf("%d names are kept", len(open.Names))
	}
}

func TestDeepLineageIsCutAndPartial(t *testing.T) {
	var p *process.Process
	for i := range 1000 {
		p = &process.Process{ID: process.ID{PID: uint32(i)}, Image: &process.Image{Exe: "/x", Argv: []string{strings.Repeat("\x02", 4000)}}, Parent: p}
	}
	open := SessionOpen{Session: "a1"}
	open.Lineage, open.LineagePartial = Lineage(p)
	if len(open.Lineage) != maxLineage || !open.LineagePartial {
		t.Errorf("%d processes, partial %v", len(open.Lineage), open.LineagePartial)
	}
	mustAppend(t, mustOpen(t, t.TempDir(), Options{}), KindSessionOpen, open)
	if _, partial := Lineage(nil); !partial {
		t.Error("an unknown process has a whole lineage")
	}
}

func TestSessionsAreSummedUpAndFiltered(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{Now: clock()})
	mustRecord(t, l, "a1")
	mustAppend(t, l, KindSessionOpen, opening("b2"))
	mustAppend(t, l, KindDecision, decision("b2", "1", "DROP", policy.Deny))
	mustAppend(t, l, KindDecision, decision("b2", "2", "DELETE", policy.Approve))
	observed := decision("b2", "3", "DELETE", policy.Allow)
	observed.WouldHave = "deny"
	mustAppend(t, l, KindDecision, observed)

	all, err := Sessions(state, Filter{})
	if err != nil || len(all) != 2 {
		t.Fatalf("%d sessions, %v", len(all), err)
	}
	b := all[1]
	if b.ID != "b2" || b.Decisions != 3 || b.Denied != 1 || b.Held != 1 || b.WouldHave != 1 || b.End != nil {
		t.Errorf("summary %+v", b)
	}
	if a := all[0]; a.Masked != 1 || a.Resource != "billing" || a.Exe != "/usr/bin/tool" || a.End == nil || a.Agent != "ci" {
		t.Errorf("summary %+v", a)
	}
	for name, c := range map[string]struct {
		filter Filter
		want   []string
	}{
		"denied":          {Filter{Denied: true}, []string{"b2"}},
		"since":           {Filter{Since: b.Opened}, []string{"b2"}},
		"until":           {Filter{Until: b.Opened}, []string{"a1"}},
		"newest":          {Filter{Limit: 1}, []string{"b2"}},
		"agent":           {Filter{Agent: "ci"}, []string{"a1", "b2"}},
		"other agent":     {Filter{Agent: "backup"}, nil},
		"principal":       {Filter{Principal: "corp:alice"}, []string{"a1", "b2"}},
		"other principal": {Filter{Principal: "corp:bob"}, nil},
		"other resource":  {Filter{Resource: "crm"}, nil},
	} {
		list, err := Sessions(state, c.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range list {
			got = append(got, s.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

func TestOtherIDsNeverBecomePaths(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	secret := filepath.Join(state, "secret")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../secret", "a/b", "a\x00b", "A1", "a-1", "é", strings.Repeat("a", 65)} {
		if err := CheckSessionID(id); !errors.Is(err, ErrSessionID) {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := l.Record(id); !errors.Is(err, ErrSessionID) || !errors.Is(err, ErrNoAudit) {
			t.Errorf("record %q: %v", id, err)
		}
		if _, err := Session(state, id); !errors.Is(err, ErrSessionID) {
			t.Errorf("session %q: %v", id, err)
		}
		if err := VerifySession(state, id); !errors.Is(err, ErrSessionID) {
			t.Errorf("verify %q: %v", id, err)
		}
	}
	if _, err := Session(state, "a1"); !errors.Is(err, ErrNoSession) {
		t.Errorf("unknown session: %v", err)
	}
	// A link in the place of a recording leads nowhere.
	mustRecord(t, l, "a1", Frame{Kind: FrameTag, Text: "x"})
	dir := filepath.Join(state, sessionsDir, "a1")
	if err := os.Rename(dir, filepath.Join(secret, "a1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(secret, "a1"), dir); err != nil {
		t.Fatal(err)
	}
	if err := VerifySession(state, "a1"); err == nil {
		t.Error("a recording behind a symbolic link was accepted")
	}
}
