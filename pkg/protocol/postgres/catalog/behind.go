package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// maxBehind bounds the rows that tell what relations run by themselves.
const maxBehind = 200_000

// events are what happens to a relation when it runs something. Each has a letter
// in the rows of [Query].
type events uint8

const (
	selected events = 1 << iota
	inserted
	updated
	deleted
	truncated
	rebuilt // ALTER TABLE, CREATE INDEX, REFRESH, ANALYZE: the rows are gone through
	locked  // SELECT FOR UPDATE
	inParts // no event: what is written to a partition or a child runs it, too
)

// modified are the events of what most statements do to a row.
const modified = inserted | updated | deleted

// eventLetters are the letters of events, in their order.
const eventLetters = "siudtmlp"

func parseEvents(letters string) (e events, err error) {
	for _, letter := range []byte(letters) {
		i := strings.IndexByte(eventLetters, letter)
		if i < 0 {
			return 0, fmt.Errorf("%w: event %q", ErrCatalog, letter)
		}
		e |= 1 << i
	}
	return e, nil
}

// effectEvents are the events of the relations that a statement with an effect
// writes to.
var effectEvents = map[string]events{
	statement.Insert:      inserted,
	statement.Update:      updated | selected,
	statement.Delete:      deleted | selected,
	statement.Truncate:    truncated,
	statement.DDL:         rebuilt,
	statement.Maintenance: rebuilt,
	statement.Select:      selected,
}

// Definition is something of a database that runs code of users.
type Definition struct {
	Schema, Relation string // where it is
	What             string // as "a trigger"
}

// String returns it in words.
func (d *Definition) String() string {
	if d.Relation == "" {
		return d.What
	}
	return d.What + " of " + d.Schema + "." + d.Relation
}

// origin is a [Definition] whose relation is not looked up yet.
type origin struct {
	oid  uint32
	what string
}

// runs are the events at which a relation runs code of users, with the first
// definition that was found to do it.
type runs struct {
	events events
	first  [8]*origin
}

// implied says that what happens to one relation happens to another one, too: at
// the events gives to the relation that it belongs to, event to the other.
type implied struct {
	to           uint32
	gives, event events
}

// behind is what relations run by themselves.
type behind struct {
	origins []origin
	events  []events // of each of origins
	implied map[uint32][]implied
	total   int
	// everywhere, if it is not empty, runs in statements that do not show it.
	everywhere string

	// at are the relations that run something, by name and schema, both as
	// [statement.Object] spells them.
	at map[string]map[string]*runs
}

func (b *behind) add(oid uint32, cells [Columns]string) error {
	b.total++
	first, err := parseEvents(cells[2])
	if err != nil {
		return err
	}
	if cells[0] == "x" && oid == 0 {
		b.everywhere = cells[4]
		return bounded(b.total, maxBehind)
	}
	if cells[0] == "x" {
		b.origins, b.events = append(b.origins, origin{oid, cells[4]}), append(b.events, first)
		return bounded(b.total, maxBehind)
	}
	other, err := parseOID(cells[3])
	if err != nil {
		return err
	}
	event, err := parseEvents(cells[4])
	if err != nil {
		return err
	}
	if b.implied == nil {
		b.implied = make(map[uint32][]implied)
	}
	b.implied[other] = append(b.implied[other], implied{oid, first, event})
	return bounded(b.total, maxBehind)
}

// Ignorant reports whether there is no catalog to tell what runs code of users:
// [Shield.RunsCode] and [Shield.RunsBehind] find nothing then.
func (s *Shield) Ignorant() bool { return s.catalog == nil }

// RunsBehind returns a definition of the database that runs code of users when the
// statement is carried out: a trigger or a default of a relation that it writes to,
// the query of a view. It returns nil if there is none, and where nothing is known
// without a catalog. A relation without a schema stands for all of that name.
func (s *Shield) RunsBehind(fact *statement.Statement) *Definition {
	if fact == nil || s.catalog == nil || idle(fact) {
		return nil
	}
	if what := s.catalog.behind.everywhere; what != "" && Computes(fact) {
		return &Definition{What: what}
	}
	if len(s.catalog.behind.at) == 0 {
		return nil
	}
	if by := s.catalog.behind.handed(&fact.Definitions); by != nil {
		return s.define(by)
	}
	read, written := touches(fact)
	for _, o := range fact.Objects {
		at := read
		if o.Write {
			at = written
		}
		if o.Kind != "table" {
			continue
		}
		if by := s.catalog.behind.find(o.Name, at); by != nil {
			return s.define(by)
		}
	}
	return nil
}

func (s *Shield) define(by *origin) *Definition {
	d := &Definition{What: by.what}
	if r := s.catalog.relations[by.oid]; r != nil {
		d.Schema, d.Relation = r.schema, r.name
	}
	return d
}

// handed returns what would run under a name that the catalog does not have yet,
// once the statement has made it; nil if nothing would.
func (b *behind) handed(d *statement.Definitions) *origin {
	for _, name := range d.Heirs {
		if by := b.find(name, ^inParts); by != nil {
			return by
		}
	}
	if len(d.Schemas) == 0 {
		return nil
	}
	for _, places := range b.at {
		for schema, found := range places {
			if !slices.ContainsFunc(d.Schemas, func(name string) bool { return spelled(name) == schema }) {
				continue
			}
			for _, by := range found.first {
				if by != nil {
					return by
				}
			}
		}
	}
	return nil
}

// idle reports whether nothing that is in a relation runs, whatever is in there.
func idle(fact *statement.Statement) bool {
	return fact.Verb == statement.Drop || !slices.ContainsFunc(fact.Effects, func(e string) bool {
		return e != statement.Lock && e != statement.DCL && e != statement.Drop
	})
}

// Computes reports whether the statement may compute anything, beside what it defines.
func Computes(fact *statement.Statement) bool {
	return slices.ContainsFunc(fact.Effects, func(e string) bool {
		_, ok := effectEvents[e]
		return ok || slices.Contains([]string{statement.Call, statement.CopyIn, statement.CopyOut, statement.Explain, statement.Merge}, e)
	})
}

// touches returns the events of the relations that a statement reads, and of those
// that it writes to.
func touches(fact *statement.Statement) (read, written events) {
	if fact.Does(statement.Unknown) {
		return ^inParts, ^inParts
	}
	read = selected
	if fact.Does(statement.Lock) {
		read |= locked
	}
	if fact.Does(statement.Maintenance) { // ANALYZE and VACUUM count as readers
		read |= rebuilt
	}
	for _, effect := range fact.Effects {
		written |= effectEvents[effect]
	}
	return read, written
}

// find returns what runs at one of the events; nil if nothing does.
func (b *behind) find(name string, at events) *origin {
	schema, name := cutName(name)
	for in, found := range b.at[name] {
		if schema != "" && schema != in || found.events&at == 0 {
			continue
		}
		for i, by := range found.first {
			if at&found.events&(1<<i) != 0 {
				return by
			}
		}
	}
	return nil
}

// cutName cuts a relation's name, as a statement spells it, into the schema and the
// rest. There is no schema if any may be meant.
func cutName(full string) (schema, name string) {
	quoted, from, last := false, 0, -1 // the schema begins at from and ends at last
	for i := range len(full) {
		switch {
		case full[i] == '"':
			quoted = !quoted
		case full[i] == '.' && !quoted:
			from, last = last+1, i
		}
	}
	if last < 0 {
		return "", full
	}
	schema = full[from:last]
	if schema == "pg_temp" { // stands for the schema of a session
		schema = ""
	}
	return schema, full[last+1:]
}

// spelled returns a part of a name as [statement.Object] spells it.
func spelled(part string) string {
	if strings.ContainsAny(part, `."`) {
		return `"` + strings.ReplaceAll(part, `"`, `""`) + `"`
	}
	return part
}
