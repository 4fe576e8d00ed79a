package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// maxLoads bounds how often a load is waited for again: it may be cancelled, and
// may be out of date when it is there.
const maxLoads = 3

// patience bounds how long a message of the agent waits for a catalog. Behind that
// it is relayed, and what is in doubt is protected.
const patience = 3 * time.Second

// errImpatient means that a load took longer than a message waits for it.
var errImpatient = errors.New("catalog was not there in time")

// acquaintance is what a session knows of its database. It is guarded by
// pending.mu, where not said otherwise.
type acquaintance struct {
	database *database // never changes
	entry    *entry    // never changes
	// load loads the catalog on a connection of our own; nil where there is no
	// credential to log in with. The session asks on its own then, while it is
	// idle, and entry belongs to it alone.
	load loader
	// ending is the last request that may end a transaction; 0 if there is none that
	// is not answered.
	ending uint64
	// changing is the last request that may define something and may commit it; 0
	// if there is none that is not answered.
	changing uint64
	// adding is the same for those that only add to what there is.
	adding uint64
	// uncommitted: the open transaction may have defined something, which is
	// nobody else's yet; added: it may have added something.
	uncommitted, added bool
	// leading: what is added leads from one relation to another.
	leading bool
	// ended: the target has closed the connection, so it does nothing more.
	ended   bool
	loading *loading // the load on the session's own connection
	slow    *flight  // a load that is not waited for again; belongs to downstream
	wants   uint64   // how often something was missed
}

// knowledge is what a mask set means at one moment.
type knowledge struct {
	*catalog.Shield
	// doubt: a view may show something else by now, and a name may be that of
	// something else.
	doubt bool
	// moving: another session may have given names another meaning since the
	// catalog was read, or may at any moment.
	moving bool
	// changes are those up to now; see [database].
	changes uint64
	// number is that of the shield: another catalog or another set has another one.
	number uint64
	// shapes: a statement in front of this one may have taken columns from relations.
	shapes bool
	// behind: something was added that the catalog does not have, and that leads from
	// one relation to another.
	behind bool
}

// know returns what the set means now. pending.mu is held.
func (x *exchange) know(set *mask.Set) knowledge {
	v := x.entry.look(set)
	return knowledge{v.shield(set), v.doubt || x.changing != 0 || x.uncommitted, v.doubt, v.changes, v.shields.number, x.code.shapes, v.behind || x.leading || x.code.leads}
}

// doubtful reports whether what r shows may be something else than is known now:
// it was sent before a change. pending.mu is held.
func (k *knowledge) doubtful(r *request) bool { return k.doubt || r.changes != k.changes }

// mistaken reports whether the rows of r may be those of other relations than their
// description says: that is older than the run of what resolves names only then,
// a COPY or an EXECUTE, and a name has got another meaning in between. No lock
// keeps somebody from creating a relation that is found first. pending.mu is held.
func (k *knowledge) mistaken(r *request) bool {
	later := r.copy != nil || r.kind == askExecute && (r.portal == nil || r.portal.byName())
	return later && (k.moving || r.changes != k.changes)
}

// consulting reports whether the catalog has to be up to date for a message of that
// type: for what is judged, and for an Execute, which shows rows. A session that
// loads on its own connection can do that only while the target is idle, so that
// any message may be the one in front of which it has to.
func (x *exchange) consulting(typ byte) bool {
	switch typ {
	case wire.Query, wire.Parse, wire.Execute, wire.FunctionCall:
		return true
	default:
		return x.load == nil
	}
}

// settle brings the catalog up to date before a message that it decides about, if
// that is needed. What can't be brought up to date stays protected.
func (x *exchange) settle(ctx context.Context) error {
	set := x.masks()
	if !x.consults(set) {
		return nil
	}
	if x.load == nil {
		if x.entry.failure() != nil && !set.HasColumns() {
			return nil // once is enough: what is unknown is refused
		}
		return x.tolerate(x.settleAlone(ctx), set)
	}
	for range maxLoads {
		f := x.entry.fetch(ctx, x.load)
		if f == nil || f == x.slow || x.pointless() {
			return nil
		}
		ctx, cancel := context.WithTimeoutCause(ctx, patience, errImpatient)
		err := f.wait(ctx)
		cancel()
		switch {
		case errors.Is(err, catalog.ErrCatalog), errors.Is(err, errImpatient):
			x.slow = f
			x.session.Log.Warn().Err(err).Msg("catalog is in doubt: masks are at their strictest until it was loaded")
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// pointless reports whether the session's transaction has definitions of its own,
// which no load can show.
func (x *exchange) pointless() bool {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	return x.changing != 0 || x.uncommitted
}

// want asks for a new catalog, as something is not in this one, unless that is
// the transaction's own. pending.mu is held.
func (x *exchange) want() {
	x.wants++
	if x.changing == 0 && !x.uncommitted && x.adding == 0 && !x.added {
		x.entry.want()
	}
}

// defines notes what the statements of a request that is going to run may define.
// pending.mu is held.
func (x *exchange) defines(facts []*statement.Statement, sequence uint64) {
	changes := false
	for _, fact := range facts {
		switch {
		case ends(fact):
			x.ending = sequence
			changes = changes || x.uncommitted || x.changing != 0 || redefines(fact)
		case redefines(fact):
			changes = true
		case fact.Adds:
			x.adding, x.leading = sequence, x.leading || fact.Reach.Leads
		}
	}
	switch {
	case !changes:
	case x.changing == 0 && x.pending.transaction == 'T' && x.ending == 0:
		x.uncommitted = true // it stays in a transaction that nothing may have ended
	default:
		if x.changing == 0 {
			x.database.opened()
		}
		x.changing = sequence
	}
}

// defined takes a ReadyForQuery: what was sent up to a request is done, and
// committed if no transaction is open. pending.mu is held.
func (x *exchange) defined(sequence uint64, state byte) {
	idle := state == 'I'
	if x.ending <= sequence {
		x.ending = 0
	}
	switch {
	case x.changing != 0 && x.changing <= sequence:
		x.changing, x.uncommitted = 0, !idle
		x.database.closed()
	case idle && x.uncommitted && x.changing == 0:
		x.uncommitted = false
		x.database.opened()
		x.database.closed()
	}
	if x.adding != 0 && x.adding <= sequence {
		x.adding, x.added = 0, true
	}
	if idle && x.added && x.adding == 0 {
		x.added = false
		if x.leading {
			x.leading = false
			x.database.added()
		}
		x.entry.want()
	}
}

// since returns the number of changes up to which what r shows is sure to be what
// was known: a cursor shows what was there when it was opened. pending.mu is held.
func (x *exchange) since(r *request) uint64 {
	seen := x.database.seen()
	for _, s := range r.steps {
		for _, fact := range s.facts {
			if fact == nil || fact.Fetches == "" {
				continue
			}
			for _, p := range x.portals.get(fact.Fetches, x.pending.certain()) {
				if p != nil {
					seen = min(seen, p.changes)
				}
			}
		}
	}
	if r.portal != nil {
		seen = min(seen, r.portal.changes)
	}
	return seen
}

// welcome lets the agent in if that needs nothing of the agent's own connection.
// Where a catalog was loaded already it waits for nothing.
func (x *exchange) welcome(ctx context.Context) error {
	if set := x.masks(); x.consults(set) {
		if x.load == nil {
			return nil
		}
		if err := x.tolerate(x.entry.await(ctx, x.load), set); err != nil {
			return err
		}
	}
	return x.admit()
}

// begin lets the agent in, once it is known what has to be masked.
func (x *exchange) begin(ctx context.Context) error {
	if x.load == nil {
		if err := x.settle(ctx); err != nil {
			return err
		}
	}
	return x.admit()
}

// admit sends the first ReadyForQuery, if that has not been done.
func (x *exchange) admit() error {
	x.pending.mu.Lock()
	held := x.held
	x.held = nil
	x.pending.mu.Unlock()
	if held == nil {
		return nil
	}
	if !x.clock.Stop() {
		return errSlowStart
	}
	if err := x.tell(held); err != nil {
		return err
	}
	if err := x.toAgent.Flush(); err != nil {
		return fromDownstream(fmt.Errorf("write message: %w", err))
	}
	return nil
}
