package policy

import (
	"iter"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/transparent"
)

// nameSet is a set of names: some, those below some, or all.
type nameSet struct {
	exact, suffixes map[string]bool
	everything      bool
}

func (s *nameSet) add(p namePattern) {
	if s.exact == nil {
		s.exact, s.suffixes = map[string]bool{}, map[string]bool{}
	}
	switch {
	case p.everything:
		s.everything = true
	case p.suffix:
		s.suffixes[p.name] = true
	default:
		s.exact[p.name] = true
	}
}

// has reports whether a name, as normalName returns it, is in the set.
func (s *nameSet) has(name string) bool {
	if s.everything || s.exact[name] {
		return true
	}
	for parent := range parents(name) {
		if s.suffixes[parent] {
			return true
		}
	}
	return false
}

// parents lists what remains of a name without its first label, its first two
// and so on. A name with a backslash has none: the dot after it may be part of
// a label (RFC 1035, section 5.1).
func parents(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if strings.IndexByte(name, '\\') >= 0 {
			return
		}
		for i := strings.IndexByte(name, '.'); i >= 0; i = strings.IndexByte(name, '.') {
			if name = name[i+1:]; !yield(name) {
				return
			}
		}
	}
}

// isBelow reports whether a name has one or more labels before another one.
func isBelow(name, suffix string) bool {
	for parent := range parents(name) {
		if parent == suffix {
			return true
		}
	}
	return false
}

// namedHost is a resource that gives a host by name.
type namedHost struct {
	resource *resource
	port     uint16
}

// nameIndex finds resources by the names of their hosts.
type nameIndex struct {
	exact, suffixes map[string][]namedHost
}

func makeNameIndex(resources []*resource) nameIndex {
	n := nameIndex{exact: map[string][]namedHost{}, suffixes: map[string][]namedHost{}}
	for _, r := range resources {
		for _, h := range r.hosts {
			switch one := (namedHost{r, h.Port}); {
			case h.Name == "":
			case h.suffix:
				n.suffixes[h.Name] = append(n.suffixes[h.Name], one)
			default:
				n.exact[h.Name] = append(n.exact[h.Name], one)
			}
		}
	}
	return n
}

// of lists the resources that give a name, as normalName returns it.
func (n *nameIndex) of(name string) iter.Seq[namedHost] {
	return func(yield func(namedHost) bool) {
		for _, h := range n.exact[name] {
			if !yield(h) {
				return
			}
		}
		if len(n.suffixes) == 0 {
			return
		}
		for parent := range parents(name) {
			for _, h := range n.suffixes[parent] {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// group returns the resources that a request's target belongs to, by its
// address and by its names; nil if there are none.
func (e *Engine) group(req *Request) *group {
	g := e.byAddress(req)
	if len(req.Names) > 0 {
		g = e.withNames(g, req)
	}
	return g
}

// withNames adds the resources that give one of the request's names.
func (e *Engine) withNames(g *group, req *Request) *group {
	if g == nil {
		g = e.nobody
	}
	for _, name := range req.Names {
		for h := range e.names.of(normalName(name)) {
			if h.port == req.Target.Port() && h.resource.kind.transport() == req.Transport {
				g = e.join(g, h.resource)
			}
		}
	}
	if len(g.resources) == 0 {
		return nil
	}
	return g
}

func (e *Engine) byAddress(req *Request) *group {
	switch req.Transport {
	case transparent.TCP:
		return e.tcp.find(req.Target)
	case transparent.UDP:
		return e.udp.find(req.Target)
	}
	return nil
}

type joinKey struct{ group, resource int }

// maxJoined bounds the groups that are kept beside those of addresses. When
// there are as many, further ones are made for each request: slower, but nothing
// is evicted and nothing is wrong.
const maxJoined = 4096

// join returns a group with one more resource.
func (e *Engine) join(g *group, r *resource) *group {
	if slices.Contains(g.resources, r) {
		return g
	}
	if g.id < 0 {
		return joined(-1, g, r)
	}
	key := joinKey{g.id, r.id}
	e.mu.RLock()
	known := e.joined[key]
	e.mu.RUnlock()
	if known != nil {
		return known
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if known = e.joined[key]; known != nil {
		return known
	}
	if len(e.joined) >= maxJoined {
		return joined(-1, g, r)
	}
	made := joined(e.firstJoined+len(e.joined), g, r)
	e.joined[key] = made
	return made
}

func joined(id int, g *group, r *resource) *group {
	made := &group{id: id, resources: append(slices.Clone(g.resources), r)}
	made.inspectedFirst()
	return made
}
