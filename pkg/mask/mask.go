// Package mask rewrites values that must not reach an agent.
//
// A [Set] knows two ways of finding such values. A column rule names columns
// and rewrites whole values ([Set.Column], [Action.Apply]). A detector finds
// card numbers and the like anywhere inside a value ([Set.Scan]). A rule that
// has both applies each on its own: the columns it names are rewritten whole,
// and its detectors look at every value.
//
// What each detector accepts is stated at its validator, and no more than that
// is found: a number that was reversed, cut, encoded or glued to letters is not.
// Column rules, not detectors, are what protects data from an agent that means
// to get at it.
//
// The package is pure: no I/O, no clock. A Set is immutable and may be used by
// any number of goroutines.
package mask

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Rule says what to rewrite and how.
type Rule struct {
	// Name identifies the rule; it must be unique in a set.
	Name string
	// Columns are patterns as [ParseColumn] reads them.
	Columns []string
	// Detect names detectors; see [Detectors].
	Detect []string
	// With names a transform; see [Transforms].
	With string
	// DenyPredicates says that the columns may not decide which rows there are,
	// their order or their number: who may ask "ssn LIKE '1%'" often enough needs no
	// value. AllowCopies says that their values may be stored where no mask follows,
	// and their relations redefined. Both concern Columns only.
	DenyPredicates, AllowCopies bool
	// DenyDefinitions says that a value may not be read off a definition either,
	// such as the text of a view or a default. It counts for the whole set, if the
	// rule names Columns: which values a definition quotes nobody can tell.
	DenyDefinitions bool
	// Constant is what the transform "constant" writes. It must be printable
	// UTF-8 of at most 1 KiB, and empty for every other transform.
	Constant string
}

const maxConstant = 1024

// ErrRule is wrapped by every error of [Compile].
var ErrRule = errors.New("invalid mask rule")

// Option changes how a set is compiled.
type Option func(*options)

type options struct{ key []byte }

// WithKey sets the key of the transform "hash", so that equal values have equal
// hashes in every set that was compiled with that key. Without it each set has
// a random key of its own. The key is copied.
func WithKey(key []byte) Option {
	return func(o *options) { o.key = slices.Clone(key) }
}

// Set is a compiled list of rules. A nil Set, like an empty one, masks nothing.
type Set struct {
	columns   []columnRule
	strictest Action
	detectors kinds             // the enabled ones
	actions   [kindCount]Action // per detector, the strictest of its rules
	terms     terms
	thorough  bool // see Thorough
}

type columnRule struct {
	pattern ColumnPattern
	action  Action
}

// Compile checks the rules and makes a set of them. Every error wraps [ErrRule]
// and names the rule. An empty list yields a set that masks nothing.
func Compile(rules []Rule, opts ...Option) (*Set, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.key == nil {
		o.key = make([]byte, 32)
		if _, err := rand.Read(o.key); err != nil {
			return nil, fmt.Errorf("make hash key: %w", err)
		}
	}
	s := &Set{}
	hash := newHasher(o.key)
	names := make(map[string]bool, len(rules))
	for _, r := range rules {
		if r.Name == "" || names[r.Name] {
			return nil, fmt.Errorf("%w: name %q is empty or used twice", ErrRule, r.Name)
		}
		names[r.Name] = true
		if err := s.add(r, hash); err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrRule, r.Name, err)
		}
	}
	s.terms = newTerms(s, rules)
	return s, s.checkConstants(rules)
}

func (s *Set) add(r Rule, hash *hasher) error {
	with, err := parseTransform(r.With)
	if err != nil {
		return err
	}
	if err := checkConstant(with, r.Constant); err != nil {
		return err
	}
	if len(r.Columns) == 0 && len(r.Detect) == 0 {
		return errors.New("names neither a column nor a detector")
	}
	action := Action{Rule: r.Name, With: with, constant: r.Constant, hash: hash}
	for _, c := range r.Columns {
		p, err := ParseColumn(c)
		if err != nil {
			return err
		}
		if len(s.columns) == 0 || action.With < s.strictest.With {
			s.strictest = action
		}
		s.columns = append(s.columns, columnRule{p, action})
	}
	for _, name := range r.Detect {
		k := slices.Index(kindNames[:], name)
		if k < 0 {
			return fmt.Errorf("unknown detector %q, want one of %s", name, strings.Join(Detectors(), ", "))
		}
		if !s.detectors.has(kind(k)) || action.With < s.actions[k].With {
			s.actions[k] = action
		}
		s.detectors |= 1 << k
	}
	return nil
}

func checkConstant(with Transform, constant string) error {
	if with != Constant {
		if constant != "" {
			return fmt.Errorf("constant is set, but with is %q", with)
		}
		return nil
	}
	if len(constant) > maxConstant {
		return fmt.Errorf("constant is longer than %d bytes", maxConstant)
	}
	if !utf8.ValidString(constant) || strings.ContainsFunc(constant, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("constant is not printable UTF-8")
	}
	return nil
}

// checkConstants refuses a constant that a detector of the same set would find.
func (s *Set) checkConstants(rules []Rule) error {
	for _, r := range rules {
		if _, hits := s.Scan(nil, []byte(r.Constant)); hits > 0 {
			return fmt.Errorf("%w: %s: a detector finds something in the constant", ErrRule, r.Name)
		}
	}
	return nil
}

// Thorough returns a set that masks the same, but takes no shorter way: all its
// detectors read every value, and the matches of one alone go the way of those
// that may overlap. It is there so that tests can compare the two.
func (s *Set) Thorough() *Set {
	if s == nil {
		return nil
	}
	t := *s
	t.thorough = true
	return &t
}

// Empty reports whether the set masks nothing.
func (s *Set) Empty() bool { return !s.HasColumns() && !s.HasDetectors() }

// HasColumns reports whether any column is protected.
func (s *Set) HasColumns() bool { return s != nil && len(s.columns) > 0 }

// HasDetectors reports whether [Set.Scan] can find anything.
func (s *Set) HasDetectors() bool { return s != nil && s.detectors != 0 }

// Column returns what to do with the values of a column. If several rules
// protect it, the strictest transform wins: null, redact, constant, hash,
// keep-last-4; of equal ones, the earliest rule. It is not meant to be called
// per value: look a column up once per result.
func (s *Set) Column(schema, table, column string) (Action, bool) {
	return s.column(schema, table, column, anySchema)
}

// ColumnOfSystem is [Set.Column] for the schemas that every database has. A rule
// for all schemas, "*.*.name", does not mean those.
func (s *Set) ColumnOfSystem(schema, table, column string) (Action, bool) {
	return s.column(schema, table, column, namedSchema)
}

// reach is which patterns count.
type reach int

const (
	anySchema   reach = iota
	namedSchema       // those that say more of the schema than "*"
)

func (s *Set) column(schema, table, column string, in reach) (best Action, found bool) {
	if s == nil {
		return best, false
	}
	for i := range s.columns {
		c := &s.columns[i]
		if in == namedSchema && c.pattern.schema.everything() {
			continue
		}
		if (!found || c.action.With < best.With) && c.pattern.Match(schema, table, column) {
			best, found = c.action, true
		}
	}
	return best, found
}

// Protects reports whether some table could have a protected column of this
// name. It errs on the side of yes: schema and table are not looked at.
func (s *Set) Protects(column string) bool {
	if s == nil {
		return false
	}
	return slices.ContainsFunc(s.columns, func(c columnRule) bool { return c.pattern.column.match(column) })
}

// Strictest returns the strictest action of all column rules: what a computed
// expression over protected columns deserves. Without column rules it is the
// zero Action, which nulls.
func (s *Set) Strictest() Action {
	if s == nil {
		return Action{}
	}
	return s.strictest
}
