package postgres

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// Read returns the operations of a text as a session would ask about them that sent
// it in a Query: one for each statement. A name that the text itself has prepared or
// declared stands for that; one that it does not know is unknown.
//
// No target is asked. What only a catalog can tell is taken for the plainest case: a
// relation is a table of its own with nothing behind it, no trigger or the like runs,
// and a name without a schema is one in the first schema of the search_path that the
// text has SET last, or else in public; in pg_catalog if it begins with pg_. So facts
// of relations may be fewer than those of a session.
func (p *Postgres) Read(text string) ([]policy.Operation, error) {
	r := offline{schema: "public", prepared: map[string]*statement.Statement{}, declared: map[string]*statement.Statement{}}
	facts := p.parser.Parse(text)
	operations := make([]policy.Operation, len(facts))
	for i := range facts {
		all := r.resolve(&facts[i])
		describe(&operations[i], all, nil)
		operations[i].Verb, operations[i].Text = facts[i].Verb, facts[i].Text
		operations[i].Facts = &readFacts{facts: all, schema: r.schema}
		r.note(&facts[i])
	}
	return operations, nil
}

// offline is what a text has said so far.
type offline struct {
	schema             string
	prepared, declared map[string]*statement.Statement
}

// resolve returns what the statement stands for.
func (r *offline) resolve(s *statement.Statement) []*statement.Statement {
	all := []*statement.Statement{s}
	for inner := s; inner != nil; inner = inner.Inner {
		if inner.Executes != "" {
			all = append(all, r.prepared[inner.Executes])
		}
		if inner.Fetches != "" {
			all = append(all, r.declared[inner.Fetches])
		}
	}
	return all
}

func (r *offline) note(s *statement.Statement) {
	if s.Prepares != "" {
		r.prepared[s.Prepares] = s.Inner
	}
	if s.Declares != "" {
		r.declared[s.Declares] = s.Inner
	}
	for _, o := range s.Objects {
		if path, ok := strings.CutPrefix(o.Name, searchPath+"="); ok && o.Kind == "setting_value" {
			r.schema = firstSchema(path)
		}
	}
}

// firstSchema returns the schema in which a name without one is taken to be.
func firstSchema(path string) string {
	for _, name := range strings.Split(path, ",") {
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if name != "" && name != "$user" && !strings.HasPrefix(name, "pg_") {
			return name
		}
	}
	return "public"
}

// readFacts are the facts of an operation that was read without a target.
type readFacts struct {
	facts  []*statement.Statement
	schema string
}

// Fact returns a fact for conditions.
func (r *readFacts) Fact(name string) (any, error) {
	switch name {
	case factHasWhere:
		return hasWhere(r.facts)
	case factFunctions:
		return r.functions()
	case factTables, factWritten, factNamed:
		return r.relations(name)
	default:
		return nil, fmt.Errorf("%w: there is no such fact", policy.ErrUnknownFact)
	}
}

func (r *readFacts) relations(name string) (any, error) {
	all := map[string]bool{}
	for _, fact := range r.facts {
		if err := opaque(fact); err != nil {
			return nil, err
		}
		if name != factNamed && fact.Does(statement.Opaque) {
			return nil, unseenIn(fact)
		}
		for _, o := range fact.Objects {
			if o.Kind == "table" && (o.Write || name != factWritten) {
				all[r.qualified(o.Name, fact)] = true
			}
			if o.Kind == "table" && name != factWritten && fact.Reach.Again && o.Name == fact.Reach.Creates {
				all[r.qualified(o.Name, &statement.Statement{})] = true // that is read by the same name
			}
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// qualified returns the name of a relation with a schema, and without a database.
func (r *readFacts) qualified(name string, fact *statement.Statement) string {
	at := lastDot(name)
	switch {
	case at == 0 && name == fact.Reach.Creates && fact.Reach.Temporary:
		return "pg_temp." + name
	case at == 0 && strings.HasPrefix(name, "pg_"):
		return "pg_catalog." + name
	case at == 0:
		return r.schema + "." + name
	}
	return name[lastDot(name[:at-1]):]
}

func (r *readFacts) functions() (any, error) {
	all := map[string]bool{}
	for _, fact := range r.facts {
		if fact == nil || fact.Does(statement.Unknown) || fact.Does(statement.Do) || fact.RunsText() {
			return nil, unseenIn(fact)
		}
		addFunctions(all, fact)
	}
	return slices.Sorted(maps.Keys(all)), nil
}
