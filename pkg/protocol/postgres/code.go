package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

const searchPath = "search_path"

// reasonPath says why a text is unknown in a database of which [catalog.Shield]
// says that it hides what is built in.
const reasonPath = "the search path of the database hides built-in functions"

// reasonCatalog says why a statement is unknown while there is no catalog.
const reasonCatalog = "which code it runs can't be found out, as the catalog of the database could not be read"

// reasonDefined says why a statement may run code that nobody knows of yet.
const reasonDefined = "it may run code of users that was defined in front of it: it needs user_function and opaque to be allowed here, or the transaction to be ended first"

// consults reports whether a catalog is needed: for masks of columns, because a
// rule may refuse code of users, or because a condition looks at relations.
func (x *exchange) consults(set *mask.Set) bool {
	return x.weighsCode(set) || x.asks()
}

// weighsCode reports whether code of users that a statement runs is among its effects.
func (x *exchange) weighsCode(set *mask.Set) bool { return set.HasColumns() || x.refusesCode() }

// refusesCode reports whether a rule that may refuse code of users names it.
func (x *exchange) refusesCode() bool {
	s := x.session
	return !s.Observe && s.Refuses != nil && s.Refuses(statement.UserFunction, statement.Opaque)
}

// tolerate returns nil for a catalog that can't be read, unless masks need it: what
// may run code of users is unknown then.
func (x *exchange) tolerate(err error, set *mask.Set) error {
	if set.HasColumns() || !errors.Is(err, catalog.ErrCatalog) {
		return err
	}
	x.session.Log.Warn().Err(err).Msg("catalog can't be read: what may run code of users is unknown, and which relations statements touch; let the account connect once more, or allow user_function and opaque and have no conditions about relations")
	return nil
}

// consult adds to the facts of a request's step what the catalog says of it, and
// returns what is known. What the session has defined and the catalog shows by now
// is forgotten with the first step, not with each: those in front of one are not
// sent yet.
func (x *exchange) consult(r *request, at int) knowledge {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	known, s := x.know(r.masks), r.steps[at]
	if at == 0 && !known.doubt {
		x.code, known.shapes = ownCode{}, false
	}
	s.facts = x.withCode(&known, s.facts)
	return known
}

// withCode returns the facts with the effects of code of users that a statement
// runs without naming it. pending.mu is held.
func (x *exchange) withCode(known *knowledge, facts []*statement.Statement) []*statement.Statement {
	all := facts
	for i, fact := range facts {
		if fact != nil && slices.ContainsFunc(fact.Objects, setsPath) {
			x.ownPath = true // from here on, whether that is carried out or not
		}
		effects, reason := x.codeOf(known, fact)
		x.code.note(fact)
		if effects == nil {
			continue
		}
		if &all[0] == &facts[0] {
			all = slices.Clone(facts)
		}
		more := *fact
		more.Effects = slices.Concat(fact.Effects, effects)
		slices.Sort(more.Effects)
		more.Effects = slices.Compact(more.Effects)
		if more.Reason == "" {
			more.Reason = reason
		}
		all[i] = &more
	}
	return all
}

// codeOf returns the effects that a statement has beside its own, and why it is
// unknown if it is. pending.mu is held.
func (x *exchange) codeOf(known *knowledge, fact *statement.Statement) (effects []string, reason string) {
	reach := catalog.BeganWith
	switch {
	case known.doubt || known.shapes: // a definition may have put a function where it is found
		reach = catalog.Unsure
	case x.ownPath:
		reach = catalog.Anywhere
	}
	switch {
	case fact == nil:
		return nil, ""
	case known.Ignorant() && mayRunCode(fact) && x.refusesCode(): // with masks, too: a catalog gets too old
		return []string{statement.Unknown}, reasonCatalog
	case known.HidesBuiltins() && !x.ownPath && (len(fact.Functions()) > 0 || len(fact.Mentions.Operators) > 0):
		return []string{statement.Unknown}, reasonPath
	case x.code.runs(fact) && x.refusesCode():
		return []string{statement.Opaque, statement.UserFunction}, reasonDefined
	case known.RunsCode(fact, reach):
		return []string{statement.Opaque, statement.UserFunction}, ""
	default:
		return nil, ""
	}
}

// mayRunCode reports whether there is anything in the statement behind which users
// may have put code.
func mayRunCode(fact *statement.Statement) bool {
	return len(fact.Mentions.Operators) > 0 || slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		return o.Kind == "table" || o.Kind == "function" || o.Kind == "type"
	})
}

// addDefinitions adds to an operation the effects of code of users that the
// database runs by itself: triggers, defaults, the queries of views. They are for
// the policy alone. What a mask makes of the statement does not depend on them:
// what such code stores and shows is what its owner wanted to be in the relation.
func (k *knowledge) addDefinitions(op *policy.Operation, facts []*statement.Statement) {
	if slices.Contains(op.Effects, statement.UserFunction) && slices.Contains(op.Effects, statement.Opaque) {
		return
	}
	for _, fact := range facts {
		by := k.RunsBehind(fact)
		if by == nil {
			continue
		}
		if op.Reason == "" && !slices.Contains(op.Effects, policy.Unknown) {
			op.Reason = fmt.Sprintf("%s runs code of users by itself: it needs user_function and opaque to be allowed here, or to be dropped", by)
		}
		op.Effects = append(op.Effects, statement.Opaque, statement.UserFunction)
		slices.Sort(op.Effects)
		op.Effects = slices.Compact(op.Effects)
		return
	}
}

// pathSettings decide where names are looked for: the search path itself, and who
// acts, whose schema "$user" stands for and whose rights count.
var pathSettings = []string{searchPath, "role", "session_authorization"}

func setsPath(o statement.Object) bool {
	return o.Kind == "setting" && o.Write && slices.Contains(pathSettings, o.Name)
}

// choosesPath reports whether a StartupMessage may set the search path. The names
// of settings are read without regard to case.
func choosesPath(start *wire.Startup) bool {
	return slices.ContainsFunc(start.Parameters, func(p wire.Parameter) bool {
		return p.Name == "options" || slices.Contains(pathSettings, strings.ToLower(p.Name))
	})
}
