package mask

import "slices"

// terms are the parts of a set whose rules deny what does not show a value, but
// may tell it.
type terms struct {
	noPredicates, noCopies *Set
	noDefinitions          bool
}

// newTerms makes the parts. A part that is the whole is the set itself.
func newTerms(s *Set, rules []Rule) terms {
	return terms{
		noPredicates: s.part(rules, func(r *Rule) bool { return r.DenyPredicates }),
		noCopies:     s.part(rules, func(r *Rule) bool { return !r.AllowCopies }),
		noDefinitions: slices.ContainsFunc(rules, func(r Rule) bool {
			return r.DenyDefinitions && len(r.Columns) > 0
		}),
	}
}

// part returns the column rules that keep wants; nil if there are none. Definitions
// are part of it if a rule of it says so.
func (s *Set) part(rules []Rule, keep func(*Rule) bool) *Set {
	kept := make(map[string]bool, len(rules))
	for i := range rules {
		kept[rules[i].Name] = keep(&rules[i])
	}
	p := &Set{}
	p.terms.noDefinitions = slices.ContainsFunc(rules, func(r Rule) bool {
		return r.DenyDefinitions && kept[r.Name]
	})
	for _, c := range s.columns {
		if !kept[c.action.Rule] {
			continue
		}
		if len(p.columns) == 0 || c.action.With < p.strictest.With {
			p.strictest = c.action
		}
		p.columns = append(p.columns, c)
	}
	switch len(p.columns) {
	case 0:
		return nil
	case len(s.columns):
		return s
	default:
		return p
	}
}

// NoPredicates returns the column rules that do not let their columns decide
// which rows there are, their order or their number. It is nil if there are none,
// and the set itself if all do so. Of the result only the columns count.
func (s *Set) NoPredicates() *Set {
	if s == nil {
		return nil
	}
	return s.terms.noPredicates
}

// NoCopies returns the column rules that do not let values of their columns be
// stored where no mask follows, nor their relations be redefined. It is nil if
// there are none, and the set itself if all do so. Of the result only the columns
// count.
func (s *Set) NoCopies() *Set {
	if s == nil {
		return nil
	}
	return s.terms.noCopies
}

// NoDefinitions reports whether a rule says that definitions may not be read. What
// shows one then deserves [Set.Strictest].
func (s *Set) NoDefinitions() bool { return s != nil && s.terms.noDefinitions }

// RulesFor returns the names of the rules that could protect one of the columns,
// in the order of the set; all that protect columns if none could. Schemas and
// tables are not looked at.
func (s *Set) RulesFor(columns []string) []string {
	if s == nil {
		return nil
	}
	var some, all []string
	for i := range s.columns {
		c := &s.columns[i]
		if !slices.Contains(all, c.action.Rule) {
			all = append(all, c.action.Rule)
		}
		if !slices.Contains(some, c.action.Rule) && slices.ContainsFunc(columns, c.pattern.column.match) {
			some = append(some, c.action.Rule)
		}
	}
	if len(some) > 0 {
		return some
	}
	return all
}
