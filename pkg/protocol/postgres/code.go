package postgres

import (
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

const searchPath = "search_path"

// reasonPath says why a text is unknown in a database of which [catalog.Shield]
// says that it hides what is built in.
const reasonPath = "the search path of the database hides built-in functions"

// withCode returns the facts with the effects of code of users that a statement
// runs without naming it. Only a catalog can tell, so that it takes a mask of
// columns; without one the facts are returned as they are.
func (x *exchange) withCode(facts []*statement.Statement, set *mask.Set) []*statement.Statement {
	if !set.HasColumns() {
		return facts
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	known, all := x.know(set), facts
	for i, fact := range facts {
		if fact != nil && slices.ContainsFunc(fact.Objects, setsPath) {
			x.ownPath = true // from here on, whether that is carried out or not
		}
		effects := x.codeOf(&known, fact)
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
		if more.Reason == "" && slices.Contains(effects, statement.Unknown) {
			more.Reason = reasonPath
		}
		all[i] = &more
	}
	return all
}

// codeOf returns the effects that a statement has beside its own. pending.mu is
// held.
func (x *exchange) codeOf(known *knowledge, fact *statement.Statement) []string {
	reach := catalog.BeganWith
	if x.ownPath {
		reach = catalog.Anywhere
	}
	switch {
	case fact == nil:
		return nil
	case known.HidesBuiltins() && !x.ownPath && (len(fact.Functions()) > 0 || len(fact.Mentions.Operators) > 0):
		return []string{statement.Unknown}
	case known.RunsCode(fact, reach):
		return []string{statement.Opaque, statement.UserFunction}
	default:
		return nil
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
