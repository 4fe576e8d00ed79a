package postgres

import (
	"fmt"
	"slices"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// prepared is a statement that has, or may get, a name.
type prepared struct {
	facts *statement.Statement
	// described is what a Describe of the statement said last. No more of it can be
	// relied upon than the types.
	described *result
}

// known returns what the statement does; nil, which is unknown, for a nil one.
func (p *prepared) known() *statement.Statement {
	if p == nil {
		return nil
	}
	return p.facts
}

// portal is a portal or a cursor that exists, or may.
type portal struct {
	// sources are the statements that its statement's name may have denoted
	// when it was bound. None means that nobody knows.
	sources []*prepared
	source  [1]*prepared // holds sources where there is one
	// parameters are rendered for the record.
	parameters []string
	parameter  [1]string // holds parameters where there is one
	// partial: there were more parameters, or longer ones.
	partial bool
	// result is what a Describe of the portal said.
	result *result
	// sequence is the Bind; 0 if SQL declared it, which can only be as a query.
	// started: it was sent to run when it could mean only one thing.
	sequence uint64
	started  bool
	// given is what the agent got of its rows, up to where it is suspended.
	given protocol.Volume
	// changes are those of the database up to when it was opened: it shows what
	// there was then.
	changes uint64
	// hold tells that SQL declared it so that it survives the transaction.
	hold bool
}

// facts returns the statements that the portal may run; a nil one is unknown.
func (p *portal) facts() []*statement.Statement {
	if p == nil || len(p.sources) == 0 {
		return []*statement.Statement{nil}
	}
	facts := make([]*statement.Statement, len(p.sources))
	for i, s := range p.sources {
		facts[i] = s.known()
	}
	return facts
}

// nameLength is how many bytes of a name count: NAMEDATALEN-1 in a server as it
// is distributed.
const nameLength = 63

// identify checks the names in a message. The server takes two that differ
// behind their first nameLength bytes for one, so a longer one ends the session;
// while only observing it is cut as the server cuts it.
func (x *exchange) identify(names ...*string) error {
	for _, name := range names {
		if len(*name) <= nameLength {
			continue
		}
		if !x.session.Observe {
			return fmt.Errorf("name of %d bytes, over %d: %w", len(*name), nameLength, wire.ErrTooLarge)
		}
		*name = (*name)[:nameLength]
	}
	return nil
}

// candidate is one thing that a name may denote, from the moment at which the
// message that defines it was sent.
type candidate[T any] struct {
	sequence uint64
	// doubtful: what was sent as sequence may be something else.
	doubtful bool
	cost     int
	value    *T
}

// maxCost bounds what is remembered where nothing is refused.
const maxCost = 1 << 18

// maxCandidates bounds what one name is taken to denote. Beyond it nobody knows:
// portals with thousands of statements each would multiply.
const maxCandidates = 64

// names maps each name to everything that it may denote: what the server
// confirmed, and what was sent since. Messages are judged before the server has
// answered the ones in front of them, so one value per name would be a guess.
type names[T any] struct {
	of    map[string][]candidate[T]
	total int            // the cost of all
	spare []candidate[T] // of a name that is gone, for the next one
}

// fewCandidates is how many candidates are moved, and how many are kept room for.
const fewCandidates = 4

// add notes that what was sent as sequence may give the name to value, which
// holds about size bytes. A name costs as much as a kilobyte. Who may not have
// more names is refused before; while only observing, further ones are not known.
func (n *names[T]) add(name string, sequence uint64, value *T, size int) {
	n.put(name, candidate[T]{sequence: sequence, value: value}, size)
}

// suggest is add for what is only done if sequence is what it may be.
func (n *names[T]) suggest(name string, sequence uint64, value *T, size int) {
	n.put(name, candidate[T]{sequence: sequence, value: value, doubtful: true}, size)
}

func (n *names[T]) put(name string, c candidate[T], size int) {
	if n.total >= maxCost {
		return
	}
	if n.of == nil {
		n.of = make(map[string][]candidate[T])
	}
	c.cost = 1 + (size+len(name))>>10
	list := n.of[name]
	if list == nil {
		list, n.spare = n.spare, nil
	}
	n.of[name] = append(list, c)
	n.total += c.cost
}

// get returns everything that the name may denote now, the latest first. Behind
// since an error makes the server skip whatever asks, so a definition that was
// sent behind it has been carried out when the name is used. Of more than
// maxCandidates it returns a single nil.
func (n *names[T]) get(name string, since uint64) []*T { return n.list(nil, name, since) }

// list is get into values, which is empty.
func (n *names[T]) list(values []*T, name string, since uint64) []*T {
	list := n.of[name]
	for i := len(list) - 1; i >= 0; i-- {
		if len(values) == maxCandidates {
			return []*T{nil}
		}
		values = append(values, list[i].value)
		if list[i].sequence > since && !list[i].doubtful {
			break
		}
	}
	return values
}

// confirm notes that the server did what was sent as sequence: what the name
// denoted before is gone. It is called for each message of a pipeline, and takes
// no longer when much was sent since.
func (n *names[T]) confirm(name string, sequence uint64) {
	list := n.of[name]
	stale := 0
	for stale < len(list) && list[stale].sequence < sequence {
		n.total -= list[stale].cost
		list[stale] = candidate[T]{}
		stale++
	}
	if left := len(list) - stale; left <= fewCandidates {
		copy(list, list[stale:])
		clear(list[left:])
		n.keep(name, list[:left])
		return
	}
	n.keep(name, list[stale:])
}

// fail notes that the server did not do what was sent as sequence.
func (n *names[T]) fail(name string, sequence uint64) {
	n.edit(name, func(c *candidate[T]) bool { return c.sequence != sequence })
}

// drop notes that the server forgot the name when it did what was sent as
// sequence.
func (n *names[T]) drop(name string, sequence uint64) {
	n.edit(name, func(c *candidate[T]) bool { return c.sequence > sequence })
}

// dropAll drops, of all names, what was sent up to sequence and keep does not
// want.
func (n *names[T]) dropAll(sequence uint64, keep func(*T) bool) {
	if n.total == 0 {
		return
	}
	for name, list := range n.of { // without a closure: it is asked behind each statement
		left := list[:0]
		for _, c := range list {
			if c.sequence > sequence || keep(c.value) {
				left = append(left, c)
			} else {
				n.total -= c.cost
			}
		}
		clear(list[len(left):])
		n.keep(name, left)
	}
}

func (n *names[T]) edit(name string, keep func(*candidate[T]) bool) {
	list, ok := n.of[name]
	if !ok {
		return
	}
	list = slices.DeleteFunc(list, func(c candidate[T]) bool {
		if keep(&c) {
			return false
		}
		n.total -= c.cost
		return true
	})
	n.keep(name, list)
}

func (n *names[T]) keep(name string, list []candidate[T]) {
	if len(list) == 0 {
		delete(n.of, name)
		if cap(list) > 0 && cap(list) <= fewCandidates {
			n.spare = list
		}
		return
	}
	n.of[name] = list
}
