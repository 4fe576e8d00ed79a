package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// opening is a session up to the end of its login.
type opening struct {
	entrance
	postgres  *Postgres
	target    net.Conn
	encrypted bool // whether TLS is spoken with the target
	unbound   bool // whether the target's offer to bind the login to TLS was withheld

	fromAgent, fromTarget *wire.Reader
	toAgent, toTarget     *wire.Writer
	version               uint32      // of the protocol, on both sides
	canceller             *cancelable // what CancelRequests of ours need; nil if the target gave no key
	sides                 sides
	end                   context.CancelCauseFunc // ends the session
	letGo                 func() bool             // takes the sides out of the session's context
	clock                 *time.Timer             // runs until the session has started
	status                [][2]string             // settings that the target reported
	database              string                  // as the target knows it
	injected              bool                    // whether the login was ours
	secrets               *secrets
	admitted              bool // the agent knows the placeholder, or there is none
}

// errSlowStart means that a session did not come to its first ReadyForQuery in
// time.
var errSlowStart = errors.New("session did not start in time")

// Serve speaks the protocol until the session is over. It waits in here for as long
// as nobody says anything, so what only the beginning needs is on a stack that
// [opening.start] has left by then.
func (p *Postgres) Serve(ctx context.Context, s *protocol.Session) error {
	ctx, o := p.open(ctx, s)
	defer o.close()
	x, err := o.start(ctx)
	if x != nil {
		err = x.windUp(ctx, x.downstream(ctx))
		if x.handed {
			o.target = nil
		}
	}
	o.leave()
	return err
}

// open begins a session, and returns the context that ends with it. The caller closes
// it.
func (p *Postgres) open(ctx context.Context, s *protocol.Session) (context.Context, *opening) {
	ctx, end := context.WithCancelCause(ctx)
	o := &opening{postgres: p, entrance: entrance{session: s}, end: end}
	o.clock = time.AfterFunc(p.options.StartupTimeout, func() { end(errSlowStart) })
	o.sides.add(s.Downstream)
	o.letGo = context.AfterFunc(ctx, o.sides.interrupt)
	return ctx, o
}

// start brings a session to its first ReadyForQuery, and begins to relay what the
// target says. The caller relays what the agent says, and winds up the exchange.
// Where there is nothing to exchange the result is nil, and the error says how the
// session ended.
func (o *opening) start(ctx context.Context) (*exchange, error) {
	start, err := o.negotiate(ctx)
	if err != nil || start == nil {
		return nil, o.ended(ctx, err)
	}
	held, err := o.login(ctx, start)
	if err != nil {
		return nil, o.ended(ctx, err)
	}
	x := o.exchange(held)
	x.ownPath = choosesPath(start)
	started := false
	defer func() {
		if !started {
			x.depart()
		}
	}()
	if err := x.welcome(ctx); err != nil {
		return nil, o.ended(ctx, err)
	}
	if !o.sides.release() {
		return nil, o.ended(ctx, context.Cause(ctx))
	}
	o.letGo()
	started = true
	x.launch(ctx)
	return x, nil
}

func (o *opening) exchange(held []byte) *exchange {
	x := &exchange{
		postgres: o.postgres, session: o.session, target: o.target, end: o.end,
		fromAgent: o.fromAgent, fromTarget: o.fromTarget, toAgent: o.toAgent, toTarget: o.toTarget,
		secrets: o.secrets, pending: newPending(), held: held, clock: o.clock, acquaintance: o.acquaint(), canceller: o.canceller,
	}
	x.pending.idle, x.pending.transaction = true, 'I'
	for _, s := range o.status {
		x.status(s[0], s[1])
	}
	o.status = nil
	o.fromAgent.SetLimits(agentLimits)
	o.fromTarget.SetLimits(targetLimits)
	return x
}

// acquaint finds what is known of the database already.
func (o *opening) acquaint() acquaintance {
	origin, resource := &o.session.Downstream.Origin, &o.session.Resource
	a := acquaintance{database: o.postgres.known.enter(newPlace(origin.Target, origin.Netns, o.database))}
	if !o.injected {
		a.entry = newEntry(a.database, aloneBurst)
		return a
	}
	a.entry = a.database.entry(account{resource.Name, resource.Credential, o.database})
	a.load = ownLoader(o.session, o.database)
	return a
}

// ended tells the agent why there is no session, if it has not been told.
func (o *opening) ended(ctx context.Context, err error) error {
	o.sides.release() // what the agent is told now has a deadline of its own
	if err == nil || errors.Is(err, errOver) {
		return nil
	}
	cause := context.Cause(ctx)
	var told *toldError
	if errors.As(err, &told) {
		if cause != nil {
			return fmt.Errorf("%w: %w", cause, told.err)
		}
		return told.err
	}
	if cause != nil {
		err = cause
	}
	o.refuse(goodbye(err, o.session.ID))
	return err
}

// toldError is an error of which the agent knows already.
type toldError struct{ err error }

func (e *toldError) Error() string { return e.err.Error() }
func (e *toldError) Unwrap() error { return e.err }

// refuse sends a last message.
func (o *opening) refuse(r refusal) {
	deadline := time.Now().Add(partingPatience)
	err := o.session.Downstream.SetWriteDeadline(deadline)
	if err == nil {
		_, err = o.session.Downstream.Write(appendFatal(nil, r))
	}
	if err != nil {
		o.session.Log.Debug().Err(err).Msg("agent did not read its last message")
	}
}

// tellDenial refuses the session for a denial, which is also the error.
func (o *opening) tellDenial(d *protocol.Denial, code string) error {
	r := refusalOf(d)
	r.code = code
	o.refuse(r)
	return &toldError{fmt.Errorf("start session: %w", d)}
}

func (o *opening) close() {
	defer o.end(nil)
	o.letGo()
	o.clock.Stop()
	if o.canceller != nil {
		o.postgres.cancels.remove(o.canceller)
	}
	if o.target == nil {
		return
	}
	if err := o.target.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		o.session.Log.Debug().Err(err).Msg("upstream connection was gone before it was closed")
	}
}

// Refuse reads the agent's start-up packets, speaks TLS if that is asked for, so
// that the agent can read why, and answers with an error that ends the session.
func (p *Postgres) Refuse(ctx context.Context, s *protocol.Session, d *protocol.Denial) error {
	deadline := time.Now().Add(partingPatience)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	if err := s.Downstream.SetDeadline(deadline); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	defer context.AfterFunc(ctx, func() { expire(s.Downstream) })()
	e := &entrance{session: s}
	start, err := e.ask(ctx)
	if err != nil {
		return fmt.Errorf("refuse session: %w", err)
	}
	if start.Code == wire.CancelCode { // never answered
		return s.Downstream.Close()
	}
	if _, err := e.session.Downstream.Write(appendFatal(nil, refusalOf(d))); err != nil {
		return fmt.Errorf("refuse session: %w", err)
	}
	e.leave()
	return nil
}
