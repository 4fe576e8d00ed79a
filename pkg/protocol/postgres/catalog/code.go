package catalog

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// maxCode bounds the functions, operators and types of users.
const maxCode = 200_000

// pathCut is where [Query] cuts a search path, in characters: one of that length
// may be longer. maxPath bounds it in bytes.
const (
	pathCut = 1024
	maxPath = 4 * pathCut
)

// code is what users have defined that a statement may run without a word of it:
// an overload of a built-in function that fits better, a function of a row behind
// a dot, the check of a domain.
type code struct {
	functions, operators, types map[string]bool // by name; whether a schema of one is searched
	// onRows are those of functions that a row alone may be the argument of.
	onRows map[string]bool
	// takesRow are functions of extensions that take any row, as hstore(record).
	takesRow map[string]bool
	// rowsBecome: a row may be turned into something else without a word of it, so
	// that it may be the argument of any function.
	rowsBecome bool
	total      int
	// hidden tells that the search path that sessions begin with finds other
	// schemas in front of the system's.
	hidden bool
}

func (c *code) add(cells [Columns]string) error {
	visible, name := cells[2] == "true", cells[4]
	switch cells[0] {
	case "u":
		c.note(&c.functions, name, visible)
		c.noteSystem(&c.functions, cells[3], name)
		if cells[5] != "false" {
			c.note(&c.onRows, name, visible)
		}
	case "g":
		c.rowsBecome = true
	case "o":
		c.note(&c.operators, name, visible)
		c.noteSystem(&c.operators, cells[3], name)
	case "t":
		c.note(&c.types, name, visible)
	case "e":
		c.note(&c.takesRow, name, true)
	case "p":
		effect, _ := statement.Setting("search_path", name)
		c.hidden = effect != statement.Set || utf8.RuneCountInString(name) >= pathCut
	default:
		return fmt.Errorf("%w: row %q", ErrCatalog, cells[0])
	}
	return bounded(c.total, maxCode)
}

func (c *code) note(names *map[string]bool, name string, visible bool) {
	if *names == nil {
		*names = make(map[string]bool)
	}
	(*names)[name] = (*names)[name] || visible
	c.total++
}

// noteSystem notes what users have put into a schema of the system, where it has the
// name by which a statement means the system's own.
func (c *code) noteSystem(names *map[string]bool, schema, name string) {
	if schema == "pg_catalog" || schema == "information_schema" {
		c.note(names, schema+"."+name, true)
	}
}

// Reach is where a session looks for names without a schema.
type Reach uint8

// A session that has set its own search path may find what the others don't.
const (
	// Unsure is Anywhere while a definition that the catalog does not show may have
	// taken columns from relations, too.
	Unsure Reach = iota
	Anywhere
	BeganWith
)

// RunsCode reports whether the statement may run code of users that it does not
// name as such. It is no question of protection: nothing is known without a
// catalog, and the answer is no.
func (s *Shield) RunsCode(fact *statement.Statement, reach Reach) bool {
	if fact == nil || s.catalog == nil {
		return false
	}
	c := &s.catalog.code
	found := func(names map[string]bool) func(string) bool {
		return func(name string) bool {
			visible, ok := names[name]
			return ok && (visible || reach != BeganWith)
		}
	}
	if slices.ContainsFunc(fact.Functions(), found(c.functions)) || slices.ContainsFunc(fact.Mentions.Operators, found(c.operators)) {
		return true
	}
	return slices.ContainsFunc(fact.Mentions.Attributes, func(a statement.Attribute) bool {
		if reach == Unsure { // there may be others by now
			return found(c.functions)(a.Name) || found(c.types)(a.Name)
		}
		return (found(c.behind(a))(a.Name) || found(c.types)(a.Name)) && s.mayCall(fact, a)
	}) || slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		_, ok := c.types[unqualified(o.Name)] // those of arrays are among them
		return o.Kind == "type" && ok
	})
}

// behind returns the functions of users that a name behind a dot may be.
// ParseFuncOrColumn and func_get_detail in parser/parse_func.c take any that the
// value can be coerced to without a cast being written.
func (c *code) behind(a statement.Attribute) map[string]bool {
	if a.Row && !c.rowsBecome {
		return c.onRows
	}
	return c.functions
}

// calledBehind reports whether a name behind a dot may be that of something of users.
func (c *code) calledBehind(a statement.Attribute) bool {
	_, function := c.behind(a)[a.Name]
	_, kind := c.types[a.Name]
	return function || kind || c.takesRow[a.Name]
}

// onRow reports whether there is something of users that may take a row and has that
// name, wherever it is.
func (c *code) onRow(name string) bool {
	_, function := c.functions[name]
	_, kind := c.types[name]
	return function || kind || c.takesRow[name]
}

// NamedOnRow reports whether a name behind a dot in the statement is that of something
// of users that may take a row: it runs where there is no such column any more.
func (s *Shield) NamedOnRow(fact *statement.Statement) bool {
	return fact != nil && s.catalog != nil && slices.ContainsFunc(fact.Mentions.Attributes, func(a statement.Attribute) bool {
		return s.catalog.code.onRow(a.Name)
	})
}

// HidesBuiltins reports whether names without a schema may mean something else
// than the system's own in a session that has not set its search path.
func (s *Shield) HidesBuiltins() bool { return s.catalog != nil && s.catalog.code.hidden }
