package policy

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

func (c *checker) agent(at string, a agentSyntax) {
	for i, u := range a.Users {
		if !validUser(u) {
			c.bad(index(at+".users", i), "user %q is neither a user name nor a numeric id", u)
		}
	}
	for i, p := range a.Cgroups {
		if !validCgroupGlob(p) {
			c.bad(index(at+".cgroups", i), "cgroup %q: want a clean absolute path below the cgroup2 mount; "+
				"* is a run of characters within a component, ** any number of components", p)
		}
	}
	for i, u := range a.Units {
		if !validUnitGlob(u) {
			c.bad(index(at+".units", i), "unit %q: want the name of a .service, .scope or .slice; the only wildcard is *", u)
		}
	}
	for i, e := range a.Executables {
		if !cleanAbsolute(e) || e == "/" || len(e) > maxPath || strings.ContainsAny(e, "*?[]\x00") {
			c.bad(index(at+".executables", i), "executable %q: want a clean absolute path without wildcards", e)
		}
	}
	for i, w := range a.Containers {
		if !validContainer(w) {
			c.bad(index(at+".containers", i), "container %q: want *, %s, or RUNTIME:ID with at least %d hexadecimal digits",
				w, strings.Join(runtimes, ", "), minContainerID)
		}
	}
}

// maxPath is the length of the longest path, in bytes, that the kernel takes.
const maxPath = 4095

func cleanAbsolute(p string) bool { return strings.HasPrefix(p, "/") && path.Clean(p) == p }

func validUser(u string) bool {
	if u == "" || len(u) > 32 {
		return false
	}
	if strings.Trim(u, "0123456789") == "" {
		// The highest id means "nobody asked for" to the kernel.
		id, err := strconv.ParseUint(u, 10, 32)
		return err == nil && id < 1<<32-1 && (u == "0" || u[0] != '0')
	}
	if c := u[0] | 0x20; (c < 'a' || c > 'z') && u[0] != '_' {
		return false
	}
	return validOperation(strings.TrimSuffix(u, "$")) && !strings.ContainsAny(u, ":/")
}

// validCgroupGlob takes backslashes as they are: systemd escapes with them.
func validCgroupGlob(p string) bool {
	if !cleanAbsolute(p) || len(p) > maxPath || checkGlob(strings.ReplaceAll(p, `\`, "")) != nil {
		return false
	}
	return !slices.ContainsFunc(components(p), func(s string) bool { return strings.Contains(s, "**") && s != "**" })
}

// maxUnit is the length of the longest name of a unit; see systemd.unit(5).
const maxUnit = 255

// unitTypes are the types of units that processes are in.
var unitTypes = []string{".service", ".scope", ".slice"}

func validUnitGlob(u string) bool {
	for _, c := range []byte(u) {
		if !lowerAlnum(c) && (c < 'A' || c > 'Z') && !strings.ContainsRune(`*:-_.\@`, rune(c)) {
			return false
		}
	}
	return len(u) <= maxUnit && slices.ContainsFunc(unitTypes, func(t string) bool {
		return strings.HasSuffix(u, t) && u != t
	})
}

// minContainerID is the number of digits that tools print of a container's id:
// fewer may be those of several containers.
const minContainerID = 12

func validContainer(w string) bool {
	if w == "*" || slices.Contains(runtimes, w) {
		return true
	}
	runtime, id, ok := strings.Cut(w, ":")
	return ok && slices.Contains(runtimes, runtime) && hexID(id)
}

// hexID reports whether s is a container's id or the start of one.
func hexID(s string) bool {
	return len(s) >= minContainerID && len(s) <= fullID && strings.Trim(s, "0123456789abcdef") == ""
}
