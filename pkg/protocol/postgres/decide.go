package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// judge asks for a decision. A denial is an answer, not an error: errors end the
// session. While only observing nothing is denied.
func (x *exchange) judge(ctx context.Context, op *policy.Operation) (ruling protocol.Ruling, denial *protocol.Denial, err error) {
	if err := x.secrets.operation(op); err != nil {
		return ruling, nil, err
	}
	x.lease.pause()
	ruling, err = x.session.Decide(ctx, op)
	x.lease.resume()
	if err == nil {
		return ruling, nil, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return ruling, nil, cause
	}
	var d *protocol.Denial
	if !errors.As(err, &d) {
		return ruling, nil, fmt.Errorf("decide operation: %w", err)
	}
	ruling = protocol.Ruling{ID: d.ID}
	if x.session.Observe {
		if d.Reason == protocol.ReasonAudit {
			return ruling, nil, fmt.Errorf("decide operation: %w", err)
		}
		return ruling, nil, nil
	}
	return ruling, d, nil
}

// judgeSteps judges each of the steps with what it may run, and notes the ids of
// the rulings. The first denial ends it.
func (x *exchange) judgeSteps(ctx context.Context, r *request, parameters []string) (*protocol.Denial, error) {
	consults, asks := x.weighsCode(r.masks), x.asks()
	if asks {
		if err := x.lookAgain(ctx, r); err != nil {
			return nil, err
		}
	}
	for i, s := range r.steps {
		if asks {
			s.known = x.sqlFacts(r, i)
		}
		op := &s.asked
		if consults {
			known := x.consult(r, i)
			describe(op, s.facts, parameters)
			known.addDefinitions(op, s.facts)
		} else {
			describe(op, s.facts, parameters)
		}
		if len(s.facts) > 0 && s.text != nil {
			op.Verb, op.Text = s.text.Verb, s.text.Text
		}
		op.Announced, op.Facts, op.PartialParameters = r.kind == askParse, s, r.partial
		ruling, denial, err := x.judge(ctx, op)
		if err != nil || denial != nil {
			return denial, err
		}
		s.op, s.ruling = ruling.ID, ruling
		if detail := copyRefusal(r, s); detail != "" && !r.masks.Empty() {
			return x.unmaskable(s, detail)
		}
		if r.kind != askParse {
			x.underway(s.facts, r.masks)
		}
		if d := x.breach(s, r.masks); d != nil {
			return x.overrule(s, d)
		}
		if r.kind != askParse {
			if d := x.collides(s.facts, r.masks); d != nil {
				return x.overrule(s, d)
			}
		}
		if r.masks.NoCopies() != nil && x.sendsAway(s.facts, r.masks) {
			return x.unmaskable(s, "a function would take protected data to where masks can't be applied")
		}
		if s.text != nil && (r.kind == askParse || s.text.Prepares != "" || s.text.Declares != "") && x.tooManyNames() {
			return x.refuse(s, "too many prepared statements and cursors in one session")
		}
	}
	return nil, nil
}

// refuse refuses what the policy allowed, because it can't be followed.
func (x *exchange) refuse(s *step, detail string) (*protocol.Denial, error) {
	return x.overrule(s, &protocol.Denial{Rule: "default", Reason: policy.ReasonUnknownOperation, Detail: detail})
}

// unmaskable refuses what the policy allowed, because masks can't be applied to it.
func (x *exchange) unmaskable(s *step, detail string) (*protocol.Denial, error) {
	return x.overrule(s, &protocol.Denial{Rule: "default", Reason: protocol.ReasonMask, Detail: detail})
}

// overrule refuses what the policy allowed. That is a decision, and recorded as
// one. While only observing it says nothing.
func (x *exchange) overrule(s *step, d *protocol.Denial) (*protocol.Denial, error) {
	if x.session.Observe {
		return nil, nil
	}
	d.ID = s.op
	if err := x.session.Deny(s.ruling, &s.asked, d); err != nil {
		return nil, fmt.Errorf("refuse operation: %w", err)
	}
	outcome := &protocol.Outcome{Code: refusalOf(d).code, Error: d.Summary()}
	if err := x.record(protocol.Frame{Op: s.op, Kind: protocol.FrameResult, Outcome: outcome}); err != nil {
		return nil, err
	}
	return d, nil
}

func (x *exchange) tooManyNames() bool {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	return x.crowded(1)
}

// crowded reports whether more names are remembered than the limit times factor.
// pending.mu is held.
func (x *exchange) crowded(factor int) bool {
	return x.statements.total+x.portals.total >= factor*x.postgres.options.MaxNames
}

// sendsAway reports whether one of the statements hands what may be protected
// data to a function that keeps it in a setting, a lock, a message or an object.
// Code that nobody can see is for the policy to allow or deny.
func (x *exchange) sendsAway(facts []*statement.Statement, set *mask.Set) bool {
	if !slices.ContainsFunc(facts, leaves) {
		return false
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	known := x.know(set)
	return slices.ContainsFunc(facts, func(fact *statement.Statement) bool {
		if !leaves(fact) {
			return false
		}
		tables := fact.Tables()
		return known.LooksAt(fact) || known.doubt && len(tables) > 0 || known.unsettled(fact) || slices.ContainsFunc(tables, known.Strange)
	})
}

// leaves reports whether the statement hands anything to such a function.
func leaves(fact *statement.Statement) bool { return fact != nil && fact.Mentions.Leaves }

func copiesOut(facts []*statement.Statement) bool {
	for _, s := range facts {
		if s != nil && s.Does(statement.CopyOut) {
			return true
		}
	}
	return false
}
