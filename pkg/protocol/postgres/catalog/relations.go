package catalog

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// The bounds of what is followed and found for one statement. What needs more is
// not known.
const (
	maxFollowed = 100_000
	maxFound    = 4096
)

// tempSchema is the schema of a session by the name that every session has for its
// own; the server's name for it has a number behind it.
const tempSchema = "pg_temp"

// Relations are all relations that a statement may touch, by their names with a
// schema, as [statement.Object] spells them: those that it names, what views and
// rules are made of, partitions, children and all that these are parts of, and what
// foreign keys and row security lead to. Which schema a name without one means is up
// to the server, so that it stands for each that has such a relation. What a foreign
// key only looks up is not among them.
type Relations struct {
	// All are those that may be read or changed, and Written those of them that may
	// be changed; sorted.
	All, Written []string
	// Missing, if it is not empty, is a name of which nobody knows what it stands
	// for: the lists are not all then.
	Missing string
	// Calls is a view that calls a function which may read anything; nil if there
	// is none.
	Calls *Definition
}

// paths are what a catalog knows of relations that lead to others. They are made when
// they are asked for first.
type paths struct {
	once              sync.Once
	named             map[string][]uint32 // by name, as objects spell it; those of the system, too
	behind            map[uint32][]uint32 // what views and rules are made of
	parents, children map[uint32][]uint32
	leads             map[uint32][]lead
}

// lead says that what happens to a relation at the events given makes event happen to
// another one.
type lead struct {
	to           uint32
	given, event events
}

func (c *Catalog) lay() {
	p := &c.paths
	p.named, p.behind, p.leads = map[string][]uint32{}, map[uint32][]uint32{}, map[uint32][]lead{}
	p.parents, p.children = map[uint32][]uint32{}, map[uint32][]uint32{}
	for oid, r := range c.relations {
		if r.name != "" {
			p.named[spelled(r.name)] = append(p.named[spelled(r.name)], oid)
		}
	}
	for _, d := range c.dependencies {
		if list := p.behind[d.view]; !slices.Contains(list[max(0, len(list)-8):], d.other) { // one for each column, in a row
			p.behind[d.view] = append(list, d.other)
		}
	}
	for _, pair := range c.inherits {
		p.parents[pair[0]] = append(p.parents[pair[0]], pair[1])
		p.children[pair[1]] = append(p.children[pair[1]], pair[0])
	}
	for other, list := range c.behind.implied {
		for _, i := range list {
			p.leads[i.to] = append(p.leads[i.to], lead{other, i.gives, i.event})
		}
	}
}

// Relations returns the relations that the statement may touch, of which it says
// itself that they are whole. Without a catalog every name is missing.
func (s *Shield) Relations(fact *statement.Statement) Relations {
	var found Relations
	if fact == nil || s.catalog == nil {
		found.Missing = "of any name"
		return found
	}
	s.catalog.paths.once.Do(s.catalog.lay)
	f := finder{Catalog: s.catalog, touched: map[uint32]touched{}}
	fresh := map[string]bool{} // by name; whether it is written
	read, written := touches(fact)
	for _, o := range fact.Objects {
		if o.Kind != "table" {
			continue
		}
		writes := o.Write
		if name := s.creates(fact, o); name != "" {
			fresh[name] = o.Write
			if !fact.Reach.Again {
				continue
			}
			writes = slices.ContainsFunc(fact.Effects, changesRows) // or else the other one is only read
		}
		at := read
		if writes {
			at |= written
		}
		oids := f.meant(o.Name)
		if len(oids) == 0 || o.Name == fact.Reach.Creates && !fact.Reach.Temporary && !strings.Contains(o.Name, ".") {
			found.Missing = o.Name
		}
		for _, oid := range oids {
			f.reach(oid, touched{at, writes, true})
		}
	}
	f.follow()
	f.tell(&found, fresh)
	return found
}

func changesRows(effect string) bool {
	return slices.Contains([]string{statement.Delete, statement.Insert, statement.Merge, statement.Update}, effect)
}

// Misses reports whether the statement names a relation that the catalog does not
// have, and does not create it.
func (s *Shield) Misses(fact *statement.Statement) bool {
	if fact == nil || s.catalog == nil {
		return true
	}
	s.catalog.paths.once.Do(s.catalog.lay)
	f := finder{Catalog: s.catalog}
	return slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		return o.Kind == "table" && (o.Name != fact.Reach.Creates || fact.Reach.Again) && len(f.meant(o.Name)) == 0
	})
}

// creates returns the name, with its schema, of a relation that the statement creates
// where the catalog has none; empty if that is not certain.
func (s *Shield) creates(fact *statement.Statement, o statement.Object) string {
	if o.Name != fact.Reach.Creates {
		return ""
	}
	schema, name := cutName(o.Name)
	f := finder{Catalog: s.catalog}
	switch {
	case fact.Reach.Temporary:
		return tempSchema + "." + name
	case schema != "" && len(f.meant(o.Name)) == 0:
		return schema + "." + name
	default:
		return ""
	}
}

// CalledOnRow returns the names behind a dot in the statement that may be those of
// functions.
func (s *Shield) CalledOnRow(fact *statement.Statement) []string {
	if fact == nil || s.catalog == nil {
		return nil
	}
	var names []string
	for _, a := range fact.Mentions.Attributes {
		if !slices.Contains(systemColumns, a.Name) && (s.catalog.code.onRow(a.Name) || s.mayCall(fact, a)) {
			names = append(names, a.Name)
		}
	}
	return names
}

// finder follows relations to those that they lead to.
type finder struct {
	*Catalog
	touched map[uint32]touched
	queue   []uint32
	steps   int
	lost    bool
	calls   *relation
}

// touched is what may happen to a relation. Down tells that its children are touched
// with it.
type touched struct {
	at            events
	written, down bool
}

// meant returns the relations that a name in a statement may stand for.
func (f *finder) meant(full string) []uint32 {
	schema, name := cutName(full)
	temporary := full == tempSchema+"."+name || strings.HasSuffix(full, "."+tempSchema+"."+name)
	var oids []uint32
	for _, oid := range f.paths.named[name] {
		in := f.relations[oid].schema
		if temporary && strings.HasPrefix(in, tempSchema+"_") || !temporary && (schema == "" || schema == spelled(in)) {
			oids = append(oids, oid)
		}
	}
	return oids
}

func (f *finder) reach(oid uint32, t touched) {
	old, ok := f.touched[oid]
	now := touched{old.at | t.at, old.written || t.written, old.down || t.down}
	if ok && now == old {
		return
	}
	f.touched[oid] = now
	f.queue = append(f.queue, oid)
}

func (f *finder) follow() {
	for len(f.queue) > 0 && !f.lost {
		oid := f.queue[len(f.queue)-1]
		f.queue = f.queue[:len(f.queue)-1]
		f.step(oid, f.touched[oid])
	}
}

func (f *finder) step(oid uint32, t touched) {
	r := f.relations[oid]
	if r == nil || r.name == "" { // one without a column, and no name is known of it
		f.lost = true
		return
	}
	if r.calls && f.calls == nil {
		f.calls = r
	}
	behind, children, leads := f.paths.behind[oid], f.paths.children[oid], f.paths.leads[oid]
	f.steps += 1 + len(behind) + len(children) + len(leads)
	if f.lost = f.steps > maxFollowed; f.lost {
		return
	}
	if r.view || t.written {
		for _, other := range behind {
			f.reach(other, seenThrough(r, t))
		}
	}
	for _, l := range leads {
		if t.at&l.given != 0 {
			f.reach(l.to, touched{l.event, l.event&(modified|truncated) != 0, true})
		}
	}
	for _, parent := range f.paths.parents[oid] {
		f.reach(parent, touched{0, t.written, false})
	}
	if t.down {
		for _, child := range children {
			f.reach(child, t)
		}
	}
}

// seenThrough returns what may happen to what a view, or a table with rules, is made
// of.
func seenThrough(r *relation, t touched) touched {
	if r.stored || !t.written {
		return touched{selected, false, true}
	}
	return touched{t.at | selected | modified, true, true}
}

// tell writes what was found into the answer.
func (f *finder) tell(found *Relations, fresh map[string]bool) {
	if f.lost || len(f.touched) > maxFound {
		found.Missing = "behind one that it names"
		return
	}
	all := maps.Clone(fresh)
	for oid, t := range f.touched {
		r := f.relations[oid]
		name := spelled(r.schema) + "." + spelled(r.name)
		all[name] = all[name] || t.written
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		found.All = append(found.All, name)
		if all[name] {
			found.Written = append(found.Written, name)
		}
	}
	if f.calls != nil {
		found.Calls = &Definition{Schema: f.calls.schema, Relation: f.calls.name, What: "the query"}
	}
}
