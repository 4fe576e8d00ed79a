package postgres

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// What a mask is broken by, for the agent.
const (
	detailCopies     = "the statement may store protected data where no mask follows"
	detailRedefines  = "the statement may change what a relation with protected columns is made of"
	detailPredicates = "the statement may choose, order or compare by protected columns"
)

// breach returns the refusal of a step that does what a mask does not allow
// beside showing values; nil if it does nothing of the kind.
func (x *exchange) breach(s *step, set *mask.Set) *protocol.Denial {
	copies, predicates := set.NoCopies(), set.NoPredicates()
	if copies == nil && predicates == nil {
		return nil
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	for _, fact := range s.facts {
		if refersOnly(fact) {
			continue
		}
		if copies != nil {
			known, seen := x.know(copies), storing(fact)
			switch {
			case known.mayCopy(seen):
				return x.breachOf(copies, "copies: deny", detailCopies, seen)
			case known.mayRedefine(seen):
				return x.breachOf(copies, "copies: deny", detailRedefines, seen)
			}
		}
		if predicates == nil {
			continue
		}
		if known := x.know(predicates); known.mayInfer(weighing(fact)) {
			return x.breachOf(predicates, "predicates: deny", detailPredicates, fact)
		}
	}
	return nil
}

// maxNamedMasks bounds the masks that one refusal names.
const maxNamedMasks = 3

// breachOf names the masks that forbid it, as far as the names of columns tell.
// pending.mu is held.
func (x *exchange) breachOf(part *mask.Set, key, detail string, fact *statement.Statement) *protocol.Denial {
	var columns []string
	if fact != nil {
		columns = fact.Mentions.Columns
	}
	if known := x.know(part); slices.ContainsFunc(fact.Tables(), known.Strange) {
		x.want() // it may be known the next time
	}
	rules := part.RulesFor(columns)
	list := `"` + strings.Join(rules[:min(len(rules), maxNamedMasks)], `", "`) + `"`
	if len(rules) > maxNamedMasks {
		list += " and others"
	}
	return &protocol.Denial{Rule: rules[0], Reason: protocol.ReasonMask, Detail: fmt.Sprintf("%s (mask %s has %s)", detail, list, key)}
}

// refersOnly reports whether the statement does only what a name stands for, which
// is judged beside it.
func refersOnly(fact *statement.Statement) bool {
	if fact == nil || len(fact.Effects) == 0 {
		return false
	}
	return fact.Verb == statement.Fetch || fact.Verb == statement.Execute && !fact.Does(statement.DDL)
}

// reading are the effects of statements that store nothing themselves.
var reading = []string{
	statement.Call, statement.CopyOut, statement.Declare, statement.Delete, statement.Execute, statement.Explain,
	statement.Fetch, statement.Opaque, statement.Prepare, statement.Select, statement.UserFunction,
}

// storing is the statement as far as it can store something: without the code of
// others that it runs. Whether a function or a procedure of the database may be
// called is for the policy to say. SQL text that a function of the system runs can
// only read, and counts where the statement stores what comes of it. An anonymous
// block is the agent's own code.
func storing(fact *statement.Statement) *statement.Statement {
	if fact == nil || len(fact.Effects) == 0 || fact.Does(statement.Do) || !fact.Does(statement.Opaque) {
		return fact
	}
	reads := !slices.ContainsFunc(fact.Effects, func(e string) bool { return !slices.Contains(reading, e) })
	if !reads && !othersCode(fact) {
		return fact
	}
	return inSight(fact)
}

// weighing is the statement as far as it can weigh something.
func weighing(fact *statement.Statement) *statement.Statement {
	if fact == nil || len(fact.Effects) == 0 || fact.Does(statement.Do) || !othersCode(fact) {
		return fact
	}
	return inSight(fact)
}

// othersCode reports whether what can't be seen of the statement is only
// functions and procedures of the database.
func othersCode(fact *statement.Statement) bool {
	return (fact.Does(statement.UserFunction) || fact.Does(statement.Call)) && !fact.RunsText()
}

// inSight is the statement with nothing in it that can't be seen.
func inSight(fact *statement.Statement) *statement.Statement {
	seen := *fact
	seen.Effects = slices.DeleteFunc(slices.Clone(fact.Effects), func(e string) bool {
		return e == statement.Opaque || e == statement.Call
	})
	return &seen
}

// mayCopy reports whether the statement may store what is protected. While a view
// may have been replaced since the catalog was read, nobody knows what it shows.
func (k *knowledge) mayCopy(fact *statement.Statement) bool {
	return k.Copies(fact) || k.unsettled(fact) && fact.MayCopy(anyColumn)
}

// mayInfer reports whether what is protected may decide which rows there are.
func (k *knowledge) mayInfer(fact *statement.Statement) bool {
	return k.Infers(fact) || k.Collides(fact) || k.unsettled(fact) && fact.MayInfer(anyColumn)
}

// unsettled reports whether the statement may read something else than the catalog
// says: what a view shows, or a function of a row where a column was.
func (k *knowledge) unsettled(fact *statement.Statement) bool {
	return k.doubt && k.Unsettled(fact) || (k.doubt || k.shapes) && k.NamedOnRow(fact)
}

func anyColumn(string) bool { return true }

// mayRedefine reports whether the statement may change the make-up of a relation
// that has what is protected.
func (k *knowledge) mayRedefine(fact *statement.Statement) bool {
	return fact.MayRedefine() || k.Redefines(fact.Redefines())
}
