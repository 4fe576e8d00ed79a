package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// The facts of a statement in conditions, see [Postgres.Facts].
const (
	factHasWhere  = "has_where"
	factTables    = "tables"
	factWritten   = "written"
	factNamed     = "named"
	factFunctions = "functions"
)

// catalogFacts are those that need the catalog.
var catalogFacts = []string{factTables, factWritten, factNamed, factFunctions}

// Facts returns the variable sql. What a session says of it is at least as much as
// the truth, and where nobody knows it is not known: docs/policy.md has the details.
func (*Postgres) Facts() policy.FactType {
	return policy.FactType{Variable: "sql", Fields: []policy.FactField{
		{Name: factHasWhere, Kind: policy.FactBool, Doc: "whether every UPDATE and DELETE in it, or else the SELECT, has a WHERE that looks at a column"},
		{Name: factTables, Kind: policy.FactStrings, Doc: "every relation that it may read or change, as schema.name: those that it names, and those behind views, partitions and foreign keys; not known where it runs code of users"},
		{Name: factWritten, Kind: policy.FactStrings, Doc: "those of tables that it may change"},
		{Name: factNamed, Kind: policy.FactStrings, Doc: "tables without what code of the database touches: known where functions and triggers run, too"},
		{Name: factFunctions, Kind: policy.FactStrings, Doc: "the functions that it calls by name: without a schema, and with the one that is written"},
	}}
}

// Errors about facts of which nobody knows.
var (
	errNothingKnown = fmt.Errorf("%w: what the name stands for can't be told", policy.ErrUnknownFact)
	errUnconsulted  = fmt.Errorf("%w: the catalog of the database was not asked; try again", policy.ErrUnknownFact)
	errDefining     = fmt.Errorf("%w: the definitions of the database are changing, or what is known of them is out of date; try again, and end a transaction that has definitions of its own first", policy.ErrUnknownFact)
	errNoCatalog    = fmt.Errorf("%w: the catalog of the database could not be read; let the account connect once more", policy.ErrUnknownFact)
	errNotWhole     = fmt.Errorf("%w: the statement may touch relations that it does not name (CASCADE, a whole schema, or a definition about something else); name each relation, one statement for each", policy.ErrUnknownFact)
)

// Fact returns a fact of the statement for conditions.
func (s *step) Fact(name string) (any, error) {
	switch {
	case name == factHasWhere:
		return hasWhere(s.facts)
	case s.known == nil:
		return nil, errUnconsulted
	default:
		return s.known.fact(name)
	}
}

// hasWhere is true if it is of all of the statements.
func hasWhere(facts []*statement.Statement) (any, error) {
	all := len(facts) > 0
	for _, fact := range facts {
		switch {
		case fact == nil || len(fact.Effects) == 0:
			return nil, errNothingKnown
		case fact.Does(statement.Unknown) || fact.Does(statement.Do):
			return nil, unseenIn(fact)
		case len(facts) == 1 || !refersOnly(fact):
			all = all && fact.HasWhere
		}
	}
	return all, nil
}

// unseenIn says what of a statement nobody can look into.
func unseenIn(fact *statement.Statement) error {
	if fact == nil {
		return errNothingKnown
	}
	why := fact.Reason
	switch {
	case why != "":
	case fact.Does(statement.Do):
		why = "it runs an anonymous block"
	case fact.Does(statement.System):
		why = "it reaches beyond the data of the database"
	case fact.RunsText():
		why = "it calls a function that runs SQL text, or reads a relation by a name that is data"
	case fact.Does(statement.Call), fact.Does(statement.UserFunction):
		why = "it runs functions of users, and nobody sees what they touch; sql.named leaves out what such code touches"
	default:
		why = "it runs what can't be seen"
	}
	return fmt.Errorf("%w: %s", policy.ErrUnknownFact, why)
}

// sqlFacts are the facts of an operation that need the catalog, as it was when the
// operation was asked about. They are found out when they are asked for.
type sqlFacts struct {
	facts []*statement.Statement
	known knowledge
	// codes tells whether a statement may run code that the session has defined, or
	// that is found in place of what is built in.
	codes []bool

	once             sync.Once
	named            []string
	tables, written  []string
	unnamed, unknown error // why named, and the other two, are not known
}

func (k *sqlFacts) fact(name string) (any, error) {
	if name == factFunctions {
		return k.functions()
	}
	k.once.Do(k.find)
	switch name {
	case factNamed:
		return k.named, k.unnamed
	case factTables:
		return k.tables, k.unknown
	case factWritten:
		return k.written, k.unknown
	default:
		return nil, fmt.Errorf("%w: there is no such fact", policy.ErrUnknownFact)
	}
}

// find finds the relations. Those of all that the operation may be count.
func (k *sqlFacts) find() {
	k.unnamed = k.settled()
	all, written := map[string]bool{}, map[string]bool{}
	for i, fact := range k.facts {
		if k.unnamed == nil {
			k.unnamed = opaque(fact)
		}
		if k.unnamed != nil {
			break
		}
		found := k.known.Relations(fact)
		if found.Missing != "" {
			k.unnamed = fmt.Errorf("%w: the catalog of the database does not have the relation %s; write schema.table, and try again if it was created a moment ago", policy.ErrUnknownFact, found.Missing)
			break
		}
		for _, name := range found.All {
			all[name] = true
		}
		for _, name := range found.Written {
			written[name] = true
		}
		if k.unknown == nil {
			k.unknown = k.runsCode(i, &found)
		}
	}
	k.unknown = cmpOr(k.unnamed, k.unknown)
	k.named = slices.Sorted(maps.Keys(all))
	k.tables, k.written = k.named, slices.Sorted(maps.Keys(written))
}

// settled returns why the catalog does not count.
func (k *sqlFacts) settled() error {
	switch {
	case k.known.Ignorant():
		return errNoCatalog
	case k.known.doubt || k.known.shapes || k.known.behind:
		return errDefining
	default:
		return nil
	}
}

// opaque returns why it is not known which relations a statement names.
func opaque(fact *statement.Statement) error {
	switch {
	case fact == nil || len(fact.Effects) == 0:
		return errNothingKnown
	case fact.Does(statement.Unknown), fact.Does(statement.Do), fact.Does(statement.System), fact.RunsText():
		return unseenIn(fact)
	case fact.Does(statement.Opaque) && !fact.Does(statement.UserFunction) && !fact.Does(statement.Call):
		return unseenIn(fact)
	case !fact.Reach.Whole:
		return errNotWhole
	default:
		return nil
	}
}

// runsCode returns an error if a statement runs code of the database, which may touch
// anything.
func (k *sqlFacts) runsCode(i int, found *catalog.Relations) error {
	fact := k.facts[i]
	if fact.Does(statement.Opaque) {
		return unseenIn(fact)
	}
	by := k.known.RunsBehind(fact)
	if by == nil {
		by = found.Calls
	}
	switch {
	case by != nil:
		return fmt.Errorf("%w: %s runs code of users by itself, and nobody sees what it touches; sql.named leaves that out", policy.ErrUnknownFact, by)
	case k.codes[i]:
		return fmt.Errorf("%w: functions of users may run in place of what is built in, and nobody sees what they touch; sql.named leaves that out", policy.ErrUnknownFact)
	default:
		return nil
	}
}

// functions returns the names of the functions that are called.
func (k *sqlFacts) functions() (any, error) {
	all := map[string]bool{}
	for _, fact := range k.facts {
		switch {
		case fact == nil || len(fact.Effects) == 0:
			return nil, errNothingKnown
		case fact.Does(statement.Unknown), fact.Does(statement.Do), fact.RunsText():
			return nil, unseenIn(fact)
		}
		if len(fact.Mentions.Attributes) > 0 {
			if err := k.settled(); err != nil {
				return nil, err
			}
		}
		for _, name := range k.known.CalledOnRow(fact) {
			all[name] = true
		}
		addFunctions(all, fact)
	}
	return slices.Sorted(maps.Keys(all)), nil
}

func addFunctions(all map[string]bool, fact *statement.Statement) {
	for _, o := range fact.Objects {
		if o.Kind == "function" && !o.Write {
			all[o.Name] = true
			all[strings.TrimPrefix(o.Name, o.Name[:lastDot(o.Name)])] = true
		}
	}
}

// lastDot returns where the last part of a name begins, which may be quoted.
func lastDot(name string) int {
	quoted, at := false, 0
	for i := range len(name) {
		switch {
		case name[i] == '"':
			quoted = !quoted
		case name[i] == '.' && !quoted:
			at = i + 1
		}
	}
	return at
}

// cmpOr returns the first error that is one.
func cmpOr(errs ...error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}

// asks reports whether a condition needs the catalog. While only observing nothing is
// asked of a target.
func (x *exchange) asks() bool {
	s := x.session
	return !s.Observe && s.Asks != nil && s.Asks(catalogFacts)
}

// sqlFacts takes what is known of the statements of a request's step now, in front of
// them. As in consult, what the session has defined and the catalog shows by now is
// forgotten with the first step.
func (x *exchange) sqlFacts(r *request, at int) *sqlFacts {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	known, facts := x.know(r.masks), r.steps[at].facts
	if at == 0 && !known.doubt {
		x.code = ownCode{}
		known = x.know(r.masks)
	}
	k := &sqlFacts{facts: facts, known: known, codes: make([]bool, len(facts))}
	for i, fact := range facts {
		x.ownPath = x.ownPath || fact != nil && slices.ContainsFunc(fact.Objects, setsPath)
		effects, _ := x.codeOf(&known, fact)
		k.codes[i] = effects != nil || x.code.runs(fact)
	}
	if !x.weighsCode(r.masks) { // who does, notes them with their effects
		for _, fact := range facts {
			x.code.note(fact)
		}
	}
	return k
}

// lookAgain has the catalog loaded once more in front of a message that needs what it
// does not have. What it does not have then is not known.
func (x *exchange) lookAgain(ctx context.Context, r *request) error {
	x.pending.mu.Lock()
	known := x.know(r.masks)
	lacks := known.behind || slices.ContainsFunc(r.steps, func(s *step) bool {
		return slices.ContainsFunc(s.facts, known.Misses)
	})
	if lacks {
		x.want()
	}
	x.pending.mu.Unlock()
	if !lacks || x.load == nil {
		return nil
	}
	x.lease.pause()
	defer x.lease.resume()
	err := x.settle(ctx)
	if errors.Is(err, catalog.ErrCatalog) {
		return nil // it is not known then
	}
	return err
}
