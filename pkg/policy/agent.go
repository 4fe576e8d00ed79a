package policy

import (
	"slices"
	"strings"
)

// DefaultAgent is the agent of trees that were enrolled without naming one. It
// is there without being declared, so that rules may name it.
const DefaultAgent = "default"

// Agent is an enrolment rule: which processes are agents under a name. A
// process is enrolled if any of its lists names it. A cgroup that is named with
// at most one wildcard is the agent's from the moment that it is made, also while
// no daemon runs; others are when the daemon has seen them ([Engine.CgroupNames]).
type Agent struct {
	Name string
	// Users are names or numeric ids, as they were written.
	Users []string
	// Cgroups are globs over paths below the mount point of cgroup2: * is any
	// run of characters within a component, ** any number of components, none
	// included.
	Cgroups []string
	// Units are globs over the names of systemd units.
	Units []string
	// Executables are absolute paths.
	Executables []string
	// Containers are "*", a runtime ("docker", "podman", "containerd", "cri-o")
	// or "RUNTIME:ID", where ID is the start of a container's id.
	Containers []string
}

// clone returns an agent that shares nothing with a.
func (a Agent) clone() Agent {
	for _, list := range []*[]string{&a.Users, &a.Cgroups, &a.Units, &a.Executables, &a.Containers} {
		*list = slices.Clone(*list)
	}
	return a
}

// MatchCgroup reports whether a cgroup, given by its absolute path below the
// mount point, is the agent's: named by its cgroups, or itself the cgroup of one
// of its units or containers. The cgroups below a unit's or a container's belong
// to the agent as well, but are not reported: whoever enrols the topmost one
// has them all.
func (a Agent) MatchCgroup(path string) bool {
	if !cleanAbsolute(path) {
		return false
	}
	parts := components(path)
	for _, g := range a.Cgroups {
		if globPath(components(g), parts) {
			return true
		}
	}
	if len(parts) == 0 {
		return false
	}
	unit := unitName(parts[len(parts)-1])
	if slices.ContainsFunc(a.Units, func(g string) bool { return glob(g, unit) }) {
		return true
	}
	runtime, id, ok := containerAt(parts)
	return ok && slices.ContainsFunc(a.Containers, func(w string) bool { return meansContainer(w, runtime, id) })
}

// unitName undoes what systemd does to a name that the kernel might take for
// one of a cgroup's own files: cg_escape in its src/basic/cgroup-util.c.
func unitName(component string) string { return strings.TrimPrefix(component, "_") }

// globPath matches components; ** is any number of them.
func globPath(pattern, path []string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(path) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, mark = p, i
			p++
		case p < len(pattern) && matchComponent(pattern[p], path[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

// runtimes are the words for container runtimes.
var runtimes = []string{"docker", "podman", "containerd", "cri-o"}

// anyRuntime stands for a runtime that a cgroup's path does not tell.
const anyRuntime = "kubernetes"

// fullID is the number of hexadecimal digits of a container's id.
const fullID = 64

// scopes are the starts of the names that runtimes give to the cgroups of
// containers. Their helpers ("libpod-conmon-ID") have no id after that.
var scopes = []struct{ prefix, runtime string }{
	{"docker-", "docker"},
	{"libpod-", "podman"},
	{"cri-containerd-", "containerd"},
	{"nerdctl-", "containerd"},
	{"crio-", "cri-o"},
}

// ContainerOf returns the container that a process in a cgroup is in, by the
// cgroup's absolute path below the mount point: the innermost, where one runs
// inside another. The runtime is "docker", "podman", "containerd", "cri-o", or
// "kubernetes" where the path does not tell which.
func ContainerOf(path string) (runtime, id string, ok bool) {
	if !cleanAbsolute(path) {
		return "", "", false
	}
	for parts := components(path); len(parts) > 0; parts = parts[:len(parts)-1] {
		if runtime, id, ok = containerAt(parts); ok {
			return runtime, id, true
		}
	}
	return "", "", false
}

// containerAt tells whose cgroup the last of some components is.
func containerAt(parts []string) (runtime, id string, ok bool) {
	last := parts[len(parts)-1]
	name, isScope := strings.CutSuffix(last, ".scope")
	for _, s := range scopes {
		if id, found := strings.CutPrefix(name, s.prefix); found && len(id) == fullID && hexID(id) {
			return s.runtime, id, true
		}
	}
	if isScope || len(parts) < 2 {
		return "", "", false
	}
	full := len(last) == fullID && hexID(last)
	parents := parts[:len(parts)-1]
	switch parent := parents[len(parents)-1]; {
	case parent == "docker" && full:
		return "docker", last, true
	case parent == "default" && (full || below(parents, "containerd")):
		return "containerd", last, true
	case full && below(parents, "kubepods"):
		return anyRuntime, last, true
	}
	return "", "", false
}

// below reports whether one of the components is a word, or a unit of that name.
func below(parents []string, word string) bool {
	return slices.ContainsFunc(parents, func(s string) bool {
		return s == word || s == word+".slice" || s == word+".service"
	})
}

// meansContainer reports whether a word of Containers means a container. One
// whose runtime is not known is meant by every word that could mean it: enrolled
// once too often is better than not at all.
func meansContainer(word, runtime, id string) bool {
	wanted, prefix, _ := strings.Cut(word, ":")
	return wanted == "*" || (wanted == runtime || runtime == anyRuntime) && strings.HasPrefix(id, prefix)
}

// AgentAtCgroup returns the agent whose cgroup a path is, in the sense of
// [Agent.MatchCgroup]; of several the first by name.
func (e *Engine) AgentAtCgroup(path string) (name string, ok bool) {
	if e == nil {
		return "", false
	}
	for _, a := range e.agents {
		if a.MatchCgroup(path) {
			return a.Name, true
		}
	}
	return "", false
}

func (c *compiler) compileAgents(f *File) {
	for _, a := range f.syntax.Agents {
		c.agents[a.Name] = true
		c.engine.agents = append(c.engine.agents, Agent(a).clone())
	}
}
