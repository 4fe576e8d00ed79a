package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// The limits of PostgreSQL itself (PQ_SMALL_MESSAGE_LIMIT and
// PQ_LARGE_MESSAGE_LIMIT in libpq.h).
const (
	smallMessage = 10_000
	largeMessage = 1<<30 - 1
)

// agentLimits are the messages that an agent may send after its login.
func agentLimits(typ byte) (limit int, known bool) {
	switch typ {
	case wire.Query, wire.Parse, wire.Bind, wire.FunctionCall, wire.CopyData:
		return largeMessage, true
	case wire.Execute, wire.Describe, wire.Close, wire.CopyDone, wire.CopyFail,
		wire.Flush, wire.Sync, wire.Terminate:
		return smallMessage, true
	default:
		return 0, false
	}
}

// downstream relays what the agent sends, judged. It always returns an error:
// errLeft when the agent sends nothing more.
func (x *exchange) downstream(ctx context.Context) (err error) {
	defer protocol.Contain(&err)
	if err := x.begin(ctx); err != nil {
		return err
	}
	for {
		if err := x.pushToTarget(); err != nil {
			return err
		}
		typ, length, err := x.fromAgent.Next()
		if err != nil {
			return x.agentEnded(err)
		}
		if x.consulting(typ) {
			if err := x.settle(ctx); err != nil {
				return err
			}
		}
		if err := x.handle(ctx, typ, length); err != nil {
			return err
		}
		if typ == wire.Terminate {
			return x.leave()
		}
	}
}

// pushToTarget sends what was relayed, unless there is more to relay already.
func (x *exchange) pushToTarget() error {
	if x.fromAgent.Buffered() {
		return nil
	}
	if err := x.toTarget.Flush(); err != nil {
		return fromUpstream(fmt.Errorf("write messages: %w", err))
	}
	return nil
}

// agentEnded is for the end of the agent's stream.
func (x *exchange) agentEnded(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return x.leave()
	}
	return fromDownstream(err)
}

// leave passes the end of the agent's stream on. A target that has read it closes
// the connection, which is in order from here on.
func (x *exchange) leave() error {
	x.pending.mu.Lock()
	x.pending.left = true
	x.pending.mu.Unlock()
	if err := x.toTarget.Flush(); err != nil {
		return fromUpstream(fmt.Errorf("write messages: %w", err))
	}
	half, ok := x.target.(interface{ CloseWrite() error })
	if !ok {
		return errOver
	}
	if err := half.CloseWrite(); err != nil {
		return fmt.Errorf("%w: %v", errOver, err)
	}
	return errLeft
}

// handle relays one message.
func (x *exchange) handle(ctx context.Context, typ byte, length int) error {
	if x.pending.full() {
		if err := x.toTarget.Flush(); err != nil {
			return fromUpstream(fmt.Errorf("write messages: %w", err))
		}
		x.pending.wait()
	}
	switch {
	case typ == wire.CopyData:
		return x.pass()
	case length > x.maxMessage(typ):
		return x.oversize(ctx, typ, length)
	}
	lease, err := x.borrow(ctx, length)
	if err != nil {
		return fromDownstream(err)
	}
	x.lease = lease
	defer func() {
		x.lease = nil
		x.fromAgent.Release()
		lease.giveBack()
		x.resolved()
	}()
	return x.consume(ctx, typ, length)
}

// maxMessage bounds what is read as a whole.
func (x *exchange) maxMessage(typ byte) int {
	switch typ {
	case wire.Query, wire.Parse:
		return x.postgres.options.MaxStatement
	case wire.Bind, wire.FunctionCall:
		return x.postgres.options.MaxBind
	default:
		return smallMessage // as the reader has checked
	}
}

// borrow takes what a large message needs of the memory that all sessions share.
func (x *exchange) borrow(ctx context.Context, size int) (*lease, error) {
	if size <= freeSize {
		return nil, nil // it is asked for each row: no closure
	}
	return x.postgres.budget.take(ctx, size, func() { x.end(errSlowMessage) })
}

// consume reads a message and relays it.
func (x *exchange) consume(ctx context.Context, typ byte, length int) error {
	raw, err := x.fromAgent.Raw(length)
	if err != nil {
		return fromDownstream(err)
	}
	switch typ {
	case wire.FunctionCall:
		err = x.functionCall(ctx, raw)
	case wire.Query:
		err = x.query(ctx, raw)
	case wire.Parse:
		err = x.parse(ctx, raw)
	case wire.Bind:
		err = x.bind(raw)
	case wire.Execute:
		err = x.execute(ctx, raw)
	case wire.Describe, wire.Close:
		err = x.describeOrClose(typ, raw)
	case wire.Sync:
		err = x.forward(x.postgres.requests.one(askSync), raw)
	case wire.CopyDone, wire.CopyFail:
		err = x.forward(&request{kind: askCopyEnd}, raw)
	default: // Flush, Terminate
		err = x.send(raw)
	}
	if errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrTooLarge) {
		return fromDownstream(err)
	}
	return err
}

// pass streams a message as it is.
func (x *exchange) pass() error {
	if _, err := x.fromAgent.CopyTo(x.toTarget); err != nil {
		return fromDownstream(err)
	}
	return nil
}

func (x *exchange) send(raw []byte) error {
	if _, err := x.toTarget.Write(raw); err != nil {
		return fromUpstream(fmt.Errorf("write message: %w", err))
	}
	return nil
}

// forward queues r and sends raw.
func (x *exchange) forward(r *request, raw []byte) error {
	x.pending.mu.Lock()
	r.sequence = x.pending.take()
	x.pending.push(r)
	x.pending.mu.Unlock()
	return x.send(raw)
}

// facts parses a text, unless how the target would read it is not known. The room
// and the form are those of [statement.Parser.ParseForm].
func (x *exchange) facts(text []byte, room []statement.Statement) (facts []statement.Statement, form *statement.Statement) {
	x.pending.mu.Lock()
	doubt := x.lexer(text)
	x.pending.mu.Unlock()
	if doubt != "" {
		return []statement.Statement{*notUnderstood(string(text), doubt)}, nil
	}
	return x.postgres.parser.ParseForm(text, room)
}

// query judges every statement of a Query before any of them is sent.
func (x *exchange) query(ctx context.Context, raw []byte) error {
	text, err := wire.DecodeQuery(raw[5:])
	if err != nil {
		return err
	}
	r, s := x.postgres.requests.single(askQuery, x.masks())
	facts, form := x.facts(text, r.whole.text[:0])
	s.form = form
	shifting := false
	x.pending.mu.Lock()
	for i := range facts {
		if i > 0 {
			s = &step{}
			r.steps = append(r.steps, s)
		}
		s.facts, s.text = x.resolveIn(s.facts, &facts[i], facts[:i]), &facts[i]
		shifting = shifting || x.fetchesByName(s.text)
	}
	x.pending.mu.Unlock()
	denial, err := x.judgeSteps(ctx, r, nil)
	if err == nil && denial == nil && shifting && !r.masks.Empty() {
		denial, err = x.refuse(r.steps[0], detailShifted)
	}
	if err != nil {
		return err
	}
	if denial != nil {
		return x.poison(r, denial, func(token string) []byte { return appendPoisonQuery(nil, token, denial.ID) })
	}
	if !r.masks.Empty() && copiesOut(r.steps[0].facts) {
		return x.copyOut(ctx, r, raw)
	}
	return x.dispatch(r, raw)
}

// dispatch sends a message that runs the steps of r.
func (x *exchange) dispatch(r *request, raw []byte) error {
	x.pending.mu.Lock()
	r.sequence = x.pending.take()
	if x.pending.push(r) {
		if r.portal != nil && !x.shifted(r.portal) {
			r.portal.started = true
		}
		r.changes = x.since(r)
		for _, s := range r.steps {
			x.expect(r, s)
		}
	}
	x.pending.mu.Unlock()
	return x.send(raw)
}

// expect notes what a step that is going to run may change. pending.mu is held.
func (x *exchange) expect(r *request, s *step) {
	x.lexing, x.renaming = r.sequence, r.sequence
	if slices.ContainsFunc(s.facts, obscure) {
		x.opening = r.sequence
	}
	x.defines(s.facts, r.sequence)
	if s.text != nil {
		x.define(s.text, r.sequence, x.statements.add, x.portals.add)
		return
	}
	for _, fact := range s.facts {
		if fact != nil {
			x.define(fact, r.sequence, x.statements.suggest, x.portals.suggest)
		}
	}
}

// define notes the names that the statement gives. pending.mu is held.
func (x *exchange) define(s *statement.Statement, sequence uint64, prepares definer[prepared], declares definer[portal]) {
	if s.Prepares != "" {
		prepares(s.Prepares, sequence, &prepared{facts: s.Inner}, len(s.Text))
	}
	if s.Declares != "" {
		hold := strings.Contains(strings.ToLower(s.Text), "hold")
		declares(s.Declares, sequence, &portal{hold: hold, changes: x.database.seen(), sources: []*prepared{{facts: s.Inner}}}, len(s.Text))
	}
}

// definer is [names.add] or [names.suggest].
type definer[T any] func(name string, sequence uint64, value *T, size int)

// resolveIn is resolve for a statement behind others of the same text, which may
// define the name that it uses.
func (x *exchange) resolveIn(facts []*statement.Statement, s *statement.Statement, before []statement.Statement) []*statement.Statement {
	facts = x.resolve(facts, s)
	for i := range before {
		b := &before[i]
		if b.Inner == nil {
			continue
		}
		if b.Prepares != "" && executes(s) == b.Prepares || b.Declares != "" && s.Fetches == b.Declares {
			facts = append(facts, b.Inner)
		}
	}
	return facts
}

func executes(s *statement.Statement) string {
	for ; s != nil; s = s.Inner {
		if s.Executes != "" {
			return s.Executes
		}
	}
	return ""
}

// poison sends, instead of what was denied, what has to fail.
func (x *exchange) poison(r *request, denial *protocol.Denial, build func(token string) []byte) error {
	r.denial, r.token, r.steps = denial, x.postgres.options.Token(), nil
	return x.forward(r, build(r.token))
}

// oversize drops a message that is too large to be looked into, and refuses it
// whatever the policy says of the unknown.
func (x *exchange) oversize(ctx context.Context, typ byte, length int) error {
	if x.session.Observe {
		return x.observeOversize(ctx, typ, length)
	}
	if typ == wire.FunctionCall {
		return x.oversizeCall(ctx, length)
	}
	var name string
	if typ != wire.Query {
		var err error
		if name, err = x.discardNamed(); err != nil {
			return fromDownstream(err)
		}
		if err := x.identify(&name); err != nil {
			return fromDownstream(err)
		}
	} else if err := x.fromAgent.Discard(); err != nil {
		return fromDownstream(err)
	}
	denial, err := x.refuseOversize(ctx, length)
	if err != nil {
		return err
	}
	r := &request{name: name, masks: x.masks()}
	switch typ {
	case wire.Query:
		r.kind = askQuery
		return x.poison(r, denial, func(token string) []byte { return appendPoisonQuery(nil, token, denial.ID) })
	case wire.Parse:
		r.kind = askParse
		return x.poison(r, denial, func(token string) []byte { return appendPoisonParse(nil, name, token, denial.ID) })
	default:
		r.kind = askBind
		return x.poison(r, denial, func(token string) []byte { return appendPoisonBind(nil, name, token) })
	}
}

// discardNamed drops a message and returns the name at its beginning.
func (x *exchange) discardNamed() (string, error) {
	head := &headWriter{}
	if _, err := x.fromAgent.CopyTo(head); err != nil {
		return "", err
	}
	return head.name()
}

func (x *exchange) refuseOversize(ctx context.Context, length int) (*protocol.Denial, error) {
	reason := fmt.Sprintf("a message of %d bytes is over the limit", length)
	op := operation([]*statement.Statement{notUnderstood("", reason)}, nil)
	ruling, denial, err := x.judge(ctx, op)
	if err != nil || denial != nil {
		return denial, err
	}
	return &protocol.Denial{ID: ruling.ID, Rule: "default", Reason: policy.ReasonUnknownOperation, Detail: reason}, nil
}

// functionCall judges a FunctionCall: it names a function by OID and has no text.
func (x *exchange) functionCall(ctx context.Context, raw []byte) error {
	oid, err := wire.DecodeFunctionCall(raw[5:])
	if err != nil {
		return err
	}
	r := &request{kind: askFunction, masks: x.masks()}
	op := operation([]*statement.Statement{functionFacts(oid)}, nil)
	ruling, denial, err := x.judge(ctx, op)
	if err != nil {
		return err
	}
	if denial != nil {
		r.kind = askQuery
		return x.poison(r, denial, func(token string) []byte { return appendPoisonQuery(nil, token, denial.ID) })
	}
	r.steps = []*step{{op: ruling.ID, ruling: ruling, facts: []*statement.Statement{nil}}}
	return x.dispatch(r, raw)
}

func (x *exchange) oversizeCall(ctx context.Context, length int) error {
	if err := x.fromAgent.Discard(); err != nil {
		return fromDownstream(err)
	}
	denial, err := x.refuseOversize(ctx, length)
	if err != nil {
		return err
	}
	r := &request{kind: askQuery, masks: x.masks()}
	return x.poison(r, denial, func(token string) []byte { return appendPoisonQuery(nil, token, denial.ID) })
}

// observeOversize streams what is too large to be looked into.
func (x *exchange) observeOversize(ctx context.Context, typ byte, length int) error {
	if _, err := x.refuseOversize(ctx, length); err != nil {
		return err
	}
	r := &request{steps: []*step{{facts: []*statement.Statement{nil}}}}
	switch typ {
	case wire.Query:
		r.kind = askQuery
	case wire.Parse:
		r.kind = askParse
	case wire.Bind:
		r.kind = askBind
	default:
		r.kind = askFunction
	}
	x.pending.mu.Lock()
	r.sequence = x.pending.take()
	x.pending.push(r)
	x.lexing, x.renaming = r.sequence, r.sequence
	x.defines([]*statement.Statement{nil}, r.sequence)
	x.pending.mu.Unlock()
	return x.pass()
}
