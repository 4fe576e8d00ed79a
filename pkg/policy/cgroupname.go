package policy

import "strings"

// CgroupName is what can be said of an agent's cgroups before they are there:
// all that [Agent.MatchCgroup] needs, or a part of it.
type CgroupName struct {
	Agent string
	// Level is the number of components of the path that is meant. At zero only
	// the last component is, at any level, without the "_" that systemd may have
	// put before it.
	Level int
	// Head and Tail are what that text begins and ends with.
	Head, Tail string
	// MinLen and MaxLen bound its length, in bytes.
	MinLen, MaxLen int
}

// CgroupNames lists them, those of the first agent by name first. Missing are
// globs with more than one wildcard, and containers that only their parents'
// names tell: these are known when somebody looks at the whole path.
func (e *Engine) CgroupNames() []CgroupName {
	if e == nil {
		return nil
	}
	var list []CgroupName
	add := func(agent string, n CgroupName, ok bool) {
		if n.Agent = agent; ok {
			list = append(list, n)
		}
	}
	for _, a := range e.agents {
		for _, g := range a.Cgroups {
			n, ok := nameOfGlob(g)
			n.Level = len(components(g))
			add(a.Name, n, ok && n.Level > 0)
		}
		for _, g := range a.Units {
			n, ok := nameOfGlob(g)
			add(a.Name, n, ok)
		}
		for _, w := range a.Containers {
			for _, n := range namesOfContainer(w) {
				add(a.Name, n, true)
			}
		}
	}
	return list
}

func nameOfGlob(g string) (CgroupName, bool) {
	head, tail, wild := strings.Cut(g, "*")
	n := CgroupName{Head: head, Tail: tail, MinLen: len(head) + len(tail), MaxLen: len(g)}
	if wild {
		n.MaxLen = maxPath
	}
	return n, !strings.Contains(tail, "*")
}

// namesOfContainer are those of the scopes and groups that runtimes make.
func namesOfContainer(word string) []CgroupName {
	wanted, id, _ := strings.Cut(word, ":")
	var list []CgroupName
	for _, s := range scopes {
		if wanted != "*" && wanted != s.runtime {
			continue
		}
		for _, tail := range []string{"", ".scope"} {
			n := len(s.prefix) + fullID + len(tail)
			list = append(list, CgroupName{Head: s.prefix + id, Tail: tail, MinLen: n, MaxLen: n})
		}
	}
	if wanted == "*" || wanted == "docker" {
		n := len("/docker/") + fullID
		list = append(list, CgroupName{Level: 2, Head: "/docker/" + id, MinLen: n, MaxLen: n})
	}
	return list
}
