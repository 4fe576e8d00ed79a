package policy

import (
	"fmt"
	"strings"
)

// Overlaps lists, for people, what may make a process the agent of two
// enrolment rules at once, as far as the policy alone tells. The first by name
// gets it.
func (e *Engine) Overlaps() []string {
	if e == nil {
		return nil
	}
	var list []string
	for i, a := range e.agents {
		for _, b := range e.agents[i+1:] {
			list = append(list, overlaps(a, b)...)
		}
	}
	return list
}

func overlaps(a, b Agent) []string {
	var list []string
	each := func(what string, as, bs []string, meet func(a, b string) bool) {
		for _, s := range as {
			for _, t := range bs {
				if meet(s, t) {
					list = append(list, fmt.Sprintf("agents %s and %s: %s %q and %q may mean the same; %s gets it", a.Name, b.Name, what, s, t, a.Name))
				}
			}
		}
	}
	same := func(s, t string) bool { return s == t }
	each("user", a.Users, b.Users, same)
	each("cgroup", a.Cgroups, b.Cgroups, pathsMeet)
	each("unit", a.Units, b.Units, globsMeet)
	each("unit and cgroup", a.Units, b.Cgroups, unitMeetsPath)
	each("cgroup and unit", a.Cgroups, b.Units, func(s, t string) bool { return unitMeetsPath(t, s) })
	each("executable", a.Executables, b.Executables, same)
	each("container", a.Containers, b.Containers, containersMeet)
	return list
}

func globsMeet(a, b string) bool {
	return meet([]byte(a), []byte(b), func(c byte) bool { return c == '*' }, func(c, d byte) bool { return c == d })
}

func pathsMeet(a, b string) bool {
	return meet(components(a), components(b), func(s string) bool { return s == "**" }, globsMeet)
}

func unitMeetsPath(unit, path string) bool {
	list := components(path)
	return len(list) > 0 && (list[len(list)-1] == "**" || globsMeet(unit, list[len(list)-1]))
}

func containersMeet(a, b string) bool {
	runtime, id, _ := strings.Cut(a, ":")
	otherRuntime, otherID, _ := strings.Cut(b, ":")
	return (runtime == "*" || otherRuntime == "*" || runtime == otherRuntime) &&
		(strings.HasPrefix(id, otherID) || strings.HasPrefix(otherID, id))
}

// meet reports whether two patterns have a text in common. A star stands for
// any number of elements, all others for those that they are the same as.
func meet[T any](a, b []T, star func(T) bool, same func(a, b T) bool) bool {
	// row[j] says whether the rest of a, from i on, meets that of b from j on.
	var below []bool
	for i := len(a); i >= 0; i-- {
		row := make([]bool, len(b)+1)
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a) && j == len(b):
				row[j] = true
			case i < len(a) && star(a[i]):
				row[j] = below[j] || j < len(b) && row[j+1]
			case j < len(b) && star(b[j]):
				row[j] = row[j+1] || i < len(a) && below[j]
			default:
				row[j] = i < len(a) && j < len(b) && below[j+1] && same(a[i], b[j])
			}
		}
		below = row
	}
	return below[0]
}
