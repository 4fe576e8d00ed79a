package postgres

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// parse judges the statement of a Parse: a Describe would already tell something
// about what it reads.
func (x *exchange) parse(ctx context.Context, raw []byte) error {
	m, err := wire.DecodeParse(raw[5:])
	if err != nil {
		return err
	}
	if err := x.identify(&m.Name); err != nil {
		return err
	}
	r, one := x.postgres.requests.single(askParse, x.masks())
	r.name = m.Name
	facts, _ := x.facts(m.Text, nil) // a name may keep them
	s := &facts[0]
	if len(facts) > 1 { // the server refuses it too, but is not relied upon
		s = notUnderstood(string(m.Text), "several statements in one Parse")
	}
	x.pending.mu.Lock()
	one.facts, one.text = x.resolve(one.facts, s), s
	x.pending.mu.Unlock()
	denial, err := x.judgeSteps(ctx, r, nil)
	if err != nil {
		return err
	}
	if denial != nil {
		return x.poison(r, denial, func(token string) []byte { return appendPoisonParse(nil, m.Name, token, denial.ID) })
	}
	x.pending.mu.Lock()
	r.sequence = x.pending.take()
	if x.pending.push(r) {
		r.changes = x.database.seen()
		x.statements.add(m.Name, r.sequence, &prepared{facts: s}, len(m.Text))
		x.rename(r)
	}
	x.pending.mu.Unlock()
	return x.send(raw)
}

// bind remembers what a portal may run, and with which parameters.
func (x *exchange) bind(raw []byte) error {
	m := &x.asked
	defer m.Forget()
	if err := m.Decode(raw[5:]); err != nil {
		return err
	}
	if err := x.identify(&m.Portal, &m.Statement); err != nil {
		return err
	}
	p := &portal{}
	p.parameters, p.partial = render(p.parameter[:0], m), overlong(m)
	r := x.postgres.requests.one(askBind)
	r.name, r.portal, r.masks = m.Portal, p, x.masks()
	x.pending.mu.Lock()
	p.sources = x.statements.list(p.source[:0], m.Statement, x.pending.certain())
	if x.crowded(2) && !x.session.Observe {
		x.pending.mu.Unlock()
		return x.poison(r, x.tooManyPortals(), func(token string) []byte { return appendPoisonBind(nil, m.Portal, token) })
	}
	r.sequence = x.pending.take()
	if x.pending.push(r) {
		p.changes = x.database.seen()
		r.changes = p.changes
		x.lexing = r.sequence // to plan is to run what is immutable
		p.sequence = r.sequence
		x.rename(r)
		x.portals.add(m.Portal, r.sequence, p, len(raw))
	}
	x.pending.mu.Unlock()
	return x.send(raw)
}

func (x *exchange) tooManyPortals() *protocol.Denial {
	return &protocol.Denial{ID: x.session.ID, Rule: "default", Reason: policy.ReasonUnknownOperation, Detail: "too many portals in one session"}
}

// execute judges everything that the portal may be, with its parameters.
func (x *exchange) execute(ctx context.Context, raw []byte) error {
	name, _, err := wire.DecodeExecute(raw[5:])
	if err != nil {
		return err
	}
	if err := x.identify(&name); err != nil {
		return err
	}
	r, s := x.postgres.requests.single(askExecute, x.masks())
	r.name = name
	var parameters []string
	known := 0
	x.pending.mu.Lock()
	r.candidates = x.portals.list(r.candidates, name, x.pending.certain())
	portals := r.candidates
	for i, p := range portals {
		r.partial = i > 0 || p == nil || p.partial
		if i == 0 && p != nil {
			parameters = p.parameters // of the latest
		}
		if p == nil || len(p.sources) == 0 {
			s.facts = append(s.facts, nil)
			continue
		}
		for _, source := range p.sources {
			fact := source.known()
			if fact == nil {
				s.facts = append(s.facts, nil)
				continue
			}
			s.facts = x.resolve(s.facts, fact)
			s.text = fact
			known++
		}
	}
	if known != 1 {
		s.text = nil
	}
	if len(portals) == 0 {
		s.facts = append(s.facts, nil)
	}
	if len(portals) == 1 {
		r.portal = portals[0]
	}
	shifting := slices.ContainsFunc(portals, x.shifted) || slices.ContainsFunc(s.facts, x.fetchesByName)
	r.reopened = slices.ContainsFunc(portals, x.reopened)
	x.pending.mu.Unlock()
	denial, err := x.judgeSteps(ctx, r, parameters)
	if err == nil && denial == nil && shifting && !r.masks.Empty() {
		denial, err = x.refuse(s, detailShifted)
	}
	if err != nil {
		return err
	}
	if denial != nil {
		return x.poison(r, denial, func(token string) []byte { return appendPoisonExecute(nil, token) })
	}
	if r.reopened { // the policy was asked when the code ran
		code := unseen()
		code.Effects = append(code.Effects, statement.UserFunction)
		s.facts = append(slices.Clone(s.facts), code)
	}
	if err := x.describeFirst(r); err != nil {
		return err
	}
	return x.dispatch(r, raw)
}

// reopened reports whether code that nobody can see may have put another portal in
// the place of p: the server closes some of them without a word, as behind
// ROLLBACK TO SAVEPOINT and COMMIT AND CHAIN, and so may the code. pending.mu is
// held.
func (x *exchange) reopened(p *portal) bool { return p != nil && x.opening > p.sequence }

// detailShifted says why rows are refused that no description is sure to fit.
const detailShifted = "what a portal runs by name may have changed since it was bound"

// rename notes that r may give a name another meaning: not the empty one, which
// no SQL can use. pending.mu is held.
func (x *exchange) rename(r *request) {
	if r.name != "" {
		x.renaming = r.sequence
	}
}

// shifted reports whether the rows of a portal may be other ones than its
// description says. That of an EXECUTE or a FETCH is made when it is bound, but
// the name is looked up when it runs, for the first time. pending.mu is held.
func (x *exchange) shifted(p *portal) bool {
	if p == nil {
		return true
	}
	return !p.started && x.renaming > p.sequence && p.byName()
}

// byName reports whether the portal may run what only a name tells.
func (p *portal) byName() bool {
	return len(p.sources) == 0 || slices.ContainsFunc(p.sources, func(s *prepared) bool {
		return s == nil || indirect(s.facts)
	})
}

// fetchesByName reports whether the statement fetches from a portal that runs
// what only a name tells: its description is no better there. pending.mu is held.
func (x *exchange) fetchesByName(s *statement.Statement) bool {
	for ; s != nil; s = s.Inner {
		if s.Fetches == "" {
			continue
		}
		for _, p := range x.portals.get(s.Fetches, x.pending.certain()) {
			if p == nil || p.byName() {
				return true
			}
		}
	}
	return false
}

// describeFirst asks what the rows of an Execute will be, if masks need that and
// it is not known.
func (x *exchange) describeFirst(r *request) error {
	x.pending.mu.Lock()
	about := r.portal
	if r.reopened {
		about = nil
	}
	r.result = x.known(about)
	if r.masks.Empty() || r.result != nil || x.describing(about) {
		x.pending.mu.Unlock()
		return nil
	}
	d := &request{kind: askDescribePortal, injected: true, next: r, portal: about}
	d.sequence = x.pending.take()
	pushed := x.pending.push(d)
	x.pending.mu.Unlock()
	if !pushed {
		return nil // the server ignores the Execute too
	}
	out, mark := wire.Begin(make([]byte, 0, 32), wire.Describe)
	out = append(append(append(out, 'P'), r.name...), 0)
	return x.send(wire.Finish(out, mark))
}

// known returns what a portal's rows are, if it was described: that is settled
// when it is bound. What was said of its statement is not relied upon, as each
// statement in between may change what names stand for without a word of it: it
// may read a view that calls a function. pending.mu is held.
func (x *exchange) known(p *portal) *result {
	if p == nil {
		return nil
	}
	return p.result
}

// indirect reports whether the statement's rows are those of something else that
// only a name tells: they may differ from one time to the next.
func indirect(s *statement.Statement) bool {
	if s == nil {
		return true
	}
	for ; s != nil; s = s.Inner {
		if s.Executes != "" || s.Fetches != "" {
			return true
		}
	}
	return false
}

// describing reports whether a Describe of the portal is on its way. pending.mu is
// held.
func (x *exchange) describing(p *portal) bool {
	if p == nil {
		return false
	}
	for i := len(x.pending.queue) - 1; i >= 0; i-- {
		switch r := x.pending.queue[i]; {
		case r.portal != p:
		case r.kind == askDescribePortal:
			return true
		case r.kind == askBind:
			return false // nothing in front of it can mean the portal
		}
	}
	return false
}

// describeOrClose passes a Describe or a Close on, and remembers what it is about.
func (x *exchange) describeOrClose(typ byte, raw []byte) error {
	kind, name, err := wire.DecodeTarget(raw[5:])
	if err != nil {
		return err
	}
	if err := x.identify(&name); err != nil {
		return err
	}
	r := x.postgres.requests.one(askClose)
	r.name, r.portals, r.masks = name, kind == 'P', x.masks()
	x.pending.mu.Lock()
	switch {
	case typ == wire.Close:
	case kind == 'P':
		r.kind = askDescribePortal
		var room [1]*portal
		if list := x.portals.list(room[:0], name, x.pending.certain()); len(list) == 1 {
			r.portal = list[0]
		}
	default:
		r.kind = askDescribeStatement
		if list := x.statements.get(name, x.pending.certain()); len(list) == 1 {
			r.prepared = list[0]
		}
	}
	r.sequence = x.pending.take()
	if x.pending.push(r) && r.kind == askClose {
		x.rename(r)
	}
	x.pending.mu.Unlock()
	return x.send(raw)
}

// functionFacts is what is known of a function that is called by its OID: not more
// than whether users have made it.
func functionFacts(oid uint32) *statement.Statement {
	effects := []string{verbFunctionCall}
	if oid >= catalog.FirstUserOID {
		effects = append(effects, statement.Opaque, statement.UserFunction)
	}
	return &statement.Statement{
		Verb: verbFunctionCall, Effects: effects,
		Objects: []statement.Object{{Kind: "function", Name: strconv.FormatUint(uint64(oid), 10)}},
	}
}

// headWriter keeps the beginning of a message that is dropped.
type headWriter struct{ head []byte }

// maxName bounds the name at the beginning of a message that is dropped.
const maxName = 4 << 10

func (w *headWriter) Write(p []byte) (int, error) {
	room := maxName - len(w.head)
	w.head = append(w.head, p[:min(room, len(p))]...)
	return len(p), nil
}

func (w *headWriter) name() (string, error) {
	body := w.head[min(5, len(w.head)):]
	i := bytes.IndexByte(body, 0)
	if i < 0 {
		return "", fmt.Errorf("decode name: %w", wire.ErrMalformed)
	}
	return string(body[:i]), nil
}
