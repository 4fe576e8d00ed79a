package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// The bounds of what is remembered of a database.
const (
	maxAttributes   = 200_000
	maxDependencies = 200_000
)

// firstUserOID is the first OID that a server gives to what users create
// (FirstNormalObjectId in access/transam.h).
const firstUserOID = 16384

var errCatalog = errors.New("catalog is not what was expected")

// catalogQuery lists, in five columns of text:
//
//	c  relation  attribute number  schema  relation name  attribute name  kind
//	d  view      attribute number of the other or 0       the other
//	w  view      (it refers to a whole row, which leaves no trace in pg_depend)
//	f  view      (it calls a function that may read anything)
//	i  child     parent
//
// Every name and operator is qualified: the agent's search_path is in force.
// The statistics of a column hold its values, so the relations that show them
// are listed beside those of users.
const catalogQuery = `SELECT 'c'::pg_catalog.text, c.oid::pg_catalog.text, a.attnum::pg_catalog.text,` +
	` n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.attname::pg_catalog.text, c.relkind::pg_catalog.text` +
	` FROM pg_catalog.pg_class c, pg_catalog.pg_namespace n, pg_catalog.pg_attribute a` +
	` WHERE n.oid OPERATOR(pg_catalog.=) c.relnamespace AND a.attrelid OPERATOR(pg_catalog.=) c.oid` +
	` AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped` +
	` AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,m,f,p}'::pg_catalog."char"[])` +
	` AND (c.oid::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8 OR c.relname OPERATOR(pg_catalog.=)` +
	` ANY ('{pg_statistic,pg_statistic_ext_data,pg_stats,pg_stats_ext,pg_stats_ext_exprs}'::pg_catalog.name[]))` +
	` UNION ALL SELECT 'd', r.ev_class::pg_catalog.text, d.refobjsubid::pg_catalog.text, d.refobjid::pg_catalog.text, '', '', ''` +
	` FROM pg_catalog.pg_depend d, pg_catalog.pg_rewrite r` +
	` WHERE d.classid OPERATOR(pg_catalog.=) 2618::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) r.oid` +
	` AND d.refclassid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class` +
	` AND r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` UNION ALL SELECT 'w', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND pg_catalog.strpos(r.ev_action::pg_catalog.text, ':varattno 0 ') OPERATOR(pg_catalog.>) 0` +
	` UNION ALL SELECT 'f', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND (EXISTS (SELECT 1 FROM pg_catalog.pg_depend f WHERE f.classid OPERATOR(pg_catalog.=) 2618::pg_catalog.oid` +
	` AND f.objid OPERATOR(pg_catalog.=) r.oid AND f.refclassid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid)` +
	` OR r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT pg_catalog.concat(':funcid (',` +
	` pg_catalog.string_agg(p.oid::pg_catalog.text, '|'), ') ') FROM pg_catalog.pg_proc p` +
	` WHERE p.proname::pg_catalog.text OPERATOR(pg_catalog.~) '_to_xml'))` +
	` UNION ALL SELECT 'i', h.inhrelid::pg_catalog.text, h.inhparent::pg_catalog.text, '', '', '', ''` +
	` FROM pg_catalog.pg_inherits h`

const catalogColumns = 7

// attribute is one column of a relation.
type attribute struct {
	number int16
	name   string
}

type relation struct {
	schema, name string
	view         bool
	// whole: a view that refers to a whole row; calls: to a function that may
	// read anything.
	whole, calls bool
	attributes   []attribute
}

// dependency says that a view uses a column of another relation; number 0 stands
// for the relation as such.
type dependency struct {
	view, other uint32
	number      int16
}

// catalog is what a database's relations are made of. It is built row by row and
// immutable then.
type catalog struct {
	relations    map[uint32]*relation
	dependencies []dependency
	inherits     [][2]uint32 // child, parent
	attributes   int
}

func newCatalog() *catalog { return &catalog{relations: make(map[uint32]*relation)} }

// add takes one row of the catalog query: the body of a DataRow.
func (c *catalog) add(body []byte) error {
	row, n, err := wire.DecodeDataRow(body)
	if err != nil {
		return err
	}
	if n != catalogColumns {
		return fmt.Errorf("%w: %d columns", errCatalog, n)
	}
	var cells [catalogColumns]string
	for i := range cells {
		cells[i] = string(row.Next())
	}
	if err := row.Err(); err != nil {
		return err
	}
	oid, err := parseOID(cells[1])
	if err != nil {
		return err
	}
	switch cells[0] {
	case "c":
		return c.addAttribute(oid, cells)
	case "d":
		return c.addDependency(oid, cells)
	case "w":
		c.relation(oid).whole = true
		return nil
	case "f":
		c.relation(oid).calls = true
		return nil
	case "i":
		parent, err := parseOID(cells[2])
		c.inherits = append(c.inherits, [2]uint32{oid, parent})
		return errors.Join(err, bounded(len(c.inherits), maxDependencies))
	default:
		return fmt.Errorf("%w: row %q", errCatalog, cells[0])
	}
}

func (c *catalog) relation(oid uint32) *relation {
	r, ok := c.relations[oid]
	if !ok {
		r = &relation{}
		c.relations[oid] = r
	}
	return r
}

func (c *catalog) addAttribute(oid uint32, cells [catalogColumns]string) error {
	number, err := strconv.ParseInt(cells[2], 10, 16)
	if err != nil {
		return fmt.Errorf("%w: attribute number", errCatalog)
	}
	r := c.relation(oid)
	r.schema, r.name = cells[3], cells[4]
	r.view = cells[6] == "v" || cells[6] == "m"
	r.attributes = append(r.attributes, attribute{int16(number), cells[5]})
	c.attributes++
	return bounded(c.attributes, maxAttributes)
}

func (c *catalog) addDependency(oid uint32, cells [catalogColumns]string) error {
	number, err := strconv.ParseInt(cells[2], 10, 16)
	if err != nil {
		return fmt.Errorf("%w: attribute number", errCatalog)
	}
	other, err := parseOID(cells[3])
	c.dependencies = append(c.dependencies, dependency{view: oid, other: other, number: int16(number)})
	return errors.Join(err, bounded(len(c.dependencies), maxDependencies))
}

func bounded(n, limit int) error {
	if n > limit {
		return fmt.Errorf("%w: more than %d entries", errCatalog, limit)
	}
	return nil
}

func parseOID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: object id", errCatalog)
	}
	return uint32(n), nil
}

// shield is what a mask set means in a database. It is immutable.
type shield struct {
	set     *mask.Set
	catalog *catalog
	columns map[uint32]map[int16]mask.Action
	// names are those of protected columns, by the name of their relation: a
	// view may give them other names than the set's patterns have.
	names map[string]map[string]bool
	// known are the names of all columns, by the name of their relation.
	known map[string]map[string]bool
	// qualified are the schemas of relations with a protected column, by the name
	// of the relation, and schemas are all of them.
	qualified map[string]map[string]bool
	schemas   map[string]bool
}

// newShield applies the set to the catalog, and follows protected columns through
// views and inheritance.
func newShield(set *mask.Set, c *catalog) *shield {
	s := &shield{set: set, catalog: c, columns: make(map[uint32]map[int16]mask.Action), names: make(map[string]map[string]bool),
		known: make(map[string]map[string]bool), qualified: make(map[string]map[string]bool), schemas: make(map[string]bool)}
	if c == nil || !set.HasColumns() {
		return s
	}
	for oid, r := range c.relations {
		if s.known[r.name] == nil {
			s.known[r.name] = make(map[string]bool)
		}
		for _, a := range r.attributes {
			s.known[r.name][a.name] = true
			if action, ok := set.Column(r.schema, r.name, a.name); ok {
				s.protect(oid, a, action)
			}
		}
		if oid < firstUserOID { // statistics hold values of columns
			s.protectAll(oid)
		}
	}
	for s.spread() {
		continue // until nothing new is protected
	}
	return s
}

// protect reports whether that was news.
func (s *shield) protect(oid uint32, a attribute, action mask.Action) bool {
	columns := s.columns[oid]
	if columns == nil {
		columns = make(map[int16]mask.Action)
		s.columns[oid] = columns
	}
	if old, ok := columns[a.number]; ok && old.With <= action.With {
		return false
	}
	columns[a.number] = action
	if r := s.catalog.relations[oid]; r != nil {
		if s.names[r.name] == nil {
			s.names[r.name] = make(map[string]bool)
		}
		s.names[r.name][a.name] = true
		s.locate(oid, r)
	}
	return true
}

// locate notes where a relation with a protected column is.
func (s *shield) locate(oid uint32, r *relation) {
	if s.qualified[r.name] == nil {
		s.qualified[r.name] = make(map[string]bool)
	}
	s.qualified[r.name][r.schema] = true
	if oid >= firstUserOID {
		s.schemas[r.schema] = true
	}
}

func (s *shield) protectAll(oid uint32) bool {
	r := s.catalog.relations[oid]
	if r == nil {
		return false
	}
	news := false
	for _, a := range r.attributes {
		news = s.protect(oid, a, s.set.Strictest()) || news
	}
	return news
}

// spread protects what depends on something protected; it reports whether that
// was anything new.
func (s *shield) spread() bool {
	news := false
	for oid, r := range s.catalog.relations {
		if r.calls && len(s.columns) > 0 {
			news = s.protectAll(oid) || news
		}
	}
	for _, d := range s.catalog.dependencies {
		_, reads := s.columns[d.other][d.number]
		view := s.catalog.relations[d.view]
		if reads || view != nil && view.whole && len(s.columns[d.other]) > 0 {
			news = s.protectAll(d.view) || news
		}
	}
	for _, pair := range s.catalog.inherits {
		news = s.inherit(pair[0], pair[1]) || news
		news = s.inherit(pair[1], pair[0]) || news
	}
	return news
}

// inherit protects the columns of to that are protected, by name, in from.
func (s *shield) inherit(to, from uint32) bool {
	target, source := s.catalog.relations[to], s.catalog.relations[from]
	if target == nil || source == nil {
		return false
	}
	news := false
	for _, a := range source.attributes {
		action, ok := s.columns[from][a.number]
		if !ok {
			continue
		}
		for _, b := range target.attributes {
			if b.name == a.name {
				news = s.protect(to, b, action) || news
			}
		}
	}
	return news
}

// column returns what to do with a plain column; known is false if the catalog
// does not have it, and the action is the strictest then.
func (s *shield) column(oid uint32, number int16) (action mask.Action, protected, known bool) {
	if s.catalog == nil {
		return s.set.Strictest(), true, false
	}
	r, ok := s.catalog.relations[oid]
	if !ok {
		if oid < firstUserOID {
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

// reveals reports whether a computed column of the statement may carry protected
// data. A relation that it names stands for all relations of that name: which
// schema is meant is up to the server.
func (s *shield) reveals(fact *statement.Statement) bool {
	return fact.MayReveal(s.protected(fact)) || s.callsOnRow(fact)
}

// looksAt reports whether the statement itself may look at protected data,
// wherever in it.
func (s *shield) looksAt(fact *statement.Statement) bool {
	return fact.MayTouch(s.protected(fact)) || s.callsOnRow(fact)
}

// touches reports whether protected data may be in reach while the statement
// runs: in defaults, triggers, policies and expressions of indexes too, which a
// relation with protected columns may have.
func (s *shield) touches(fact *statement.Statement) bool {
	return s.looksAt(fact) || slices.ContainsFunc(fact.Tables(), func(table string) bool {
		return s.strange(table) || len(s.names[unqualified(table)]) > 0
	})
}

// strange reports whether nobody knows what a relation is made of.
func (s *shield) strange(table string) bool {
	return strings.Contains(table, `"`) || !s.ofSystem(table) && s.known[unqualified(table)] == nil
}

// protected tells of a column's name whether it may be a protected column of a
// relation that the statement names. Any is while nobody knows what one of them is
// made of.
func (s *shield) protected(fact *statement.Statement) func(column string) bool {
	tables := fact.Tables()
	strange := slices.ContainsFunc(tables, s.strange)
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
// is up to its definition.
func (s *shield) callsOnRow(fact *statement.Statement) bool {
	if fact == nil || len(fact.Mentions.Attributes) == 0 {
		return false
	}
	tables := slices.DeleteFunc(fact.Tables(), s.ofSystem)
	if len(tables) == 0 {
		return false
	}
	return slices.ContainsFunc(fact.Mentions.Attributes, func(name string) bool {
		return !slices.Contains(systemColumns, name) && !s.hasColumn(tables, name)
	})
}

// ofSystem reports whether a name can only be a relation of the system: its
// schema is searched first.
func (s *shield) ofSystem(table string) bool {
	if schema, _, ok := strings.Cut(table, "."); ok {
		return schema == "pg_catalog" || schema == "information_schema"
	}
	return strings.HasPrefix(table, "pg_") && s.known[table] == nil
}

// systemColumns are in every table.
var systemColumns = []string{"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}

func (s *shield) hasColumn(tables []string, column string) bool {
	for _, table := range tables {
		if s.known[unqualified(table)][column] {
			return true
		}
	}
	return false
}

// view reports whether a relation is a view: what it shows can be replaced
// under the same OID.
func (s *shield) view(oid uint32) bool {
	if s.catalog == nil {
		return false
	}
	r := s.catalog.relations[oid]
	return r != nil && r.view
}
