package policy

import (
	"fmt"
	"slices"
)

// Unreachable returns the rules that can never allow, or hold, anything that they
// list, because other rules deny all of it to the same principals and agents. Each
// is told with its place, the rules that are in the way, and what to do. It is no
// error: what is denied stays denied, and packs may be used together.
func (e *Engine) Unreachable() []string {
	if e == nil {
		return nil
	}
	var list []string
	for _, r := range e.rules {
		if r.effect == Deny || !r.used {
			continue
		}
		if by := e.shadows(r); len(by) > 0 {
			list = append(list, fmt.Sprintf("%s: rule %s never has an effect on what it lists, all of which rule %s denies to the same agents and principals; remove it, or narrow what denies",
				r.at, r.name, joinNames(by)))
		}
	}
	return list
}

func joinNames(names []string) string {
	text := names[0]
	for _, n := range names[1:] {
		text += " and " + n
	}
	return text
}

// shadows returns the rules that together deny everything that r lists at all of its
// resources, none if something of it is left.
func (e *Engine) shadows(r *rule) []string {
	var by []string
	for _, res := range e.resources {
		if !slices.Contains(res.rules, r) {
			continue
		}
		for _, o := range r.effects() {
			i := slices.IndexFunc(res.rules, func(d *rule) bool { return r.shadowedBy(d, o) })
			if i < 0 {
				return nil
			}
			if name := res.rules[i].name; !slices.Contains(by, name) {
				by = append(by, name)
			}
		}
	}
	return by
}

// effects are the operations that a rule lists, "*" among them.
func (r *rule) effects() []string {
	if r.star {
		return append([]string{"*"}, r.operations...)
	}
	return r.operations
}

// shadowedBy reports whether d denies an effect always, to everybody whom r is for.
// For "*" it has to deny everything.
func (r *rule) shadowedBy(d *rule, effect string) bool {
	if d.effect != Deny || d.mode != Enforce || d.condition != nil || !d.star && !slices.Contains(d.operations, effect) {
		return false
	}
	agents := len(d.agents) == 0 || len(r.agents) > 0 && containsAll(d.agents, r.agents)
	principals := len(d.principals) == 0 || len(r.principals) > 0 && containsAll(d.principals, r.principals)
	return agents && principals
}

func containsAll[T comparable](all, some []T) bool {
	return !slices.ContainsFunc(some, func(one T) bool { return !slices.Contains(all, one) })
}
