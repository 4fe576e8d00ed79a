package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// exchange is one session after its login. The goroutine that runs downstream
// reads the agent and is the only one that writes to the target; the one that
// runs upstream reads the target and is the only one that writes to the agent.
type exchange struct {
	postgres *Postgres
	session  *protocol.Session
	target   net.Conn

	fromAgent, fromTarget *wire.Reader
	toAgent, toTarget     *wire.Writer
	pending               *pending
	clock                 *time.Timer             // runs until the agent got its first ReadyForQuery
	end                   context.CancelCauseFunc // ends the session
	lease                 *lease                  // of the message that downstream handles
	canceller             *cancelable             // nil if the target gave no key
	helpers               sync.WaitGroup          // what runs beside the two directions
	answered              chan struct{}           // closed when upstream has ended
	interrupted           chan error              // what interrupt returned
	// What follows is guarded by pending.mu.

	// held is the first ReadyForQuery, which the agent gets when the catalog is
	// known.
	held       []byte
	described  descriptions
	statements names[prepared]
	portals    names[portal]
	// renaming is the last message that may have given the name of a statement or
	// a portal another meaning.
	renaming uint64
	// opening is the last message that ran code which nobody can see: it may have
	// opened a portal of any name.
	opening uint64
	// ran are the statements that ended since the last ReadyForQuery.
	ran []*step
	// lexing is the last message that ran anything, 0 if the target has reported
	// its settings since: a view, a trigger or a rule may change how a text is
	// read without a word of it in the statement. unsafe says what it reported.
	lexing uint64
	unsafe map[string]string
	// storing and intent are what the session has told the others; see
	// [exchange.underway]. intent belongs to downstream.
	storing, intent bool
	// ownPath: the session may have a search path of its own.
	ownPath bool
	// code is what the session has defined and the catalog may not have.
	code ownCode
	acquaintance

	cut *cut // guarded by pending.mu
	// handed tells that the connection to the target is not the session's any more;
	// it is set when both directions have ended.
	handed  bool
	masker  masker           // belongs to upstream
	secrets *secrets         // belongs to upstream
	row     *request         // the request whose rows come; belongs to upstream
	tag     string           // the last one: mostly the next is the same; belongs to upstream
	asked   wire.BindMessage // the room of the last Bind; belongs to downstream
	stream  bool             // the agent got a part of a message; belongs to upstream
}

// sideError says which side broke the protocol or was lost.
type sideError struct {
	upstream bool
	err      error
}

func (e *sideError) Error() string {
	if e.upstream {
		return "upstream: " + e.err.Error()
	}
	return "downstream: " + e.err.Error()
}

func (e *sideError) Unwrap() error { return e.err }

func fromUpstream(err error) error   { return &sideError{upstream: true, err: err} }
func fromDownstream(err error) error { return &sideError{err: err} }

var (
	// errOver ends an exchange that ended in order.
	errOver = errors.New("session is over")
	// errLeft says that the agent sends nothing more.
	errLeft = errors.New("agent has left")
)

// partingPatience bounds how long the agent may take to read its last message.
const partingPatience = 5 * time.Second

// launch begins to relay what the target says. What the agent says is relayed by
// downstream, after which windUp has to be called. The end of ctx ends both.
func (x *exchange) launch(ctx context.Context) {
	x.interrupted = make(chan error, 1)
	context.AfterFunc(ctx, func() { x.interrupted <- x.interrupt() })
	x.answered = make(chan struct{})
	go func() {
		defer close(x.answered)
		x.end(protocol.Guard(func() error { return x.unfinished(x.upstream(ctx)) }))
	}()
}

// windUp is for when downstream has ended with err. It waits until the other
// direction has ended, too, and returns nil if that was in order: what the agent said
// before it left is still carried out, as a server would.
func (x *exchange) windUp(ctx context.Context, err error) error {
	defer x.depart()
	if !errors.Is(err, errLeft) {
		x.end(err)
	}
	<-x.answered
	return x.part(context.Cause(ctx), <-x.interrupted)
}

// depart leaves what sessions of a database share.
func (x *exchange) depart() {
	defer x.database.leave()
	x.gone()
}

// interrupt makes both directions end. The agent can still be told something.
func (x *exchange) interrupt() error {
	x.pending.end()
	expire(x.target)
	past := time.Unix(1, 0)
	return errors.Join(x.session.Downstream.SetReadDeadline(past), x.session.Downstream.SetWriteDeadline(time.Now().Add(partingPatience)))
}

// part is for when both directions have ended: it ends what still runs, and tells
// the agent why if it has to know and can still be told. first is what ended the
// session, and gone tells that the agent's connection was gone by then.
func (x *exchange) part(first, gone error) error {
	x.helpers.Wait()
	x.handed = x.hangUp()
	if errors.Is(first, errOver) {
		return nil
	}
	if !x.stream {
		x.sayGoodbye(first)
	}
	if gone != nil {
		x.session.Log.Debug().Err(gone).Msg("connection was gone before it was closed")
	}
	return first
}

func (x *exchange) sayGoodbye(err error) {
	raw := appendFatal(nil, goodbye(err, x.session.ID))
	if _, err := x.toAgent.Write(raw); err == nil {
		err = x.toAgent.Flush()
		if err != nil {
			x.session.Log.Debug().Err(err).Msg("agent did not read its last message")
		}
	}
}

// goodbye chooses the words for the end of a session.
func goodbye(err error, session string) refusal {
	var side *sideError
	var denial *protocol.Denial
	switch {
	case errors.As(err, &denial):
		return refusalOf(denial)
	case errors.Is(err, errSlowStart):
		return refusal{code: codeCanceled, message: "headgate: the session did not start in time", detail: "session " + session}
	case errors.Is(err, errNoMemory):
		return refusal{
			code: codeLimit, message: "headgate: too many large messages at the same time", detail: "session " + session,
			hint: "Try again later, or send the data in smaller parts or with COPY.",
		}
	case errors.Is(err, errSlowMessage):
		return refusal{code: codeLimit, message: "headgate: a large message took too long", detail: "session " + session}
	case errors.Is(err, catalog.ErrCatalog):
		return refusal{code: codePrivilege, message: "headgate: it can't be found out what has to be masked here", detail: "session " + session}
	case errors.Is(err, errUnsecured):
		return refusal{
			code: codeConnectionFailure, message: "headgate: TLS with the database failed", detail: "session " + session,
			hint: "Ask the operators of this host and quote the session.",
		}
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrTooLarge), errors.Is(err, errDesync):
		return refusal{code: codeProtocolViolation, message: "headgate: protocol violation", detail: "session " + session}
	case errors.As(err, &side) && side.upstream:
		return refusal{code: codeConnectionFailure, message: "headgate: the connection to the database was lost", detail: "session " + session}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refusal{code: codeProtocolViolation, message: "headgate: protocol violation", detail: "session " + session}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return refusal{code: codeAdminShutdown, message: "headgate: the session was ended", detail: "session " + session}
	default:
		return refusal{code: codeConnectionFailure, message: "headgate: internal error", detail: "session " + session}
	}
}

// masks returns what is masked now; nothing while only observing.
func (x *exchange) masks() *mask.Set {
	if x.session.Observe {
		return nil
	}
	if !x.shortcuts() {
		return x.session.Mask().Thorough()
	}
	return x.session.Mask()
}

// planFor returns what has to be done to the rows of r. pending.mu is held.
func (x *exchange) planFor(r *request) (*plan, error) {
	if r.result == nil || r.result.columns == nil {
		return nil, fmt.Errorf("%w: rows without a description", errDesync)
	}
	if !r.masks.HasColumns() {
		key := planKey{set: r.masks}
		if r.result.plan == nil || r.result.planned != key {
			r.result.plan = newPlan(r.masks, r.result.columns, func(*wire.Column) (mask.Action, bool) { return mask.Action{}, false })
			r.result.planned = key
		}
		return r.result.plan, nil
	}
	known := x.know(r.masks)
	key, certain := planKeyOf(r, &known)
	if certain && r.result.plan != nil && r.result.planned == key {
		return r.result.plan, nil
	}
	wanted := x.wants
	p := x.newPlan(r, &known)
	if certain && wanted == x.wants {
		r.result.plan, r.result.planned = p, key
	}
	return p, nil
}

// newPlan is planFor where columns are masked. pending.mu is held.
func (x *exchange) newPlan(r *request, known *knowledge) *plan {
	doubt := known.doubtful(r)
	mistaken := known.mistaken(r)
	shows, at := r.shows(), -1
	computed := doubt || x.mayReveal(shows, r.masks)
	return newPlan(r.masks, r.result.columns, func(c *wire.Column) (mask.Action, bool) {
		at++ // it is asked once for each, in their order
		if mistaken {
			return r.masks.Strictest(), true
		}
		if c.Table == 0 {
			return r.masks.Strictest(), computed && (doubt || x.mayReveal(shows.only(at, len(r.result.columns)), r.masks))
		}
		action, protected, there := known.Column(c.Table, c.Attribute)
		if !there {
			x.want()
		}
		if doubt && !protected && known.View(c.Table) {
			return r.masks.Strictest(), true
		}
		return action, protected
	})
}

// mayReveal reports whether a computed value of the step may carry protected
// data. pending.mu is held.
func (x *exchange) mayReveal(s *step, set *mask.Set) bool {
	known := x.know(set)
	for _, fact := range s.facts {
		if fact != nil && known.Lacks(fact) {
			x.want()
		}
		if obscure(fact) || known.Reveals(fact) {
			return true
		}
	}
	return known.doubt
}

// only returns the step with no other output than that of the number.
func (s *step) only(output, outputs int) *step {
	one := &step{facts: make([]*statement.Statement, len(s.facts))}
	for i, fact := range s.facts {
		one.facts[i] = fact.Only(output, outputs)
	}
	return one
}

// resolve adds the statements that running s may run to facts: s itself, and what
// it executes or fetches by name. pending.mu is held.
func (x *exchange) resolve(facts []*statement.Statement, s *statement.Statement) []*statement.Statement {
	facts = append(facts, s)
	for inner := s; inner != nil; inner = inner.Inner {
		if inner.Executes != "" {
			list := x.statements.get(inner.Executes, x.pending.certain())
			if len(list) == 0 {
				facts = append(facts, nil)
			}
			for _, p := range list {
				facts = append(facts, p.known())
			}
		}
		if inner.Fetches != "" {
			facts = append(facts, x.fetched(inner.Fetches)...)
		}
	}
	return facts
}

// fetched returns what a cursor may be of. One that nobody declared was opened
// by a function: it is not known what it shows, but it was judged when the
// function was called.
func (x *exchange) fetched(name string) []*statement.Statement {
	list := x.portals.get(name, x.pending.certain())
	if len(list) == 0 {
		return []*statement.Statement{unseen()}
	}
	var facts []*statement.Statement
	for _, p := range list {
		facts = append(facts, p.facts()...)
	}
	return facts
}

// unseen stands for a query that ran inside a function.
func unseen() *statement.Statement {
	return &statement.Statement{Verb: statement.Fetch, Effects: []string{statement.Fetch, statement.Opaque}}
}

// lexer returns why a text can't be read for sure, or "". pending.mu is held.
func (x *exchange) lexer(text []byte) string {
	for name, value := range x.unsafe {
		return name + " is " + value
	}
	if x.lexing != 0 && ambiguous(text) {
		return "a statement before it, not answered yet, may have changed how it is read"
	}
	return ""
}

// status notes a setting that the target reported. pending.mu is held.
func (x *exchange) status(name, value string) {
	var safe bool
	switch name {
	case "standard_conforming_strings":
		safe = value == "on"
	case "client_encoding":
		safe = safeEncoding(value)
	default:
		return
	}
	if safe {
		delete(x.unsafe, name)
		return
	}
	if x.unsafe == nil {
		x.unsafe = make(map[string]string)
	}
	x.unsafe[name] = strings.ToValidUTF8(value, "?")
}

// safeEncoding reports whether a client encoding reads ASCII as ASCII everywhere
// and UTF-8 as UTF-8.
func safeEncoding(name string) bool {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		default:
			return -1
		}
	}, name)
	return plain == "utf8" || plain == "unicode" || plain == "sqlascii"
}
