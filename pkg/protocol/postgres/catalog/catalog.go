package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// The bounds of what is remembered of a database.
const (
	maxAttributes   = 200_000
	maxDependencies = 200_000
	maxRelations    = 200_000
	// maxName bounds one name in bytes: four times what a server is built with.
	maxName = 256
)

// FirstUserOID is the first OID that a server gives to what users create
// (FirstNormalObjectId in access/transam.h).
const FirstUserOID = 16384

// ErrCatalog is wrapped by the errors of a catalog that could not be loaded: its rows
// are not what [Query] returns, or too many, or the target did not send them.
var ErrCatalog = errors.New("catalog can't be read")

// attribute is one column of a relation.
type attribute struct {
	number int16
	name   string
}

type relation struct {
	schema, name string
	view         bool
	// whole: a view that refers to a whole row; calls: to a function that may
	// read anything;
	// quotes: to one that shows definitions.
	whole, calls, quotes bool
	// ruled: a rule runs where it is written.
	ruled bool
	// stored: a materialized view; partitioned: a table of partitions.
	stored, partitioned bool
	attributes          []attribute
	// keys are the columns whose values a violation tells of; 0 stands for all.
	keys map[int16]bool
}

// dependency says that a view uses a column of another relation; number 0 stands
// for the relation as such.
type dependency struct {
	view, other uint32
	number      int16
}

// Catalog is what a database's relations are made of. It is built row by row, by
// one goroutine; once it was given to [NewShield] it is immutable and may be used
// by many. The zero Catalog is not ready to use; see [New].
type Catalog struct {
	relations    map[uint32]*relation
	dependencies []dependency
	inherits     [][2]uint32 // child, parent
	attributes   int
	code         code
	behind       behind

	paths paths
	index sync.Once
	// known are the names of all columns, by the name of their relation, and system
	// those of relations that every database has: which are no more than what users
	// may have, too, under the same name in another schema.
	known, system map[string]map[string]bool
	// places are the schemas of relations, by their name.
	places map[string]map[string]bool
	// oids are those of relations of users, by their name.
	oids map[string][]uint32
	// ruled are the names of relations with rules, and views those of views.
	ruled, views map[string]bool
	// readers are the dependencies by what they depend on, and kin the other end
	// of each inheritance, from both ends.
	readers map[uint32][]dependency
	kin     map[uint32][]uint32
}

// New returns a catalog without a relation.
func New() *Catalog { return &Catalog{relations: make(map[uint32]*relation)} }

// Attributes returns the number of columns in the catalog: what it costs to keep
// and to apply masks to.
func (c *Catalog) Attributes() int {
	if c == nil {
		return 0
	}
	return c.attributes
}

// Add takes one row of [Query]: the body of a DataRow, which is copied. Errors
// wrap [ErrCatalog] or wire.ErrMalformed, and leave a catalog that must not be
// used.
func (c *Catalog) Add(body []byte) error {
	cells, err := decode(body)
	if err != nil {
		return err
	}
	oid, err := parseOID(cells[1])
	if err != nil {
		return err
	}
	switch cells[0] {
	case "u", "o", "t", "e", "g", "p":
		return c.code.add(cells)
	case "x", "y":
		return c.behind.add(oid, cells)
	}
	r, err := c.relation(oid)
	if err != nil {
		return err
	}
	switch cells[0] {
	case "c":
		return c.addAttribute(r, cells)
	case "d":
		return c.addDependency(oid, cells)
	case "w":
		r.whole = true
		return nil
	case "f":
		r.calls = true
		return nil
	case "q":
		r.quotes = true
		return nil
	case "r":
		r.ruled = true
		return nil
	case "k":
		return r.addKey(cells[2])
	case "i":
		parent, err := parseOID(cells[2])
		c.inherits = append(c.inherits, [2]uint32{oid, parent})
		return errors.Join(err, bounded(len(c.inherits), maxDependencies))
	default:
		return fmt.Errorf("%w: row %q", ErrCatalog, cells[0])
	}
}

func decode(body []byte) (cells [Columns]string, err error) {
	row, n, err := wire.DecodeDataRow(body)
	if err != nil {
		return cells, err
	}
	if n != Columns {
		return cells, fmt.Errorf("%w: %d columns", ErrCatalog, n)
	}
	for i := range cells {
		value := row.Next()
		limit := maxName
		if cells[0] == "p" {
			limit = maxPath
		}
		if len(value) > limit {
			return cells, fmt.Errorf("%w: a name of %d bytes", ErrCatalog, len(value))
		}
		cells[i] = string(value)
	}
	return cells, row.Err()
}

func (c *Catalog) relation(oid uint32) (*relation, error) {
	r, ok := c.relations[oid]
	if !ok {
		r = &relation{}
		c.relations[oid] = r
	}
	return r, bounded(len(c.relations), maxRelations)
}

// addKey notes a column by which rows are told apart; number 0 stands for all.
func (r *relation) addKey(number string) error {
	n, err := strconv.ParseInt(number, 10, 16)
	if err != nil {
		return fmt.Errorf("%w: attribute number", ErrCatalog)
	}
	if r.keys == nil {
		r.keys = make(map[int16]bool)
	}
	r.keys[int16(n)] = true
	return nil
}

func (c *Catalog) addAttribute(r *relation, cells [Columns]string) error {
	number, err := strconv.ParseInt(cells[2], 10, 16)
	if err != nil {
		return fmt.Errorf("%w: attribute number", ErrCatalog)
	}
	if r.schema != cells[3] || r.name != cells[4] { // one string for all attributes
		r.schema, r.name = cells[3], cells[4]
	}
	r.stored, r.partitioned = cells[6] == "m", cells[6] == "p"
	r.view = cells[6] == "v" || r.stored
	r.attributes = append(r.attributes, attribute{int16(number), cells[5]})
	c.attributes++
	return bounded(c.attributes, maxAttributes)
}

func (c *Catalog) addDependency(oid uint32, cells [Columns]string) error {
	number, err := strconv.ParseInt(cells[2], 10, 16)
	if err != nil {
		return fmt.Errorf("%w: attribute number", ErrCatalog)
	}
	other, err := parseOID(cells[3])
	c.dependencies = append(c.dependencies, dependency{view: oid, other: other, number: int16(number)})
	return errors.Join(err, bounded(len(c.dependencies), maxDependencies))
}

func bounded(n, limit int) error {
	if n > limit {
		return fmt.Errorf("%w: more than %d entries", ErrCatalog, limit)
	}
	return nil
}

func parseOID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: object id", ErrCatalog)
	}
	return uint32(n), nil
}

// seal makes what all shields of the catalog share.
func (c *Catalog) seal() {
	c.known = make(map[string]map[string]bool, len(c.relations))
	c.places = make(map[string]map[string]bool, len(c.relations))
	c.system = make(map[string]map[string]bool)
	c.ruled, c.views = make(map[string]bool), make(map[string]bool)
	c.oids = make(map[string][]uint32, len(c.relations))
	for oid, r := range c.relations {
		if oid < FirstUserOID {
			note(c.system, r)
			continue
		}
		if r.ruled {
			c.ruled[r.name] = true
		}
		if r.view {
			c.views[r.name] = true
		}
		if c.places[r.name] == nil {
			c.places[r.name] = make(map[string]bool, 1)
		}
		c.places[r.name][r.schema] = true
		note(c.known, r)
		c.oids[r.name] = append(c.oids[r.name], oid)
	}
	c.readers = make(map[uint32][]dependency)
	for _, d := range c.dependencies {
		c.readers[d.other] = append(c.readers[d.other], d)
	}
	c.kin = make(map[uint32][]uint32)
	for _, pair := range c.inherits {
		c.kin[pair[0]] = append(c.kin[pair[0]], pair[1])
		c.kin[pair[1]] = append(c.kin[pair[1]], pair[0])
	}
	c.sealBehind()
}

// meant returns the relations of users that a name in a statement may stand for.
func (c *Catalog) meant(table string) []uint32 {
	schema, name := cutName(table)
	oids := c.oids[name]
	if schema == "" || len(oids) < 2 {
		return oids
	}
	return slices.DeleteFunc(slices.Clone(oids), func(oid uint32) bool { return spelled(c.relations[oid].schema) != schema })
}

func (r *relation) has(column string) bool {
	return slices.ContainsFunc(r.attributes, func(a attribute) bool { return a.name == column })
}

// note adds the names of a relation's columns.
func note(names map[string]map[string]bool, r *relation) {
	if names[r.name] == nil {
		names[r.name] = make(map[string]bool, len(r.attributes))
	}
	for _, a := range r.attributes {
		names[r.name][a.name] = true
	}
}
