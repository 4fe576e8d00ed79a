package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/record"
)

// The kinds of a [Flow].
const (
	// FlowConnect is a connection, or what is one of UDP: the decision whether its
	// session may begin, or the end of one that never got that far.
	FlowConnect = "connect"
	// FlowOperation is the decision about one thing that was asked for in a session.
	FlowOperation = "operation"
	// FlowEscape is an [EscapeAttempt], FlowRefused a [Refused], FlowEnrol an [Enrol].
	FlowEscape  = "escape"
	FlowRefused = "refused"
	FlowEnrol   = "enrol"
	// FlowFinding is a [Finding].
	FlowFinding = "finding"
)

// FlowKinds returns all kinds of a [Flow].
func FlowKinds() []string {
	return []string{FlowConnect, FlowOperation, FlowEscape, FlowRefused, FlowEnrol, FlowFinding}
}

// Flow is one thing that an agent tried, and what was said to it: one event of
// the audit log, together with what earlier ones said of its session.
type Flow struct {
	// Seq and Time are those of the event.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	// What is the verb of a connection or an operation, the kind of an escape or a
	// finding, and what enrolled a tree ([Enrol.How]).
	What      string             `json:"what,omitempty"`
	Agent     string             `json:"agent,omitempty"`
	Principal identity.Principal `json:"principal,omitzero"`
	// Root names the tree, Process is who it was, and Exe what it executed.
	Root    process.ID `json:"root"`
	Process process.ID `json:"process"`
	Exe     string     `json:"exe,omitempty"`
	// Target is an address and port, or the name of a unix socket. Names are those
	// that the tree was told the address for, and NameSource says by what.
	Target     string   `json:"target,omitempty"`
	Transport  string   `json:"transport,omitempty"`
	Names      []string `json:"names,omitempty"`
	NameSource string   `json:"name_source,omitempty"`
	Resource   string   `json:"resource,omitempty"`
	Protocol   string   `json:"protocol,omitempty"`
	// Text is what the agent wrote.
	Text string `json:"text,omitempty"`
	// Verdict and WouldHave are as in [Decision]. An enrolment and a
	// finding have none.
	Verdict   string `json:"verdict,omitempty"`
	WouldHave string `json:"would_have,omitempty"`
	// WouldHaveRule is the rule of WouldHave, where Rule is another.
	WouldHaveRule string `json:"would_have_rule,omitempty"`
	Rule          string `json:"rule,omitempty"`
	Reason        string `json:"reason,omitempty"`
	Message       string `json:"message,omitempty"`
	// Session and Op say where the record tells more.
	Session string `json:"session,omitempty"`
	Op      string `json:"op,omitempty"`
	// Count is how many equal ones the flow stands for, at least 1.
	Count uint64 `json:"count"`
}

// Refused reports whether the flow was denied or held, or would have been.
func (f *Flow) Refused() bool {
	allow := policy.Allow.String()
	return f.Verdict != "" && f.Verdict != allow || f.WouldHave != "" && f.WouldHave != allow
}

// FlowFilter selects flows. Its zero value selects all.
type FlowFilter struct {
	// Since and Until bound the time: from Since on, before Until. Zero means no
	// bound.
	Since, Until time.Time
	// Kinds are those of [FlowKinds] that are selected; none means all.
	Kinds []string
	// Agent is the agent's name, Principal what identity.Principal.String returns,
	// Protocol the protocol's name. Empty means any.
	Agent, Principal, Protocol string
	// Tree is the root of a tree. Without a start time it selects all trees whose
	// root had the pid; the zero ID selects all.
	Tree process.ID
	// Refused selects what was denied or held, or would have been.
	Refused bool
}

func (s *FlowFilter) selects(f *Flow) bool {
	return !f.Time.Before(s.Since) &&
		(s.Until.IsZero() || f.Time.Before(s.Until)) &&
		(len(s.Kinds) == 0 || slices.Contains(s.Kinds, f.Kind)) &&
		(s.Agent == "" || s.Agent == f.Agent) &&
		(s.Principal == "" || s.Principal == f.Principal.String()) &&
		(s.Protocol == "" || s.Protocol == f.Protocol) &&
		(s.Tree.PID == 0 || s.Tree.PID == f.Root.PID) &&
		(s.Tree.Start == 0 || s.Tree.Start == f.Root.Start) &&
		(!s.Refused || f.Refused())
}

// Flows returns the flows that the audit log in stateDir knows and that the
// filter selects, oldest first. It needs no daemon and may run beside one. Where
// the log is broken it ends with the error. What it keeps of the log meanwhile
// grows with the sessions that are open at one time, and not with the log.
func Flows(stateDir string, s FlowFilter) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		r := flowReader{filter: s, open: map[string]*openFlow{}}
		if _, err := r.read(filepath.Join(stateDir, auditDir), 1, yield); err != nil {
			yield(Flow{}, err)
		}
	}
}

// flowReader makes flows of events.
type flowReader struct {
	filter FlowFilter
	open   map[string]*openFlow // by session
	seq    uint64               // of the last event that was taken in
	head   [32]byte             // its hash
}

// errReplaced means that a log is not the one that was read before.
var errReplaced = errors.New("this is another log than before")

// openFlow is what is known of a session that goes on.
type openFlow struct {
	flow    Flow
	decided bool // whether there was a decision that it may begin
}

// read goes through the log from a segment on, past what it took in before. It
// returns false once yield does. An unfinished last line is no error: a daemon
// may be writing it.
func (r *flowReader) read(dir string, segment uint64, yield func(Flow, error) bool) (bool, error) {
	for e, err := range record.ReadFrom(dir, segment) {
		if errors.Is(err, record.ErrTorn) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if e.Seq == r.seq && e.Hash != r.head || e.Seq > r.seq+1 {
			return false, fmt.Errorf("audit entry %d: %w", e.Seq, errReplaced)
		}
		if e.Seq <= r.seq {
			continue
		}
		r.seq, r.head = e.Seq, e.Hash
		f, ok, err := r.take(e)
		if err != nil {
			return false, fmt.Errorf("audit entry %d: %w", e.Seq, err)
		}
		if ok && r.filter.selects(&f) && !yield(f, nil) {
			return false, nil
		}
	}
	return true, nil
}

// take returns the flow that an event is, if it is one.
func (r *flowReader) take(e record.Entry) (f Flow, ok bool, err error) {
	switch e.Kind {
	case KindSessionOpen:
		err = readBody(e, r.begin)
	case KindDecision:
		err = readBody(e, func(d *Decision) { f, ok = r.decision(d), true })
	case KindSessionEnd:
		err = readBody(e, func(end *SessionEnd) { f, ok = r.end(end) })
	case KindFinding:
		err = readBody(e, func(a *Finding) { f, ok = r.finding(a), true })
	case KindEscape:
		err = readBody(e, func(a *EscapeAttempt) { f, ok = escapeFlow(a), true })
	case KindRefused:
		err = readBody(e, func(a *Refused) {
			f, ok = Flow{Kind: FlowRefused, Agent: a.Agent, Root: a.Root, Verdict: policy.Deny.String(), Reason: a.Reason, Count: a.Count}, true
		})
	case KindEnrol:
		err = readBody(e, func(a *Enrol) { f, ok = enrolFlow(a), true })
	}
	f.Seq, f.Time, f.Count = e.Seq, e.Time, max(1, f.Count)
	return f, ok, err
}

func readBody[T any](e record.Entry, take func(*T)) error {
	var body T
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return err
	}
	take(&body)
	return nil
}

func (r *flowReader) begin(o *SessionOpen) {
	f := Flow{
		Agent: o.Agent, Principal: o.Principal, Root: o.Origin.Root, Process: o.Origin.Process, Exe: exeOf(o.Lineage),
		Transport: o.Origin.Transport.String(), Names: o.Names, NameSource: o.NameSource, Resource: o.Resource, Protocol: o.Protocol, Session: o.Session,
	}
	if o.Origin.Target != (netip.AddrPort{}) {
		f.Target = o.Origin.Target.String()
	}
	r.open[o.Session] = &openFlow{flow: f}
}

func exeOf(lineage []Process) string {
	if len(lineage) == 0 {
		return ""
	}
	return lineage[0].Exe
}

func (r *flowReader) decision(d *Decision) Flow {
	f := Flow{Session: d.Session} // nobody's, unless the log says whose
	s := r.open[d.Session]
	if s != nil {
		f = s.flow
	}
	f.Kind, f.What = FlowOperation, d.Operation.Verb
	if d.Operation.Verb == policy.Connect {
		f.Kind = FlowConnect
		if s != nil {
			s.decided = true
		}
	}
	if d.Resource != "" {
		f.Resource = d.Resource
	}
	if d.Operation.Protocol != "" {
		f.Protocol = d.Operation.Protocol
	}
	f.Text = d.Operation.Text
	if len(d.Operation.TextBase64) > 0 {
		f.Text = string(d.Operation.TextBase64)
	}
	f.Op, f.Verdict, f.WouldHave, f.Rule, f.Reason, f.Message = d.Op, d.Verdict, d.WouldHave, d.Rule, d.Reason, d.Message
	f.WouldHaveRule = d.WouldHaveRule
	return f
}

// end is a flow only of a session that was turned away before anything was
// decided. Its end is the answer then.
func (r *flowReader) end(e *SessionEnd) (Flow, bool) {
	s := r.open[e.Session]
	delete(r.open, e.Session)
	if s == nil || s.decided {
		return Flow{}, false
	}
	f := s.flow
	f.Kind, f.What, f.Verdict, f.Reason = FlowConnect, policy.Connect, policy.Deny.String(), e.Reason
	f.Message = e.Error
	if e.Stage != "" && !strings.HasPrefix(e.Error, e.Stage+": ") {
		f.Message = e.Stage + ": " + e.Error
	}
	return f, true
}

func (r *flowReader) finding(a *Finding) Flow {
	f := Flow{Session: a.Session}
	if s := r.open[a.Session]; s != nil {
		f = s.flow
	}
	f.Kind, f.What = FlowFinding, a.Kind
	f.Message = "credential " + a.Credential + ", fingerprint " + a.Fingerprint
	return f
}

func escapeFlow(a *EscapeAttempt) Flow {
	f := Flow{
		Kind: FlowEscape, What: a.Kind, Agent: a.Agent, Root: a.Root, Process: a.Process, Exe: exeOf(a.Lineage),
		Target: a.Target, Names: a.Names, NameSource: a.NameSource, Verdict: policy.Deny.String(), Rule: a.Rule, Count: a.Count,
	}
	if a.Observed {
		f.Verdict, f.WouldHave = policy.Allow.String(), policy.Deny.String()
	}
	return f
}

func enrolFlow(a *Enrol) Flow {
	f := Flow{Kind: FlowEnrol, What: a.How, Agent: a.Agent, Principal: a.Principal, Root: a.Root, Process: a.Root}
	if a.Process != nil {
		f.Exe = a.Process.Exe
	}
	return f
}
