package postgres

import (
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// A statement that stores or weighs what it reads is judged by what its relations
// show, and may wait for a lock then: a definition that comes meanwhile would make
// it read something else. So a session says that it is about to store before it
// looks for doubts, and one that defines something puts everybody in doubt before
// it looks for who stores: one of the two always sees the other.

// detailUnderway says why a definition is refused.
const detailUnderway = "statements of other sessions, which read what it may change, are under way"

// retryUnderway is when it may be tried again.
const retryUnderway = time.Second

// storing notes a session that is about to store or to weigh what it reads.
func (db *database) storing() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.storers++
}

// stored is the end of storing.
func (db *database) stored() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.storers--
}

// intend puts all sessions in doubt until [database.decided], and returns how many
// are storing.
func (db *database) intend() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.intents++
	return db.storers
}

// decided is the end of an intention: what was defined is noted as such, or it
// was refused.
func (db *database) decided() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.intents--
}

// underway notes what is about to run: in front of a look at the catalog.
func (x *exchange) underway(facts []*statement.Statement, set *mask.Set) {
	if set.NoCopies() == nil && set.NoPredicates() == nil {
		return
	}
	reads := slices.ContainsFunc(facts, func(fact *statement.Statement) bool {
		return set.NoCopies() != nil && fact.MayCopy(anyColumn) || set.NoPredicates() != nil && fact.MayInfer(anyColumn)
	})
	if !reads {
		return
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	if !x.storing {
		x.storing = true
		x.database.storing()
	}
}

// settled ends that when everything was answered. pending.mu is held.
func (x *exchange) settled() {
	if x.storing && !x.pending.waits() {
		x.storing = false
		x.database.stored()
	}
}

// collides returns the refusal of a definition that could change what others are
// about to store; nil if it is none, or if nobody is. It ends with
// [exchange.resolved], when the definition is noted.
func (x *exchange) collides(facts []*statement.Statement, set *mask.Set) *protocol.Denial {
	if set.NoCopies() == nil && set.NoPredicates() == nil || !slices.ContainsFunc(facts, mayPublish) {
		return nil
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	if !slices.ContainsFunc(facts, x.publishes) {
		return nil
	}
	if !x.intent {
		x.intent = true
		others := x.database.intend()
		if x.storing {
			others--
		}
		if others > 0 {
			return &protocol.Denial{Rule: "default", Reason: protocol.ReasonMask, Detail: detailUnderway, Retry: retryUnderway}
		}
	}
	return nil
}

// mayPublish reports whether a statement is of the kind of those that publish.
func mayPublish(fact *statement.Statement) bool {
	return fact != nil && (fact.Transaction != "" || fact.Does(statement.DDL) || fact.Does(statement.DCL))
}

// publishes reports whether a statement changes for others what relations are made
// of, by its own words: now, or by the end of a transaction that has. pending.mu is
// held.
func (x *exchange) publishes(fact *statement.Statement) bool {
	prepared := fact != nil && fact.Transaction == "commit_prepared" // whatever is in it
	defines := fact != nil && (fact.Does(statement.DDL) || fact.Does(statement.DCL)) && redefines(fact)
	return prepared || defines || fact != nil && fact.Transaction != "" && ends(fact) && (x.uncommitted || x.changing != 0)
}

// resolved ends the intention to define something. It is for downstream.
func (x *exchange) resolved() {
	if x.intent {
		x.intent = false
		x.database.decided()
	}
}

// gone takes back what the session had said to others.
func (x *exchange) gone() {
	x.resolved()
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	if x.storing {
		x.storing = false
		x.database.stored()
	}
}
