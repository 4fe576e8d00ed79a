package statement

import (
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
)

// Statement is what one SQL statement does. The zero Statement is unknown: it
// has no effects, and a policy takes an empty list for an unknown operation.
// What [Parse] and [Parser.Parse] return is shared with their cache: read it,
// never change it. It is safe for concurrent readers.
type Statement struct {
	// Verb is what the statement is; see the table in the package comment.
	Verb string
	// Effects is everything that the statement does: sorted, without
	// duplicates, never empty in what Parse returns. It holds [Unknown] if
	// anything in the statement could not be understood.
	Effects []string
	// Objects are the tables, functions, databases, roles and settings that it
	// names, sorted by kind and name.
	Objects []Object
	// Reason says why Effects holds [Unknown].
	Reason string
	// HasWhere tells that every UPDATE and DELETE inside, whatever their depth,
	// has a WHERE that looks at a column: "WHERE true" is none. Without an
	// UPDATE or DELETE it speaks of the outermost SELECT.
	HasWhere bool
	// Text is the statement's part of the parsed text.
	Text string

	// Prepares, Executes and Deallocates name a prepared statement, Declares,
	// Fetches and Closes a cursor. Empty where the statement does nothing of
	// the kind. Effects does not hold what an executed statement does: the
	// session has to look it up and add it.
	Prepares, Executes, Deallocates string
	Declares, Fetches, Closes       string
	// DeallocatesAll and ClosesAll tell that every name is gone: DEALLOCATE
	// ALL, CLOSE ALL, DISCARD ALL.
	DeallocatesAll, ClosesAll bool
	// Transaction is what a transaction command does: begin, commit, rollback,
	// savepoint, release, rollback_to, prepare, commit_prepared,
	// rollback_prepared; empty for other statements.
	Transaction string
	// Inner holds the facts of the statement inside PREPARE, DECLARE and
	// EXPLAIN: what EXECUTE and FETCH of that name stand for.
	Inner *Statement
	// Copy is what a COPY TO STDOUT sends; nil for every other statement.
	Copy *Copy
	// Keeps tells that a definition leaves the relations that there were before as
	// they were but for new columns, or drops them, and that what it defines holds
	// data of its own: CREATE TABLE, CREATE TABLE AS, CREATE INDEX, DROP TABLE, DROP
	// VIEW, ALTER TABLE ADD COLUMN. Adds tells that there is something new behind it.
	Keeps, Adds bool
	// Reach tells whether Objects has all relations that it touches.
	Reach Reach
	// Mentions are the facts behind [Statement.MayReveal].
	Mentions Mentions
	// Definitions are the facts behind [Statement.Redefines].
	Definitions Definitions
}

// Object is something that a statement names, as the policy is asked about it.
//
// Its Kind is "table" (any relation: view, index and sequence too), "function",
// "type" (one that is not built in, of a cast or a column), "database", "role",
// "schema", "setting", "setting_value" (name=value, of a constant), "lock_mode" (as
// the command spells it, in lower case), "file" and "program" (of COPY), or for DROP
// and ALTER another kind of PostgreSQL object in lower case, such as "extension".
// Columns are no objects, since the text does not tell whose they are: see
// [Mentions].
//
// Its Name is qualified as far as the agent qualified it and folded as PostgreSQL
// folds. A part that holds a dot or a quote is quoted, so that "a.b" as one
// identifier differs from a.b.
//
// Write tells that the statement changes it, rather than only reads it.
type Object = policy.Object

// unknown returns the only Statement of a text that could not be understood.
func unknown(text, reason string) []Statement {
	return []Statement{{Verb: Unknown, Effects: []string{Unknown}, Reason: reason, Text: text}}
}

// Does reports whether effect is among the statement's effects. Everything
// may be an effect of a nil or zero Statement.
func (s *Statement) Does(effect string) bool {
	if s == nil || len(s.Effects) == 0 {
		return true
	}
	return slices.Contains(s.Effects, effect) // of a few, that is faster than to search by order
}

// RunsText reports whether the statement calls a function of the system that runs
// SQL text, or reads a relation by a name that is data. What such text does is not
// in Effects, beyond Opaque. It is true of a nil Statement.
func (s *Statement) RunsText() bool {
	return s == nil || slices.ContainsFunc(s.Functions(), func(name string) bool {
		return slices.Contains(functionEffects(name[strings.LastIndexByte(name, '.')+1:]), Opaque)
	})
}

// Tables returns the names of the relations in Objects.
func (s *Statement) Tables() []string { return s.names("table") }

// Functions returns the names of the functions in Objects.
func (s *Statement) Functions() []string { return s.names("function") }

func (s *Statement) names(kind string) []string {
	if s == nil {
		return nil
	}
	var names []string
	for _, o := range s.Objects {
		if o.Kind == kind {
			names = append(names, o.Name)
		}
	}
	return names
}
