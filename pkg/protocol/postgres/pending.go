package postgres

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// fewRequests is how many requests an agent sends that waits for their answers:
// those of one statement of the extended protocol, and one of ours.
const fewRequests = 8

// errDesync means that the server answered something that was not asked: what it
// sent cannot be attributed, so it cannot be masked.
var errDesync = errors.New("answer does not belong to any request")

// maxPending bounds what was sent and not answered. A server buffers far fewer
// answers than this before it has to send them.
const maxPending = 8192

// kind tells what a request is, by what will answer it.
type kind uint8

const (
	askQuery kind = iota + 1
	askFunction
	askSync
	askCopyEnd // CopyDone or CopyFail: never answered by itself
	askParse
	askBind
	askDescribeStatement
	askDescribePortal
	askExecute
	askClose
)

// extended reports whether an error makes the server skip to the next Sync.
func (k kind) extended() bool { return k >= askParse }

// request is one message that was sent upstream and is going to be answered.
// Once pushed it belongs to the direction that reads answers, except for the
// fields that the exchange's lock guards.
type request struct {
	kind     kind
	sequence uint64
	// injected is ours: the agent must not see its answer.
	injected bool
	// maybe marks a Sync that a running COPY may have swallowed.
	maybe bool
	// copies: the server reads CopyData for it.
	copies bool
	// partial: what is asked about it does not have all parameters.
	partial bool
	// denial is set if poison was sent instead; its error quotes token.
	denial *protocol.Denial
	token  string

	name    string   // Parse, Bind, Describe, Close: the name
	portals bool     // Close: the name of a portal, not of a statement
	portal  *portal  // Bind, Describe of a portal, Execute: what it may denote, if that is only one
	next    *request // injected: the Execute that needs it, or that this one ends
	copy    *copyOut // Execute: the COPY that it is, if its data is masked

	// given is what the agent got of the same portal before, and candidates are
	// all that an Execute may run.
	given      protocol.Volume
	candidates []*portal
	// reopened tells that another portal may have got the name, so that what is
	// known of the portal is not relied upon.
	reopened bool
	// changes are those of the database when it was sent, or when the cursor that
	// it shows was opened.
	changes uint64

	// returned: a FunctionCall has its result, and may still fail when it is committed.
	// It belongs to upstream.
	returned bool

	steps   []*step // what runs: each statement of a Query; one otherwise
	at      int     // the step that runs
	masks   *mask.Set
	result  *result // the rows that come now
	running *step   // the step that they belong to
	plan    *plan   // what is done to them, once asked for
	sieve   *sieve  // where secrets are looked for in them

	prepared *prepared // the statement that a Describe is about, if it can be only one
	whole    *single   // what it is a part of; nil if it runs nothing
}

// step is one operation inside a request, and what came of it.
type step struct {
	op     string
	ruling protocol.Ruling
	asked  policy.Operation       // what it is about
	cut    bool                   // nothing more of its result is wanted; belongs to upstream
	facts  []*statement.Statement // nil entries are unknown
	text   *statement.Statement   // the SQL statement itself; nil unless it is one
	form   *statement.Statement   // stands for all that are like text; nil if that is not known
	tally  tally
	known  *sqlFacts // for conditions; nil unless one asks
	// outcome is how it ended, for the record.
	outcome protocol.Outcome
}

// step returns what runs now; a server that does more than was asked gets one
// about which nothing is known.
func (r *request) step() *step {
	if r.at < len(r.steps) {
		return r.steps[r.at]
	}
	return &step{facts: []*statement.Statement{nil}}
}

// shows returns what the rows of r are of: of a COPY the query in it, which alone
// has computed columns.
func (r *request) shows() *step {
	if r.copy != nil && r.copy.facts.Facts != nil {
		return &step{facts: []*statement.Statement{r.copy.facts.Facts}}
	}
	return r.step()
}

// pending is the queue of what was sent and not answered, together with what the
// server is known to be doing. Both directions use it; mu guards all of it.
type pending struct {
	mu    sync.Mutex
	room  sync.Cond
	queue []*request
	few   [fewRequests]*request // holds the queue from when it was empty until there are more
	// done are requests that left the queue since it was empty, as many as there is
	// room for.
	done     [fewRequests]*request
	answered int
	sequence uint64
	// pushed counts what was pushed, and roomy is up to which count there is sure to
	// be room. Only downstream writes them; it reads them without mu.
	pushed, roomy uint64
	// boundary is the last message in front of which an error may be forgotten:
	// if one behind it fails, the server skips all that follow up to now.
	boundary uint64
	// queries counts the Queries that are not answered.
	queries int
	ended   bool

	// skip: the server ignores everything up to the next Sync.
	skip bool
	// open: messages of the extended protocol have been sent and no Sync behind
	// them. Which transaction what follows runs in is up to the server's version.
	open bool
	// copying: the server reads CopyData, and swallows a Sync.
	copying bool
	// owed: one more Sync may turn out to have been swallowed.
	owed bool
	// transaction is the state in the last ReadyForQuery.
	transaction byte
	// idle: outside a transaction, all answered, and nothing sent since.
	idle bool
	// fatal: the server said that it is going to close the connection.
	fatal bool
	// left: the agent sends nothing more.
	left bool
	// held: nothing may be sent now.
	held bool
}

func newPending() *pending {
	p := &pending{}
	p.room.L = &p.mu
	return p
}

// take returns the next number of the order in which things are sent. It waits
// while that is held. What is known of names may change meanwhile, but only by
// answers, which leave fewer things that one may denote. mu is held.
func (p *pending) take() uint64 {
	for p.held && !p.ended {
		p.room.Wait()
	}
	p.sequence++
	return p.sequence
}

// certain returns the message behind which every definition is carried out, or
// makes the server skip what uses it. A Query that copies in may swallow a
// definition instead, without that: servers before version 14 fail the COPY and
// go on behind it. mu is held.
func (p *pending) certain() uint64 {
	if p.queries > 0 {
		return math.MaxUint64
	}
	return p.boundary
}

// full reports whether push would have to wait. It is for downstream alone.
func (p *pending) full() bool {
	if p.pushed < p.roomy {
		return false // what was answered since has only made more room
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roomy = p.pushed + uint64(max(0, maxPending-len(p.queue)))
	return p.pushed >= p.roomy
}

// wait waits until there is room, or the session has ended.
func (p *pending) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) >= maxPending && !p.ended {
		p.room.Wait()
	}
}

// end wakes whoever waits for room.
func (p *pending) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.room.Broadcast()
}

// hold lets nothing be sent until release. mu is held.
func (p *pending) hold() { p.held = true }

func (p *pending) release() {
	p.held = false
	p.room.Broadcast()
}

// lastWord reports whether an error in the first request makes the server ignore
// everything that was sent behind it. mu is held.
func (p *pending) lastWord() bool {
	for i, r := range p.queue {
		switch {
		case i == 0 && r.kind == askQuery, i == 0 && r.kind == askExecute:
		case !p.queue[0].kind.extended():
			return false
		case r.kind == askSync:
			return i == len(p.queue)-1 && !r.maybe
		case !r.kind.extended():
			return false
		}
	}
	return len(p.queue) > 0
}

// push notes that r is going to be sent. It returns false if the server is going
// to ignore r. It is for downstream alone. mu is held.
func (p *pending) push(r *request) bool {
	p.idle = false
	if !r.kind.extended() {
		p.boundary = r.sequence
	}
	switch r.kind {
	case askSync:
		p.skip = false
		r.maybe = p.copying || p.owed
		p.owed = false
	case askCopyEnd:
		p.copying = false
		if len(p.queue) == 0 {
			return false
		}
	default:
		if p.skip {
			return false
		}
	}
	if r.kind == askQuery {
		p.queries++
	}
	p.open = p.open && r.kind != askSync || r.kind.extended()
	if len(p.queue) == 0 {
		p.queue = p.few[:0]
	}
	p.queue = append(p.queue, r)
	p.pushed++
	return true
}

// head returns the request that an answer of that type belongs to. mu is held.
func (p *pending) head(typ byte) (*request, error) {
	for len(p.queue) > 0 {
		r := p.queue[0]
		switch {
		case r.kind == askCopyEnd:
			p.pop()
		case answers(r.kind, typ):
			return r, nil
		case r.maybe:
			p.pop()
		default:
			return nil, fmt.Errorf("%w: %s", errDesync, wire.Name(typ))
		}
	}
	return nil, fmt.Errorf("%w: %s", errDesync, wire.Name(typ))
}

// first returns the request that an error belongs to, nil if there is none. mu is
// held.
func (p *pending) first() *request {
	for len(p.queue) > 0 && p.queue[0].kind == askCopyEnd {
		p.pop()
	}
	if len(p.queue) == 0 {
		return nil
	}
	return p.queue[0]
}

// pop removes the first request. mu is held.
func (p *pending) pop() {
	if p.queue[0].kind == askQuery {
		p.queries--
	}
	if p.answered < len(p.done) {
		p.done[p.answered] = p.queue[0]
		p.answered++
	}
	p.queue[0] = nil
	p.queue = p.queue[1:]
	if len(p.queue) == 0 {
		p.queue = nil
	}
	p.room.Broadcast()
}

// fail applies an error in the first request: after one in the extended protocol
// the server ignores everything up to the next Sync. It calls dropped for each
// request that will never be answered, the failed one included. mu is held.
func (p *pending) fail(dropped func(*request)) {
	p.copying = false
	if r := p.first(); r == nil || !r.kind.extended() {
		return
	}
	for len(p.queue) > 0 && p.queue[0].kind != askSync {
		dropped(p.queue[0])
		p.pop()
	}
	p.skip = !slices.ContainsFunc(p.queue, func(r *request) bool { return r.kind == askSync && !r.maybe })
}

// copyIn notes that the first request makes the server read CopyData: a Sync in
// front of the end of the data is swallowed, unless the COPY fails before the
// server reads it. mu is held.
func (p *pending) copyIn() {
	for _, r := range p.queue {
		if r.kind == askCopyEnd {
			return
		}
		if r.kind == askSync {
			r.maybe = true
		}
	}
	p.copying = true
	p.room.Broadcast()
}

// quiet reports whether everything that was sent has been answered. mu is held.
func (p *pending) quiet() bool {
	return !slices.ContainsFunc(p.queue, func(r *request) bool { return r.kind != askCopyEnd })
}

// settle waits until everything that was sent has been answered, or the session
// has ended. It returns false where that can't be waited for: a Sync may have been
// swallowed, or is going to be.
func (p *pending) settle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.copying || p.owed || slices.ContainsFunc(p.queue, func(r *request) bool { return r.maybe }):
			return false
		case p.quiet() || p.ended:
			return true
		}
		p.room.Wait()
	}
}

// copiedIn notes that the COPY of r, the first request, has succeeded: the server
// read the end of the data, so it swallowed every Sync in front of that. Nothing
// else can be there, as it would have failed the COPY. mu is held.
func (p *pending) copiedIn(r *request) error {
	for i, q := range p.queue {
		switch {
		case q == r:
		case q.kind == askSync:
		case q.kind == askCopyEnd:
			p.queue = slices.Delete(p.queue, 1, i+1)
			p.copying = false
			p.room.Broadcast()
			return nil
		default:
			return fmt.Errorf("%w: end of a COPY", errDesync)
		}
	}
	return fmt.Errorf("%w: end of a COPY", errDesync)
}

// doubtful reports whether an error may belong to a Sync that may have been
// swallowed, or to what was sent behind it. mu is held.
func (p *pending) doubtful() bool {
	r := p.first()
	return r != nil && r.maybe && slices.ContainsFunc(p.queue, func(q *request) bool {
		return q.kind != askSync && q.kind != askCopyEnd
	})
}

// ready applies a ReadyForQuery that answers the first request. mu is held.
func (p *pending) ready(state byte) {
	r := p.queue[0]
	p.pop()
	p.skip, p.copying, p.transaction = false, false, state
	p.open = p.open && (state != 'I' || slices.ContainsFunc(p.queue, func(r *request) bool { return r.kind.extended() }))
	if r.maybe {
		p.owe()
	}
	p.idle = state == 'I' && !p.waits()
}

// waits reports whether something that was sent may still be answered. mu is held.
func (p *pending) waits() bool {
	return slices.ContainsFunc(p.queue, func(r *request) bool { return !r.maybe && r.kind != askCopyEnd })
}

// owe passes the doubt on: either this Sync was swallowed or the next one is
// still to be answered.
func (p *pending) owe() {
	for _, r := range p.queue {
		if r.kind == askSync {
			r.maybe = true
			return
		}
	}
	p.owed = true
}

// answers reports whether a message of type typ may answer a request of kind k.
func answers(k kind, typ byte) bool {
	switch typ {
	case wire.ParseComplete:
		return k == askParse
	case wire.BindComplete:
		return k == askBind
	case wire.CloseComplete:
		return k == askClose
	case wire.ParameterDescription:
		return k == askDescribeStatement
	case wire.NoData:
		return k == askDescribeStatement || k == askDescribePortal
	case wire.RowDescription:
		return k == askDescribeStatement || k == askDescribePortal || k == askQuery
	case wire.PortalSuspended:
		return k == askExecute
	case wire.DataRow, wire.CommandComplete, wire.EmptyQueryResponse,
		wire.CopyInResponse, wire.CopyOutResponse, wire.CopyData, wire.CopyDone:
		return k == askExecute || k == askQuery
	case wire.FunctionCallResponse:
		return k == askFunction
	case wire.ReadyForQuery:
		return k == askQuery || k == askFunction || k == askSync
	default:
		return false
	}
}
