package postgres

import (
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// Copies reports whether the statement may store protected data where no mask
// follows it: in another column, a table, a view, a file. It is false only where
// the relations that the statement reads are known and have no protected column,
// or where it stores nothing that it reads.
func (s *shield) Copies(fact *statement.Statement) bool {
	if !fact.MayCopy(s.protected(fact)) && !(fact.MayCopy(func(string) bool { return true }) && s.callsOnRow(fact)) {
		return false
	}
	if fact == nil || s.catalog == nil || len(fact.Effects) == 0 || fact.Mentions.Statistics {
		return true
	}
	for _, hidden := range []string{statement.Unknown, statement.Opaque, statement.Execute} {
		if fact.Does(hidden) {
			return true
		}
	}
	return slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		return o.Kind == "table" && s.source(o, fact)
	})
}

// source reports whether a relation of a statement may have protected data to
// copy. One that nobody knows, and that is only written to, has none to give,
// unless the statement computes its columns from one another.
func (s *shield) source(o statement.Object, fact *statement.Statement) bool {
	if s.holds(o.Name) {
		return true
	}
	read := !o.Write || fact.Does(statement.Update) || fact.Does(statement.Merge)
	return read && s.strange(o.Name)
}

// Redefines reports whether one of the tables has a protected column, or one of
// the schemas a relation that has: whoever renames such a thing or takes it apart
// takes it out of the mask's sight. Tables are named as a statement does, with or
// without a schema; without one any schema is meant. A relation that the catalog
// does not have counts as one without: an index is none, and what was created a
// moment ago was judged then; Strange tells of them. Where nothing is known of the
// database the answer is true.
func (s *shield) Redefines(tables, schemas []string) bool {
	if s.catalog == nil {
		return s.set.HasColumns() && len(tables)+len(schemas) > 0
	}
	return slices.ContainsFunc(tables, s.holds) || slices.ContainsFunc(schemas, func(schema string) bool {
		return strings.Contains(schema, `"`) || s.schemas[schema]
	})
}

// holds reports whether a relation of that name has a protected column. A name
// with a dot or a quote in it counts as one: it is not worth parsing.
func (s *shield) holds(table string) bool {
	if strings.Contains(table, `"`) {
		return true
	}
	if !strings.Contains(table, ".") {
		return len(s.names[table]) > 0
	}
	return s.qualified[table[strings.IndexByte(table, '.')+1:]][table[:strings.IndexByte(table, '.')]]
}
