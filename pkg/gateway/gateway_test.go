package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

const testPolicy = `
version: 1
resources:
  - {name: db, protocol: line, hosts: ["192.0.2.1:7000"]}
  - {name: sniffed, protocol: line, hosts: ["192.0.2.2:7000"]}
rules:
  - {name: reads, effect: allow, resources: [db], operations: [read]}
  - {name: no-drops, effect: deny, resources: [db], operations: [drop], message: Not here.}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

var agentID = process.ID{PID: 42, Start: 4242}

// line is a fake protocol: every line is an operation whose effect is its text.
type line struct {
	serve func(ctx context.Context, s *protocol.Session) error
}

func (line) Name() string { return "line" }

func (line) Operations() []string { return []string{"read", "drop"} }

func (line) Match(prefix []byte) protocol.Match {
	if prefix[0] == 'L' {
		return protocol.Yes
	}
	return protocol.No
}

func (l line) Serve(ctx context.Context, s *protocol.Session) error { return l.serve(ctx, s) }

func (line) Refuse(_ context.Context, s *protocol.Session, d *protocol.Denial) error {
	_, err := fmt.Fprintf(s.Downstream, "refused: %s\n", d.Reason)
	return err
}

type table map[process.ID]*process.Process

func (t table) Wait(_ context.Context, id process.ID, _ uint64) (*process.Process, error) {
	if p, ok := t[id]; ok {
		return p, nil
	}
	return nil, errors.New("no such process")
}

type rig struct {
	*Gateway
	t     *testing.T
	state string
}

func newRig(t *testing.T, serve func(context.Context, *protocol.Session) error) *rig {
	t.Helper()
	file, err := policy.Parse("test.yaml", []byte(testPolicy))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(1, file)
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	log, err := audit.OpenLog(state, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	proto := line{serve}
	who := &process.Process{ID: agentID, Root: agentID, Image: &process.Image{Exe: "/usr/bin/agent", Argv: []string{"agent"}}}
	g, err := New(Options{
		Engine:     func() *policy.Engine { return engine },
		Protocols:  []protocol.Protocol{proto},
		Opaque:     proto,
		Processes:  table{agentID: who},
		Agent:      func(n uint32) (string, bool) { return "ci", n == 1 },
		Principals: &identity.Binder{},
		Dialer:     upstream.Dialer{},
		Audit:      log,
		Log:        zerolog.Nop(),
		Limits:     Limits{Detect: 5 * time.Second, Drain: 5 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{g, t, state}
}

// connect serves one connection to target and returns what the agent read, and
// how the session ended.
func (r *rig) connect(origin transparent.Origin, says string) (string, error) {
	r.t.Helper()
	agent, down := net.Pipe()
	// The session may be over before anything is read.
	if err := agent.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.serve(r.t.Context(), transparent.NewConn(down, origin)) }()
	go func() {
		// The session may end before it has read everything.
		_, _ = io.WriteString(agent, says)
	}()
	heard, _ := io.ReadAll(agent)
	agent.Close()
	return string(heard), <-done
}

func originTo(target string) transparent.Origin {
	return transparent.Origin{Target: netip.MustParseAddrPort(target), Process: agentID, Root: agentID, Enrolment: 1}
}

// events returns what the audit log has, each as "kind key=value…" of interest.
func (r *rig) session() *audit.SessionDetail {
	r.t.Helper()
	list, err := audit.Sessions(r.state, audit.Filter{})
	if err != nil || len(list) == 0 {
		r.t.Fatalf("sessions: %d (%v)", len(list), err)
	}
	detail, err := audit.Session(r.state, list[len(list)-1].ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return detail
}

func (r *rig) kinds() []string {
	var kinds []string
	for _, e := range r.session().Events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func TestAllowedOperationIsRecordedBeforeItActs(t *testing.T) {
	var r *rig
	r = newRig(t, func(ctx context.Context, s *protocol.Session) error {
		ruling, err := s.Decide(ctx, &policy.Operation{Verb: "read", Effects: []string{"read"}, Text: "read it"})
		if err != nil {
			return err
		}
		if got := r.kinds(); !slices.Contains(got, audit.KindDecision) {
			t.Errorf("when Decide returned the record had %v", got)
		}
		return s.Record(protocol.Frame{Op: ruling.ID, Kind: protocol.FrameResult, Outcome: &protocol.Outcome{Tag: "OK"}})
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
	want := []string{audit.KindSessionOpen, audit.KindDecision, audit.KindDecision, audit.KindResult, audit.KindSessionEnd}
	if got := r.kinds(); !slices.Equal(got, want) {
		t.Errorf("record %v, want %v", got, want)
	}
}

func TestDeniedOperationNamesItsRule(t *testing.T) {
	r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
		_, err := s.Decide(ctx, &policy.Operation{Verb: "drop", Effects: []string{"drop"}})
		return err
	})
	_, err := r.connect(originTo("192.0.2.1:7000"), "")
	var denial *protocol.Denial
	if !errors.As(err, &denial) || denial.Rule != "no-drops" || denial.Message != "Not here." || denial.ID == "" {
		t.Errorf("denial %+v (%v)", denial, err)
	}
}

func TestConnectionThatNoRuleAllowsIsRefusedInItsProtocol(t *testing.T) {
	served := false
	r := newRig(t, func(context.Context, *protocol.Session) error { served = true; return nil })
	for target, says := range map[string]string{
		"192.0.2.2:7000":  "",   // a resource without a rule; its protocol is declared
		"198.51.100.1:80": "LL", // nobody's resource; its protocol is recognised
	} {
		heard, err := r.connect(originTo(target), says)
		if !strings.HasPrefix(heard, "refused: ") || err == nil {
			t.Errorf("%s: agent heard %q, session ended with %v", target, heard, err)
		}
	}
	if served {
		t.Error("a denied connection was served")
	}
}

// TestZeroValueDenies: no policy, an unknown agent, a lost lineage, and bytes
// that are nobody's all end the connection before it is served.
func TestZeroValueDenies(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(*Gateway)
		origin  transparent.Origin
		says    string
		stage   string
	}{
		"nil engine":       {func(g *Gateway) { g.Engine = func() *policy.Engine { return nil } }, originTo("192.0.2.1:7000"), "L", "decide"},
		"unknown agent":    {func(g *Gateway) { g.Agent = func(uint32) (string, bool) { return "", false } }, originTo("192.0.2.1:7000"), "", "identify"},
		"lost lineage":     {func(g *Gateway) { g.Processes = table{} }, originTo("192.0.2.1:7000"), "", "attribute"},
		"unknown protocol": {func(*Gateway) {}, originTo("198.51.100.1:80"), "???", "detect"},
		"somebody else": {func(g *Gateway) {
			g.Processes = table{agentID: {ID: process.ID{PID: 1, Start: 1}, Root: agentID}}
		}, originTo("192.0.2.1:7000"), "", "attribute"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(context.Context, *protocol.Session) error {
				t.Error("the connection was served")
				return nil
			})
			c.breakIt(r.Gateway)
			_, err := r.connect(c.origin, c.says)
			if err == nil || stageOf(err, "") != c.stage {
				t.Errorf("ended with %v at stage %q, want stage %q", err, stageOf(err, ""), c.stage)
			}
			if got := r.kinds(); !slices.Contains(got, audit.KindSessionEnd) {
				t.Errorf("the record has %v", got)
			}
		})
	}
}

// TestNoAuditNoAction: what can't be recorded is denied, and the session ends.
func TestNoAuditNoAction(t *testing.T) {
	var r *rig
	acted := false
	r = newRig(t, func(ctx context.Context, s *protocol.Session) error {
		if err := r.Audit.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Decide(ctx, &policy.Operation{Verb: "read", Effects: []string{"read"}}); err != nil {
			return err
		}
		acted = true
		return nil
	})
	_, err := r.connect(originTo("192.0.2.1:7000"), "")
	var denial *protocol.Denial
	if acted || !errors.As(err, &denial) || denial.Reason != protocol.ReasonAudit {
		t.Errorf("acted=%v, ended with %v", acted, err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a gateway without an audit log was made")
	}
}

// TestPanicStaysInSession: the daemon lives, the agent sees a broken
// connection, and the record says what happened.
func TestPanicStaysInSession(t *testing.T) {
	r := newRig(t, func(context.Context, *protocol.Session) error { panic("a decoder met its match") })
	_, err := r.connect(originTo("192.0.2.1:7000"), "")
	if panicIn(err) == nil {
		t.Fatalf("ended with %v", err)
	}
	detail := r.session()
	if got := detail.Summary.End.Reason; got != endPanic {
		t.Errorf("the record says the session ended by %q", got)
	}
	r.Gateway.Protocols = []protocol.Protocol{line{func(context.Context, *protocol.Session) error { return nil }}}
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Errorf("the next session: %v", err)
	}
}

// queue is an Accepter that yields the given connections and then waits.
type queue struct {
	conns chan *transparent.Conn

	mu          sync.Mutex
	interrupted chan struct{}
}

func newQueue() *queue {
	return &queue{conns: make(chan *transparent.Conn), interrupted: make(chan struct{})}
}

func (q *queue) Accept() (*transparent.Conn, error) {
	q.mu.Lock()
	interrupted := q.interrupted
	q.mu.Unlock()
	select {
	case c := <-q.conns:
		return c, nil
	case <-interrupted:
		return nil, os.ErrDeadlineExceeded
	}
}

func (q *queue) SetDeadline(t time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.IsZero() {
		q.interrupted = make(chan struct{})
		return nil
	}
	close(q.interrupted)
	return nil
}

func TestSessionsAboveTheLimitAreRefused(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{}, 2)
	r := newRig(t, func(context.Context, *protocol.Session) error {
		started <- struct{}{}
		<-release
		return nil
	})
	r.Limits.Sessions = 1
	q := newQueue()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, q) }()
	agents := make([]net.Conn, 2)
	for i := range agents {
		agent, down := net.Pipe()
		agents[i] = agent
		q.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
		if i == 0 {
			<-started
		}
	}
	if err := agents[1].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := agents[1].Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the second connection: %v, want it closed", err)
	}
	close(release)
	stop()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if r.Sessions() != 0 {
		t.Errorf("%d sessions left", r.Sessions())
	}
}

func TestStoppedGatewayEndsWhatDoesNotDrain(t *testing.T) {
	r := newRig(t, func(ctx context.Context, _ *protocol.Session) error {
		<-ctx.Done()
		return nil
	})
	r.Limits.Drain = time.Millisecond
	q := newQueue()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, q) }()
	_, down := net.Pipe()
	q.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
	stop()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
