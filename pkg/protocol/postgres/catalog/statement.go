package catalog

import (
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// Reveals reports whether a computed column of the statement may carry protected
// data. A relation that it names stands for all relations of that name: which
// schema is meant is up to the server.
func (s *Shield) Reveals(fact *statement.Statement) bool {
	return fact.MayReveal(s.Protected(fact)) || s.callsOnRow(fact) || s.Lacks(fact) || s.ruled(fact) || s.plans(fact) || s.quotes(fact)
}

// Lacks reports whether the statement names something that the catalog does not
// have: a relation, or a column that a computed output depends on while one of the
// relations is a view. A column of a table that is new is protected by its name or
// not at all; one of a view may show anything.
func (s *Shield) Lacks(fact *statement.Statement) bool {
	if fact == nil {
		return true
	}
	tables, views := fact.Tables(), false
	for _, table := range tables {
		if s.Strange(table) {
			return true
		}
		views = views || s.catalog != nil && s.catalog.views[unqualified(table)]
	}
	return views && slices.ContainsFunc(fact.Mentions.Computed, func(name string) bool {
		_, given := slices.BinarySearch(fact.Mentions.Given, name)
		return !given && !slices.Contains(systemColumns, name) && !s.hasColumn(tables, name)
	})
}

// ruled reports whether the statement writes to a relation with rules: what they
// answer instead has no origin. A view hands a write on.
func (s *Shield) ruled(fact *statement.Statement) bool {
	if fact == nil || s.catalog == nil || len(s.columns) == 0 || len(s.catalog.ruled) == 0 {
		return false
	}
	return slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		name := unqualified(o.Name)
		return o.Kind == "table" && o.Write && (s.catalog.ruled[name] || s.catalog.views[name] || strings.Contains(o.Name, `"`))
	})
}

// plans reports whether the statement shows the plan of a view or a table with
// protected columns: the conditions in it may quote values.
func (s *Shield) plans(fact *statement.Statement) bool {
	return fact.Does(statement.Explain) && s.Touches(fact)
}

// LooksAt reports whether the statement itself may look at protected data,
// wherever in it.
func (s *Shield) LooksAt(fact *statement.Statement) bool {
	return fact.MayTouch(s.Protected(fact)) || s.callsOnRow(fact) || s.quotes(fact)
}

// Touches reports whether protected data may be in reach while the statement
// runs: in defaults, triggers, policies and expressions of indexes too, which a
// relation with protected columns may have, unless it is the system's.
func (s *Shield) Touches(fact *statement.Statement) bool {
	return s.LooksAt(fact) || slices.ContainsFunc(fact.Tables(), func(table string) bool {
		return s.Strange(table) || len(s.names[unqualified(table)]) > 0 && !s.ofSystem(table)
	})
}

// Strange reports whether nobody knows what a relation is made of.
func (s *Shield) Strange(table string) bool {
	if strings.Contains(table, `"`) || s.catalog == nil && !s.ofSystem(table) {
		return true
	}
	if s.ofSystem(table) {
		return false
	}
	schema, name, ok := strings.Cut(table, ".")
	if !ok || schema == "pg_temp" { // stands for the schema of a session
		return s.known()[unqualified(table)] == nil
	}
	return !s.catalog.places[name][schema]
}

// known are the names of all columns, by the name of their relation.
func (s *Shield) known() map[string]map[string]bool {
	if s.catalog == nil {
		return nil
	}
	return s.catalog.known
}

// Protected tells of a column's name whether it may be a protected column of a
// relation that the statement names. Any is while nobody knows what one of them is
// made of.
func (s *Shield) Protected(fact *statement.Statement) func(column string) bool {
	return s.protectedOf(fact.Tables())
}

func (s *Shield) protectedOf(tables []string) func(column string) bool {
	strange := slices.ContainsFunc(tables, s.Strange) || s.catalog == nil && s.set.NoDefinitions()
	return func(column string) bool {
		if strange || s.set.Protects(column) {
			return true
		}
		for _, table := range tables {
			if s.names[unqualified(table)][column] {
				return true
			}
		}
		return false
	}
}

// unqualified takes a table's name without its schema. No part of it is quoted.
func unqualified(table string) string { return table[strings.LastIndexByte(table, '.')+1:] }

// callsOnRow reports whether a name behind a dot may be a function of a whole
// row: no relation that the statement names has such a column. What it returns
// is up to its definition. Relations of the system with nothing to protect don't
// count.
func (s *Shield) callsOnRow(fact *statement.Statement) bool {
	if fact == nil || len(fact.Mentions.Attributes) == 0 {
		return false
	}
	tables := fact.Tables()
	if !slices.ContainsFunc(tables, func(table string) bool { return !s.ofSystem(table) || s.holds(table) }) {
		return false
	}
	return slices.ContainsFunc(fact.Mentions.Attributes, func(a statement.Attribute) bool {
		return !slices.Contains(systemColumns, a.Name) && s.mayCall(fact, a)
	})
}

// mayCall reports whether a name behind a dot may be a function of a row, or a type
// to which one is cast: if the relation has no such column. Where the text does not tell
// whose row is meant it is enough that one has it, but not if there is something else
// of that name, nor for relations of one name if one with protected columns has it not.
func (s *Shield) mayCall(fact *statement.Statement, a statement.Attribute) bool {
	tables := []string{a.Table}
	if a.Table == "" {
		tables = fact.Tables()
	}
	if !s.hasColumn(tables, a.Name) {
		return true
	}
	named := s.catalog.code.calledBehind(a)
	if a.Table == "" {
		return named // the row may be one that has none of these columns
	}
	for _, table := range tables {
		for _, oid := range s.catalog.meant(table) {
			if !s.catalog.relations[oid].has(a.Name) && (named || len(s.columns[oid]) > 0) {
				return true
			}
		}
	}
	return false
}

// ofSystem reports whether a name can only be a relation of the system: its
// schema is searched first.
func (s *Shield) ofSystem(table string) bool {
	if schema, _, ok := strings.Cut(table, "."); ok {
		return schema == "pg_catalog" || schema == "information_schema"
	}
	return strings.HasPrefix(table, "pg_") && s.known()[table] == nil
}

// systemColumns are in every table.
var systemColumns = []string{"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}

func (s *Shield) hasColumn(tables []string, column string) bool {
	for _, table := range tables {
		if s.known()[unqualified(table)][column] || s.catalog != nil && s.catalog.system[unqualified(table)][column] {
			return true
		}
	}
	return false
}

// Copies reports whether the statement may store protected data where no mask
// follows it: in another column, a table, a view, a file. It is false only where
// the relations that the statement reads are known and have no protected column,
// or where it stores nothing that it reads.
func (s *Shield) Copies(fact *statement.Statement) bool {
	if s.set.NoDefinitions() && fact != nil && fact.Mentions.StoresQuoted {
		return true
	}
	if !fact.MayCopy(func(string) bool { return true }) {
		return false // nothing, whatever is protected: nearly all that reads
	}
	if !fact.MayCopy(s.protectedOf(s.read(fact))) && !s.callsOnRow(fact) {
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

// read returns the relations of a statement that it may have data from. One that is
// created or filled by it, and that nobody knows, gives it no column.
func (s *Shield) read(fact *statement.Statement) []string {
	if fact == nil {
		return nil
	}
	var tables []string
	for _, o := range fact.Objects {
		if o.Kind == "table" && (s.source(o, fact) || !s.Strange(o.Name)) {
			tables = append(tables, o.Name)
		}
	}
	return tables
}

// source reports whether a relation of a statement may have protected data to
// copy. One that nobody knows, and that is only written to, has none to give,
// unless the statement computes its columns from one another.
func (s *Shield) source(o statement.Object, fact *statement.Statement) bool {
	if s.holds(o.Name) {
		return true
	}
	read := !o.Write || fact.Does(statement.Update) || fact.Does(statement.Merge)
	return read && s.Strange(o.Name)
}

// Redefines reports whether one of the tables has a protected column, or one of
// the schemas a relation that has: whoever renames such a thing or takes it apart
// takes it out of the mask's sight. Tables are named as a statement does, with or
// without a schema; without one any schema is meant. A relation that the catalog
// does not have counts as one without: an index is none, and what was created a
// moment ago was judged then; Strange tells of them. Where nothing is known of the
// database the answer is true.
func (s *Shield) Redefines(tables, schemas []string) bool {
	if s.catalog == nil {
		return s.set.HasColumns() && len(tables)+len(schemas) > 0
	}
	return slices.ContainsFunc(tables, s.holds) || slices.ContainsFunc(schemas, func(schema string) bool {
		return strings.Contains(schema, `"`) || s.schemas[schema]
	})
}

// holds reports whether a relation of that name has a protected column. A name
// with a dot or a quote in it counts as one: it is not worth parsing.
func (s *Shield) holds(table string) bool {
	if strings.Contains(table, `"`) {
		return true
	}
	if !strings.Contains(table, ".") {
		return len(s.names[table]) > 0
	}
	schema, name, _ := strings.Cut(table, ".")
	return s.qualified[name][schema] || schema == "pg_temp" && len(s.names[name]) > 0
}

// Infers reports whether protected data may decide which rows the statement
// selects, their order or their number, or what it does. Relations that nobody
// knows may have a protected column of any name.
func (s *Shield) Infers(fact *statement.Statement) bool {
	if s.set.NoDefinitions() && fact != nil && fact.Mentions.WeighsQuoted {
		return true
	}
	return fact.MayInfer(s.protectedOf(s.read(fact))) || fact.MayInfer(func(string) bool { return true }) && s.callsOnRow(fact)
}

// Collides reports whether the statement writes a value into a protected column
// of a unique index or a foreign key: its violation tells whether the value is
// there.
func (s *Shield) Collides(fact *statement.Statement) bool {
	if fact == nil || s.catalog == nil || slices.ContainsFunc(fact.Tables(), s.Strange) {
		return fact.MayCollide(func(string) bool { return true })
	}
	keys, named := make(map[string]bool), make(map[string]bool)
	for _, table := range fact.Tables() {
		named[unqualified(table)] = true
	}
	for oid, columns := range s.columns {
		r := s.catalog.relations[oid]
		if r == nil || len(r.keys) == 0 || !named[r.name] {
			continue
		}
		for _, a := range r.attributes {
			if _, protected := columns[a.number]; protected && (r.keys[a.number] || r.keys[0]) {
				keys[a.name] = true
			}
		}
	}
	return len(keys) > 0 && fact.MayCollide(func(column string) bool { return keys[column] })
}

// Unsettled reports whether the statement reads a relation that may show other
// data than the catalog says, if that is not up to date: a view, or one that the
// catalog does not have.
func (s *Shield) Unsettled(fact *statement.Statement) bool {
	if fact == nil || s.catalog == nil {
		return true
	}
	return slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		return o.Kind == "table" && !o.Write && (s.Strange(o.Name) || s.catalog.views[unqualified(o.Name)])
	})
}
