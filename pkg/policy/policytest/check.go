package policytest

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/strict"
)

const (
	// anonymous is the principal that nobody vouched for.
	anonymous = "anonymous"
	// unknown is the lineage of a process of which nothing is known.
	unknown = "unknown"
)

// checker finds what is wrong with one file of tests by itself.
type checker struct {
	*File
	errs strict.Errors
}

func (c *checker) bad(at, format string, args ...any) { c.errs.Add(c.at.At(at), format, args...) }

// given reports whether the file mentions a path.
func (f *File) given(at string) bool {
	_, ok := f.at[at]
	return ok
}

func (c *checker) file() {
	if c.syntax.Version != 1 {
		c.bad("version", "version is required and must be 1")
	}
	for i, name := range c.syntax.Files {
		if strings.HasSuffix(name, Suffix) || !strings.HasSuffix(name, ".yaml") {
			c.bad(item("files", i), "file %q: want the name of a policy file, NAME.yaml", name)
		}
	}
	if !c.given("tests") {
		c.bad("", "tests are required")
	}
	c.principal("given", c.syntax.Given.Principal)
	c.belongings("given", c.syntax.Given.Principal)
	c.lineage("given", c.syntax.Given.Lineage)
	names := map[string]strict.Position{}
	for i := range c.syntax.Tests {
		t, at := &c.syntax.Tests[i], item("tests", i)
		first, twice := names[t.Name]
		switch {
		case t.Name == "":
			c.bad(at, "%s: name is required", at)
		case twice:
			c.bad(at+".name", "name %q is used twice, first at %s", t.Name, first)
		}
		names[t.Name] = c.at.At(at + ".name")
		c.test(at, t)
	}
}

func (c *checker) test(at string, t *testSyntax) {
	c.principal(at, t.Principal)
	c.belongings(at, cmp.Or(t.Principal, c.syntax.Given.Principal))
	c.lineage(at, t.Lineage)
	c.where(at, t)
	c.what(at, t)
	c.expect(at+".expect", &t.Expect)
}

func (c *checker) principal(at, principal string) {
	issuer, subject, ok := strings.Cut(principal, ":")
	if principal != "" && principal != anonymous && (!ok || issuer == "" || subject == "") {
		c.bad(at+".principal", "principal %q: want anonymous or ISSUER:SUBJECT", principal)
	}
}

// belongings refuses what the anonymous principal can't have.
func (c *checker) belongings(at, principal string) {
	for _, key := range []string{".groups", ".claims"} {
		if c.given(at+key) && (principal == "" || principal == anonymous) {
			c.bad(at+key, "the anonymous principal has none: give principal: ISSUER:SUBJECT")
		}
	}
}

func (c *checker) lineage(at string, list []programSyntax) {
	for i, p := range list {
		if here := item(at+".lineage", i); !strings.HasPrefix(p.Exe, "/") && (p.Exe != unknown || len(list) > 1) {
			c.bad(here, "%s: want the absolute path of an executable, or [%s] alone", here, unknown)
		}
	}
}

// where checks that a test goes to one place.
func (c *checker) where(at string, t *testSyntax) {
	var places []string
	for _, key := range []string{"resource", "socket", "asked", "target"} {
		if c.given(at + "." + key) {
			places = append(places, key)
		}
	}
	server := slices.Equal(places, []string{"asked", "target"})
	switch {
	case len(places) == 0 && !c.given("given.resource"):
		c.bad(at, "%s: want resource, target, socket or asked", at)
	case len(places) > 1 && !server:
		c.bad(at+"."+places[1], "want one of %s; a test goes to one place", strings.Join(places, " and "))
	}
	for key, allowed := range map[string]bool{"transport": c.given(at + ".target"), "protocol": c.given(at+".target") && !server} {
		if c.given(at+"."+key) && !allowed {
			c.bad(at+"."+key, "%s is for tests with a target", key)
		}
	}
	c.oneOf(at+".transport", t.Transport, "tcp", "udp")
	if t.Target != "" {
		if _, err := policy.ParseHost(t.Target); err != nil {
			c.bad(at+".target", "target %q: %v", t.Target, err)
		}
	}
	if c.given(at+".socket") && !strings.HasPrefix(t.Socket, "/") {
		c.bad(at+".socket", "socket %q: want an absolute path", t.Socket)
	}
	if h, err := policy.ParseHost(t.Asked + ":53"); c.given(at+".asked") && (err != nil || h.Name == "") {
		c.bad(at+".asked", "asked %q: want a host name", t.Asked)
	}
}

// what checks that a test asks for one thing.
func (c *checker) what(at string, t *testSyntax) {
	var asks []string
	for _, key := range []string{"statement", "effects", "connect"} {
		if c.given(at + "." + key) {
			asks = append(asks, key)
		}
	}
	if len(asks) > 1 {
		c.bad(at+"."+asks[1], "want one of %s; a test asks for one thing", strings.Join(asks, " and "))
	}
	if c.given(at+".connect") && !t.Connect {
		c.bad(at+".connect", "connect: false asks for nothing; leave it out")
	}
	if c.given(at+".objects") && (!c.given(at+".effects") || c.given(at+".asked")) {
		c.bad(at+".objects", "objects are for tests with effects")
	}
	implicit := c.given(at+".socket") || c.given(at+".asked")
	if c.given(at+".socket") && len(asks) > 0 {
		c.bad(at+"."+asks[0], "whoever may connect to a socket may do anything there: leave %s out", asks[0])
	}
	if c.given(at+".asked") && c.given(at+".statement") {
		c.bad(at+".statement", "a name is asked for by its effects: leave statement out")
	}
	if len(asks) > 0 || implicit {
		return
	}
	for _, key := range []string{"decision", "rule", "reason", "would_have", "mode", "limits"} {
		if here := at + ".expect." + key; c.given(here) {
			c.bad(here, "%s is of an operation: give the test a statement, effects or connect: true", key)
			return
		}
	}
}

func (c *checker) expect(at string, e *expectSyntax) {
	test := strings.TrimSuffix(at, ".expect")
	if !c.given(at) {
		c.bad(at, "%s is required", at)
		return
	}
	if reflect.ValueOf(e).Elem().IsZero() && !c.given(at+".limits") {
		c.bad(at, "%s lists nothing, and would always pass", at)
	}
	c.oneOf(at+".decision", e.Decision, "allow", "deny", "approve", none)
	c.oneOf(at+".would_have", e.WouldHave, "allow", "deny", "approve")
	c.oneOf(at+".mode", e.Mode, "enforce", "observe")
	c.oneOf(at+".kernel", e.Kernel, "denied", "proxied", "observed", "direct")
	c.oneOf(at+".reason", e.Reason, policy.ReasonRule, policy.ReasonImplied, policy.ReasonUnmatched,
		policy.ReasonUnknownOperation, policy.ReasonUnknownResource, policy.ReasonError)
	c.oneOf(at+".limits.all", e.Limits.None, noLimit)
	if e.Decision == none && !c.given(test+".socket") {
		c.bad(at+".decision", "decision: none is for sockets; what else no resource names is decided by defaults")
	}
	elsewhere := c.given(test+".socket") || c.given(test+".asked")
	if c.given(at+".kernel") && c.given(test+".asked") {
		c.bad(at+".kernel", "the kernel knows no names: leave kernel out")
	}
	for _, key := range []string{"masked", "clear", "found", "passed", "searched", "unsearched", "copied", "kept"} {
		if c.given(at+"."+key) && elsewhere {
			c.bad(at+"."+key, "%s is for tests with a resource or target: nothing is masked here", key)
		}
	}
	c.columns(at, e)
}

// columns checks the columns that are expected to be this or that.
func (c *checker) columns(at string, e *expectSyntax) {
	for _, list := range []struct {
		key     string
		columns []string
	}{
		{"masked", e.Masked}, {"clear", e.Clear}, {"searched", e.Searched}, {"unsearched", e.Unsearched}, {"copied", e.Copied}, {"kept", e.Kept},
	} {
		for i, column := range list.columns {
			if n := strings.Count(column, "."); column == "" || n > 2 {
				c.bad(item(at+"."+list.key, i), "column %q: want column, table.column or schema.table.column", column)
			}
		}
	}
}

func (c *checker) oneOf(at, got string, want ...string) {
	if c.given(at) && !slices.Contains(want, got) {
		c.bad(at, "unknown value %q, want %s", got, strings.Join(want, " or "))
	}
}
