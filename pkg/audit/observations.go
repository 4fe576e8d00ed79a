package audit

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/record"
)

// SessionObservations returns what was decided in one session; see [Observations].
func SessionObservations(stateDir, session string) iter.Seq2[policy.Observation, error] {
	return func(yield func(policy.Observation, error) bool) {
		for o, err := range Observations(stateDir, time.Time{}) {
			if (err != nil || o.Session == session) && !yield(o, err) {
				return
			}
		}
	}
}

// Observations returns what was decided since a time, as the audit log in stateDir
// has it, oldest first: connections and operations, and not what the kernel
// refused. It needs no daemon and may run beside one. Where the log is broken it
// ends with the error. What it keeps of the log meanwhile grows with the sessions
// that are open at one time.
func Observations(stateDir string, since time.Time) iter.Seq2[policy.Observation, error] {
	return func(yield func(policy.Observation, error) bool) {
		r := observer{open: map[string]*policy.Request{}}
		for e, err := range record.ReadFrom(filepath.Join(stateDir, auditDir), 1) {
			if errors.Is(err, record.ErrTorn) {
				return // a daemon may be writing it
			}
			var o policy.Observation
			var ok bool
			if err == nil {
				o, ok, err = r.take(e)
			}
			if err != nil {
				yield(policy.Observation{}, fmt.Errorf("audit entry %d: %w", e.Seq, err))
				return
			}
			if ok && !e.Time.Before(since) && !yield(o, nil) {
				return
			}
		}
	}
}

// observer makes observations of events.
type observer struct {
	open map[string]*policy.Request // by session; without an operation
}

func (r *observer) take(e record.Entry) (o policy.Observation, ok bool, err error) {
	switch e.Kind {
	case KindSessionOpen:
		err = readBody(e, r.begin)
	case KindDecision:
		err = readBody(e, func(d *Decision) { o, ok = r.decision(d) })
		o.Request.Time = e.Time
	case KindSessionEnd:
		err = readBody(e, func(end *SessionEnd) { delete(r.open, end.Session) })
	}
	return o, ok, err
}

func (r *observer) begin(o *SessionOpen) {
	r.open[o.Session] = &policy.Request{
		Principal: o.Principal, Process: processOf(o.Lineage, o.LineagePartial), Agent: o.Agent,
		Target: o.Origin.Target, Transport: o.Origin.Transport, Names: o.Names,
	}
}

// processOf is the way back from [Lineage].
func processOf(lineage []Process, partial bool) *process.Process {
	var p *process.Process
	for i := len(lineage) - 1; i >= 0; i-- {
		q := &lineage[i]
		p = &process.Process{
			ID: q.ID, UID: q.UID, Partial: q.Partial || partial && p == nil, Parent: p,
			Image: &process.Image{Exe: q.Exe, Argv: q.Argv, ArgvTruncated: q.ArgvTruncated},
		}
	}
	return p
}

// decision is an observation if the log says whose it was.
func (r *observer) decision(d *Decision) (policy.Observation, bool) {
	req := r.open[d.Session]
	if req == nil {
		return policy.Observation{}, false
	}
	o := policy.Observation{
		Request: *req, Session: d.Session, Op: d.Op, Rule: d.Rule, Reason: d.Reason, Resource: d.Resource, Message: d.Message,
		Generation: d.Generation, Cut: d.Operation.Truncated, Verdict: verdictOf(d.Verdict),
	}
	o.WouldHave = o.Verdict
	if d.WouldHave != "" {
		o.WouldHave = verdictOf(d.WouldHave)
	}
	if d.Mode == policy.Observe.String() {
		o.Mode = policy.Observe
	}
	o.Request.Operation = d.Operation.Operation
	if len(d.Operation.TextBase64) > 0 {
		o.Request.Operation.Text = string(d.Operation.TextBase64)
	}
	return o, true
}

// verdictOf is the way back from [policy.Verdict.String]; what is none denies.
func verdictOf(word string) policy.Verdict {
	for _, v := range []policy.Verdict{policy.Approve, policy.Allow} {
		if v.String() == word {
			return v
		}
	}
	return policy.Deny
}
