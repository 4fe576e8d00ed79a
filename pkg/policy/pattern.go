package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/identity"
)

// patternKind is what a pattern looks at. The zero kind matches nobody.
type patternKind uint8

const (
	patternNobody patternKind = iota
	patternEverybody
	patternAnonymous
	patternGroup
	patternAgent
	patternSubject
)

// pattern is one entry of principals or unless.
type pattern struct {
	kind patternKind
	// issuer is a glob, for subjects.
	issuer string
	// name is a glob for subjects and groups, and a name for agents.
	name string
}

// parsePattern reads "*", "anonymous", "group:GLOB", "agent:NAME" or
// "ISSUER:SUBJECT", both of which may be globs.
func parsePattern(s string) (pattern, error) {
	switch s {
	case "*":
		return pattern{kind: patternEverybody}, nil
	case "anonymous":
		return pattern{kind: patternAnonymous}, nil
	}
	first, rest, ok := strings.Cut(s, ":")
	if !ok || first == "" || rest == "" {
		return pattern{}, fmt.Errorf(
			"pattern %q is not understood: want *, anonymous, group:NAME, agent:NAME or issuer:subject", s)
	}
	if err := checkGlob(s); err != nil {
		return pattern{}, fmt.Errorf("pattern %q: %w", s, err)
	}
	switch first {
	case "group":
		return pattern{kind: patternGroup, name: rest}, nil
	case "agent":
		if !validName(rest) {
			return pattern{}, fmt.Errorf("pattern %q: %q is not an agent's name", s, rest)
		}
		return pattern{kind: patternAgent, name: rest}, nil
	case "anonymous":
		return pattern{}, fmt.Errorf("pattern %q: anonymous stands alone", s)
	}
	return pattern{kind: patternSubject, issuer: first, name: rest}, nil
}

// match reports whether a principal, acting through an agent, is meant. The
// anonymous principal has no groups and no subject, whatever its fields say.
func (p pattern) match(who *identity.Principal, agent string) bool {
	switch p.kind {
	case patternEverybody:
		return true
	case patternAnonymous:
		return who.IsAnonymous()
	case patternAgent:
		return agent == p.name
	case patternSubject:
		return !who.IsAnonymous() && glob(p.issuer, who.Issuer) && glob(p.name, who.Subject)
	case patternGroup:
		return !who.IsAnonymous() &&
			slices.ContainsFunc(who.Groups, func(g string) bool { return glob(p.name, g) })
	case patternNobody:
	}
	return false
}

var errGlob = errors.New("the only wildcard is *; ? [ ] { } \\ and spaces are not understood")

// checkGlob refuses what looks like a wildcard of another language, which
// would silently match nothing.
func checkGlob(s string) error {
	if strings.ContainsAny(s, "?[]{}\\ \t\n\r") {
		return errGlob
	}
	return nil
}

// glob reports whether all of s matches a pattern in which * stands for any
// run of characters, / and : included. It takes at most len(pattern)*len(s)
// steps and allocates nothing.
func glob(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// validName reports whether s may name an agent, a resource, a rule or a mask.
func validName(s string) bool {
	if s == "" || len(s) > 63 || !lowerAlnum(s[0]|0x20) {
		return false
	}
	for _, c := range []byte(s) {
		if !lowerAlnum(c) && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// validOperation reports whether s may be an effect of a protocol.
func validOperation(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for _, c := range []byte(s) {
		if !lowerAlnum(c) && (c < 'A' || c > 'Z') && !strings.ContainsRune("._:-/", rune(c)) {
			return false
		}
	}
	return true
}
