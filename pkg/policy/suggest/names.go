package suggest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// namesResource is what resources of names that may be asked for are called.
const namesResource = "suggested-names"

// askedName is one entry of the names that may be asked for.
type askedName struct {
	name  string
	below int // how many names it stands for, if it is a wildcard
}

// askedGroup is names that the same agents asked for in the same way: a resource of
// its own, as all resources that have a name must allow.
type askedGroup struct {
	resource string
	names    []askedName
	by       map[who]*done
}

// groups returns the names that were asked for, but for the addresses of those to
// which whoever asked has connected, since that is implied. Of names below one domain
// that belong together there is one entry where they are many.
func (s *Suggestion) groups(resources []resource, taken map[string]bool) []askedGroup {
	asked := s.asked(connected(resources))
	below := map[string][]string{} // by domain
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		_, domain, _ := strings.Cut(name, ".")
		below[domain] = append(below[domain], name)
	}
	found := map[string]*askedGroup{}
	for _, domain := range slices.Sorted(maps.Keys(below)) {
		names := below[domain]
		many := s.options.Wildcard > 0 && len(names) >= s.options.Wildcard && ownDomain(domain) && together(asked, domain)
		for i, name := range names {
			g := groupOf(found, asked[name])
			switch {
			case !many:
				g.names = append(g.names, askedName{name: name})
			case i == 0:
				g.names = append(g.names, askedName{"*." + domain, len(names)})
			}
		}
	}
	return named(found, taken)
}

// ownDomain reports whether the names below a domain may be somebody's own: below
// "com", "co.uk" and "s3.amazonaws.com" everybody can have some.
func ownDomain(domain string) bool {
	_, err := publicsuffix.EffectiveTLDPlusOne(domain)
	return err == nil
}

// together reports whether all names that a wildcard of a domain would stand for,
// which are those of domains below it too, were asked for by the same in the same way.
func together(asked map[string]map[who]*done, domain string) bool {
	common := ""
	for name, by := range asked {
		if !strings.HasSuffix(name, "."+domain) {
			continue
		}
		if one := signature(by); common == "" {
			common = one
		} else if one != common {
			return false
		}
	}
	return true
}

// named gives groups names that no other resource has.
func named(found map[string]*askedGroup, taken map[string]bool) []askedGroup {
	list := make([]askedGroup, 0, len(found))
	for _, g := range found {
		slices.SortFunc(g.names, func(a, b askedName) int { return strings.Compare(a.name, b.name) })
		list = append(list, *g)
	}
	slices.SortFunc(list, func(a, b askedGroup) int { return strings.Compare(a.names[0].name, b.names[0].name) })
	for i := range list {
		list[i].resource = newName(namesResource, taken)
	}
	return list
}

// connected tells who connected to which host.
func connected(resources []resource) map[string]map[who]bool {
	hosts := map[string]map[who]bool{}
	for _, r := range resources {
		for _, h := range r.hosts {
			name := h[:strings.LastIndexByte(h, ':')]
			if hosts[name] == nil {
				hosts[name] = map[who]bool{}
			}
			for w := range r.seen.by {
				hosts[name][w] = true
			}
		}
	}
	return hosts
}

// asked returns who asked for each name in which ways that are not implied.
func (s *Suggestion) asked(implied map[string]map[who]bool) map[string]map[who]*done {
	names := map[string]map[who]*done{}
	for q, one := range s.questions {
		for w, d := range one.by {
			if q.name == "" || q.effect == effectAddress && implied[q.name][w] {
				continue
			}
			if names[q.name] == nil {
				names[q.name] = map[who]*done{}
			}
			merge(names[q.name], w, d)
		}
	}
	return names
}

// signature is what names of one group have in common: who asked, and how.
func signature(by map[who]*done) string {
	var parts []string
	for w, d := range by {
		parts = append(parts, fmt.Sprintf("%q", append([]string{w.agent, w.principal}, d.operations()...)))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// groupOf returns the group of a name, with what was done about it.
func groupOf(groups map[string]*askedGroup, by map[who]*done) *askedGroup {
	key := signature(by)
	if groups[key] == nil {
		groups[key] = &askedGroup{by: map[who]*done{}}
	}
	for w, d := range by {
		merge(groups[key].by, w, d)
	}
	return groups[key]
}

func (g *askedGroup) write(text *writer) {
	text.line("  - name: %s", g.resource)
	text.line("    protocol: dns")
	text.line("    names:")
	for _, n := range g.names {
		if n.below > 0 {
			text.line("      - %q # wildcard: %d names below it were asked for", n.name, n.below)
		} else {
			text.line("      - %q", n.name)
		}
	}
}

// merge adds what somebody did to what is known of him.
func merge(by map[who]*done, w who, e *done) {
	d := by[w]
	if d == nil {
		d = &done{effects: map[string]uint64{}, first: e.first, last: e.last, lineage: e.lineage}
		by[w] = d
	}
	d.count += e.count
	d.refused += e.refused
	for effect, n := range e.effects {
		d.effects[effect] += n
	}
	if c := e.first.Compare(d.first); cmp.Or(c, strings.Compare(e.lineage, d.lineage)) < 0 {
		d.first, d.lineage = e.first, e.lineage
	}
	if e.last.After(d.last) {
		d.last = e.last
	}
}
