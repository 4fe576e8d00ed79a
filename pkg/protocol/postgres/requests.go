package postgres

import (
	"sync"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// single is a request that runs one statement, as nearly all do, with its step in
// the same piece of memory.
type single struct {
	request
	only  step
	steps [1]*step
	facts [1]*statement.Statement
	// candidate is what an Execute may run, where that is one.
	candidate [1]*portal
	// text is room for the facts of a Query's text, where no others share them.
	text [1]statement.Statement
}

// requests are those that nobody holds any more: an agent makes several for each
// statement, and a session that waits for its agent needs none. Safe for concurrent
// use.
type requests struct{ singles, plain sync.Pool }

// single returns a request with one step, whose list of facts is empty and has room
// for one.
func (q *requests) single(k kind, set *mask.Set) (*request, *step) {
	n, ok := q.singles.Get().(*single)
	if !ok {
		n = new(single)
	}
	n.kind, n.masks, n.whole = k, set, n
	n.only.facts, n.candidates = n.facts[:0], n.candidate[:0]
	n.steps[0] = &n.only
	n.request.steps = n.steps[:]
	return &n.request, &n.only
}

// one returns a request that runs nothing.
func (q *requests) one(k kind) *request {
	r, ok := q.plain.Get().(*request)
	if !ok {
		r = new(request)
	}
	r.kind = k
	return r
}

// put takes a request back that nobody holds, unless something that outlives it may
// point into it.
func (q *requests) put(r *request) {
	if r.injected || r.maybe || r.copies || r.returned || r.denial != nil || r.next != nil || r.copy != nil {
		return // rare, and others know of it
	}
	for _, s := range r.steps {
		if s.ruling.Spend != nil {
			return // it knows the operation
		}
	}
	if n := r.whole; n != nil {
		*n = single{}
		q.singles.Put(n)
		return
	}
	*r = request{}
	q.plain.Put(r)
}

// recycle takes back the requests that were answered, when no other waits: neither
// direction holds one then. pending.mu is held.
func (x *exchange) recycle() {
	p := x.pending
	if len(p.queue) > 0 || x.cut != nil {
		return
	}
	x.masker.tally = nil // it was in one of them
	for _, r := range p.done[:p.answered] {
		x.postgres.requests.put(r)
	}
	clear(p.done[:p.answered])
	p.answered = 0
}
