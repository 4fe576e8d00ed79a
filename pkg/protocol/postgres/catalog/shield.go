package catalog

import "github.com/headgate/headgate/pkg/mask"

// maxSteps bounds the work of following protected columns. A catalog that needs
// more is no work of people.
const maxSteps = 20_000_000

// Shield is what a mask set means in a database. It is immutable and may be used
// by any number of goroutines.
type Shield struct {
	set     *mask.Set
	catalog *Catalog // nil if nothing is known
	columns map[uint32]map[int16]mask.Action
	// names are those of protected columns, by the name of their relation: a
	// view may give them other names than the set's patterns have.
	names map[string]map[string]bool
	// qualified are the schemas of relations with a protected column, by the name
	// of the relation, and schemas are all of them.
	qualified map[string]map[string]bool
	schemas   map[string]bool
}

// NewShield applies the set to the catalog, and follows protected columns through
// views and inheritance. A nil catalog is one that could not be loaded: everything
// is protected then, if the set protects columns.
func NewShield(set *mask.Set, c *Catalog) *Shield {
	s := &Shield{set: set, catalog: c}
	if c == nil {
		return s
	}
	c.index.Do(c.seal)
	if !set.HasColumns() {
		return s
	}
	s.columns = make(map[uint32]map[int16]mask.Action)
	s.names, s.qualified = make(map[string]map[string]bool), make(map[string]map[string]bool)
	s.schemas = make(map[string]bool)
	f := follower{Shield: s, budget: maxSteps}
	if !f.run() {
		return &Shield{set: set}
	}
	return s
}

// Set returns the masks that the shield applies.
func (s *Shield) Set() *mask.Set { return s.set }

// Of reports whether the shield is that of the set in the catalog.
func (s *Shield) Of(set *mask.Set, c *Catalog) bool {
	return s != nil && s.set == set && s.catalog == c
}

// follower builds a shield.
type follower struct {
	*Shield
	budget int
	queue  []protected
}

// protected is a column that was protected a moment ago, and what depends on it
// was not yet.
type protected struct {
	oid    uint32
	column attribute
}

// run reports whether the work is done.
func (f *follower) run() bool {
	for oid, r := range f.catalog.relations {
		if oid < FirstUserOID {
			f.system(oid, r)
			continue
		}
		for _, a := range r.attributes {
			if action, ok := f.set.Column(r.schema, r.name, a.name); ok {
				f.protect(oid, a, action)
			}
		}
	}
	if len(f.columns) == 0 {
		return true
	}
	for oid, r := range f.catalog.relations {
		if r.calls || r.quotes && f.set.NoDefinitions() {
			f.protectAll(oid)
		}
	}
	for len(f.queue) > 0 && f.budget > 0 {
		next := f.queue[len(f.queue)-1]
		f.queue = f.queue[:len(f.queue)-1]
		f.follow(next)
	}
	return len(f.queue) == 0
}

// follow protects what shows a column elsewhere: views that use it, and the
// column of the same name in the relations that inherit it or from which it is
// inherited.
func (f *follower) follow(p protected) {
	readers, kin := f.catalog.readers[p.oid], f.catalog.kin[p.oid]
	f.budget -= 1 + len(readers)
	for _, d := range readers {
		view := f.catalog.relations[d.view]
		if d.number == p.column.number || view != nil && view.whole {
			f.protectAll(d.view)
		}
	}
	for _, oid := range kin {
		r := f.catalog.relations[oid]
		if r == nil {
			continue
		}
		f.budget -= 1 + len(r.attributes)
		if f.budget <= 0 {
			f.queue = append(f.queue, p) // it was not done
			return
		}
		for _, a := range r.attributes {
			if a.name == p.column.name {
				f.protect(oid, a, f.columns[p.oid][p.column.number])
			}
		}
	}
}

func (f *follower) protect(oid uint32, a attribute, action mask.Action) {
	columns := f.columns[oid]
	if columns == nil {
		columns = make(map[int16]mask.Action)
		f.columns[oid] = columns
	}
	if old, ok := columns[a.number]; ok && old.With <= action.With {
		return
	}
	columns[a.number] = action
	f.queue = append(f.queue, protected{oid, a})
	if r := f.catalog.relations[oid]; r != nil {
		f.name(oid, r, a)
	}
}

// name notes by which names a protected column is found.
func (f *follower) name(oid uint32, r *relation, a attribute) {
	if f.names[r.name] == nil {
		f.names[r.name], f.qualified[r.name] = make(map[string]bool), make(map[string]bool)
	}
	f.names[r.name][a.name] = true
	f.qualified[r.name][r.schema] = true
	if oid >= FirstUserOID {
		f.schemas[r.schema] = true
	}
}

func (f *follower) protectAll(oid uint32) {
	r := f.catalog.relations[oid]
	if r == nil {
		return
	}
	f.budget -= len(r.attributes)
	for _, a := range r.attributes {
		f.protect(oid, a, f.set.Strictest())
	}
}

// Column returns what to do with a plain column; known is false if the catalog
// does not have it, and the action is the strictest then.
func (s *Shield) Column(oid uint32, number int16) (action mask.Action, protected, known bool) {
	if s.catalog == nil {
		return s.set.Strictest(), true, false
	}
	r, ok := s.catalog.relations[oid]
	if !ok {
		if oid < FirstUserOID {
			return mask.Action{}, false, true
		}
		return s.set.Strictest(), true, false
	}
	switch {
	case number < 0: // system columns hold no data
		return mask.Action{}, false, true
	case number == 0: // the whole row
		return s.set.Strictest(), len(s.columns[oid]) > 0, true
	}
	if action, ok := s.columns[oid][number]; ok {
		return action, true, true
	}
	for _, a := range r.attributes {
		if a.number == number {
			return mask.Action{}, false, true
		}
	}
	return s.set.Strictest(), true, false
}

// View reports whether a relation is a view: what it shows can be replaced under
// the same OID. So it is of a relation that the catalog does not have; those of the
// system stay as they are.
func (s *Shield) View(oid uint32) bool {
	if s.catalog == nil {
		return true
	}
	r := s.catalog.relations[oid]
	return r != nil && r.view && oid >= FirstUserOID
}
