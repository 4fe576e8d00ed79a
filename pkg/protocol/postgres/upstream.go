package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// mediumMessage bounds every answer that has to be looked into as a whole.
const mediumMessage = 1 << 20

// targetLimits are the messages that a target may send after the login.
func targetLimits(typ byte) (limit int, known bool) {
	switch typ {
	case wire.DataRow, wire.CopyData, wire.FunctionCallResponse:
		return largeMessage, true
	case wire.BindComplete, wire.CloseComplete, wire.CommandComplete, wire.CopyInResponse,
		wire.CopyOutResponse, wire.CopyDone, wire.EmptyQueryResponse, wire.ErrorResponse, wire.NoData,
		wire.NoticeResponse, wire.NotificationResponse, wire.ParameterDescription, wire.ParameterStatus,
		wire.ParseComplete, wire.PortalSuspended, wire.ReadyForQuery, wire.RowDescription:
		return mediumMessage, true
	default:
		return 0, false
	}
}

// upstream relays what the target answers, masked. It always returns an error:
// errOver when the target has closed the connection and may do that.
func (x *exchange) upstream(ctx context.Context) error {
	for {
		if err := x.pushToAgent(ctx); err != nil {
			return err
		}
		typ, length, err := x.fromTarget.Next()
		if err != nil {
			return x.lost(err)
		}
		if err := x.answer(ctx, typ, length); err != nil {
			return err
		}
	}
}

// pushToAgent sends what was relayed, unless there is more to relay already.
func (x *exchange) pushToAgent(ctx context.Context) error {
	if x.fromTarget.Buffered() {
		return nil
	}
	if err := x.toAgent.Flush(); err != nil {
		return fromDownstream(fmt.Errorf("write messages: %w", err))
	}
	return context.Cause(ctx) // here, since it costs as much as a row
}

// lost tells whether the end of the target's stream is in order: after a fatal
// error, or after the agent has left.
func (x *exchange) lost(err error) error {
	x.pending.mu.Lock()
	orderly := x.pending.fatal || x.pending.left
	x.ended = x.ended || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	x.pending.mu.Unlock()
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && orderly {
		return errors.Join(errOver, x.toAgent.Flush())
	}
	return fromUpstream(err)
}

func (x *exchange) answer(ctx context.Context, typ byte, length int) error {
	switch typ {
	case wire.DataRow:
		return x.dataRow(ctx, length)
	case wire.CopyData:
		return x.copyData(ctx, length)
	}
	x.row = nil
	if typ == wire.FunctionCallResponse {
		if err := x.spendCall(length); err != nil {
			return err
		}
	}
	if typ == wire.FunctionCallResponse && x.masks().Empty() && x.secrets == nil && x.shortcuts() {
		return x.functionResult(length)
	}
	lease, err := x.borrow(ctx, rewriting*min(length, x.postgres.options.MaxRow))
	if err != nil {
		return fromUpstream(err)
	}
	defer x.handBack(lease)
	raw, err := x.fromTarget.Raw(min(length, x.postgres.options.MaxRow))
	if err != nil {
		return fromUpstream(err)
	}
	if err := x.secrets.message(typ, raw); err != nil {
		return err
	}
	switch typ {
	case wire.ErrorResponse:
		err = x.failure(raw)
	case wire.NoticeResponse:
		err = x.notice(raw)
	case wire.NotificationResponse:
		err = x.notification(raw)
	case wire.ParameterStatus:
		err = x.parameterStatus(raw)
	case wire.FunctionCallResponse:
		err = x.maskedFunctionResult(raw)
	default:
		err = x.reply(typ, raw)
	}
	if errors.Is(err, wire.ErrMalformed) || errors.Is(err, errDesync) {
		return fromUpstream(err)
	}
	return err
}

// rewriting is how many times a message is in memory while it is masked: as it
// came, as it goes, and one value of it.
const rewriting = 3

// handBack drops what a large message needed.
func (x *exchange) handBack(l *lease) {
	if l == nil {
		return
	}
	x.fromTarget.Release()
	x.masker = masker{}
	l.giveBack()
}

// tell sends a message to the agent.
func (x *exchange) tell(raw []byte) error {
	if _, err := x.toAgent.Write(raw); err != nil {
		return fromDownstream(fmt.Errorf("write message: %w", err))
	}
	return nil
}

// streamDown sends the message that is being read as it arrives.
func (x *exchange) streamDown() error {
	x.stream = true
	if _, err := x.fromTarget.CopyTo(x.toAgent); err != nil {
		return fromUpstream(err)
	}
	x.stream = false
	return nil
}

// reply relays an answer to the request at the head of the queue.
func (x *exchange) reply(typ byte, raw []byte) error {
	x.pending.mu.Lock()
	r, err := x.pending.head(typ)
	if err != nil {
		x.pending.mu.Unlock()
		return err
	}
	if r.denial != nil && typ != wire.ReadyForQuery {
		x.pending.mu.Unlock()
		return fmt.Errorf("%w: poison did not fail", errDesync)
	}
	if c := x.cutOf(r); c != nil {
		x.pending.mu.Unlock()
		return c.behindCut(typ)
	}
	finished, tag, err := x.apply(r, typ, raw)
	if finished && r.copy != nil {
		r.copy.completeCopy(raw, tag)
		x.pending.mu.Unlock()
		return nil
	}
	injected, kept := r.injected, r.returned || r.next != nil
	loaded := err == nil && injected && typ == wire.ReadyForQuery
	if typ == wire.ReadyForQuery {
		x.recycle() // r too
	}
	x.pending.mu.Unlock()
	if err != nil {
		return err
	}
	if finished {
		if err := x.finish(r, tag, "", ""); err != nil {
			return err
		}
		r.at++
		r.result, r.plan = nil, nil // the next step has rows of its own
	}
	if loaded {
		if err := x.loaded(); err != nil {
			return err
		}
	}
	if injected {
		return nil
	}
	if typ == wire.ReadyForQuery && kept {
		if err := x.over(r); err != nil {
			return err
		}
	}
	return x.tell(raw)
}

// over records what is known of r only at its ReadyForQuery.
func (x *exchange) over(r *request) error {
	if r.returned {
		return x.finish(r, "", "", "")
	}
	if r.next != nil {
		return x.committed(r.next)
	}
	return nil
}

// uncommitted is how a FunctionCall ended whose result was passed on, but of which
// the target never said that it was carried out.
const uncommitted = "the session ended before the call was known to be committed"

// unfinished records a FunctionCall of which only the end is missing when the target is
// not listened to any more, for err: what it has returned may have reached the agent.
func (x *exchange) unfinished(err error) error {
	x.pending.mu.Lock()
	r := x.pending.first()
	x.pending.mu.Unlock()
	if r == nil || !r.returned {
		return err
	}
	if failed := x.finish(r, "", "", uncommitted); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// apply does what an answer changes. finished tells that a step of r ended, with
// tag. pending.mu is held.
func (x *exchange) apply(r *request, typ byte, raw []byte) (finished bool, tag string, err error) {
	body := raw[5:]
	switch typ {
	case wire.ParseComplete:
		if !r.injected {
			x.statements.confirm(r.name, r.sequence)
		}
		x.pending.pop()
	case wire.BindComplete:
		if !r.injected {
			x.portals.confirm(r.name, r.sequence)
		}
		x.pending.pop()
	case wire.CloseComplete:
		if r.portals {
			x.portals.drop(r.name, r.sequence)
		} else {
			x.statements.drop(r.name, r.sequence)
		}
		x.pending.pop()
	case wire.RowDescription:
		return false, "", x.rowDescription(r, body)
	case wire.NoData:
		x.learn(r, &result{})
		x.pending.pop()
	case wire.CommandComplete:
		return x.completed(r, body)
	case wire.EmptyQueryResponse, wire.PortalSuspended:
		if r.copy != nil {
			return false, "", fmt.Errorf("%w: end of a COPY", errDesync)
		}
		if r.kind == askExecute {
			r.suspend()
			x.pending.pop()
		}
		return true, "", nil
	case wire.CopyInResponse:
		if r.copies || r.copy != nil {
			return false, "", fmt.Errorf("%w: COPY inside a COPY", errDesync)
		}
		r.copies = true
		x.pending.copyIn()
	case wire.CopyOutResponse:
		return false, "", x.beginCopy(r, body)
	case wire.CopyDone:
		return false, "", x.endCopy(r)
	case wire.ReadyForQuery:
		return false, "", x.ready(r, body)
	}
	return false, "", nil
}

// rowDescription takes a RowDescription. pending.mu is held.
func (x *exchange) rowDescription(r *request, body []byte) error {
	described, err := x.described.result(body)
	if err != nil {
		return err
	}
	x.learn(r, described)
	if r.kind != askQuery {
		x.pending.pop()
	}
	return nil
}

// learn notes what rows r describes. pending.mu is held.
func (x *exchange) learn(r *request, described *result) {
	switch r.kind { //nolint:exhaustive // nothing else is described
	case askQuery:
		r.result, r.plan = described, nil
	case askDescribeStatement:
		if r.prepared != nil {
			r.prepared.described = described
		}
		if r.next != nil {
			r.next.result = described
			r.next.copy.answer(true)
		}
	case askDescribePortal:
		if r.next != nil {
			r.next.result = described
		}
		if r.portal != nil {
			r.portal.result = described
		}
	}
}

// completed takes a CommandComplete: names that were tentative are certain now.
// pending.mu is held.
func (x *exchange) completed(r *request, body []byte) (finished bool, tag string, err error) {
	raw, err := wire.DecodeCommandComplete(body)
	if err != nil {
		return false, "", err
	}
	if string(raw) != x.tag {
		x.tag = string(raw)
	}
	tag = x.tag
	x.remember(r.step())
	if s := r.step().text; s != nil {
		switch {
		case s.Prepares != "":
			x.statements.confirm(s.Prepares, r.sequence)
		case s.DeallocatesAll:
			x.statements.dropAll(r.sequence, never)
		case s.Deallocates != "":
			x.statements.drop(s.Deallocates, r.sequence)
		}
		switch {
		case s.Declares != "":
			x.portals.confirm(s.Declares, r.sequence)
		case s.ClosesAll:
			x.portals.dropAll(r.sequence, neverPortal)
		case s.Closes != "":
			x.portals.drop(s.Closes, r.sequence)
		}
	}
	if r.copies {
		r.copies = false
		if err := x.pending.copiedIn(r); err != nil {
			return false, "", err
		}
	}
	if r.kind == askExecute {
		x.pending.pop()
	}
	x.pending.copying = false
	return true, tag, nil
}

func never(*prepared) bool     { return false }
func neverPortal(*portal) bool { return false }

// ready takes a ReadyForQuery. pending.mu is held.
func (x *exchange) ready(r *request, body []byte) error {
	state, err := wire.DecodeReadyForQuery(body)
	if err != nil {
		return err
	}
	if r.kind == askQuery {
		x.abandon(r)
	}
	x.pending.ready(state)
	clear(x.ran) // they hold texts, and what comes next may be hours away
	x.ran = x.ran[:0]
	x.defined(r.sequence, state)
	x.settled()
	if x.lexing <= r.sequence {
		x.lexing = 0
	}
	if state != 'I' {
		return nil
	}
	x.portals.dropAll(r.sequence, func(p *portal) bool { return p.hold })
	return nil
}

// abandon forgets the names that steps of r would have defined, had they run.
// pending.mu is held.
func (x *exchange) abandon(r *request) {
	if r.next != nil && r.next.copy != nil {
		r.next.copy.answer(false)
	}
	switch r.kind { //nolint:exhaustive // nothing else gives a name
	case askParse:
		x.statements.fail(r.name, r.sequence)
	case askBind:
		x.portals.fail(r.name, r.sequence)
	}
	if r.kind != askQuery && r.kind != askExecute {
		return
	}
	for _, s := range r.steps[min(r.at, len(r.steps)):] {
		if s.text == nil {
			continue
		}
		if s.text.Prepares != "" {
			x.statements.fail(s.text.Prepares, r.sequence)
		}
		if s.text.Declares != "" {
			x.portals.fail(s.text.Declares, r.sequence)
		}
	}
}

// parameterStatus relays a setting that the target reports.
func (x *exchange) parameterStatus(raw []byte) error {
	name, value, err := wire.DecodeParameterStatus(raw[5:])
	if err != nil {
		return err
	}
	x.pending.mu.Lock()
	x.status(name, value)
	x.pending.mu.Unlock()
	return x.tell(x.scrubStatus(name, value, raw))
}
