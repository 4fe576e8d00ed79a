package policytest

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/strict"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// Suffix ends the names of files of tests.
const Suffix = "_test.yaml"

// Suite is a file of tests and the policy that it is about, which may be all files
// of a directory or only some of them.
type Suite struct {
	Tests    *File
	Policies []*policy.File
}

// Options are what tests are run with. It is safe for concurrent use.
type Options struct {
	// Policy compiles policies. Its Resolved is not used.
	Policy policy.Options
	// Read tells what a text does, one operation for each of its statements, in a
	// protocol by its name. An error is for a protocol that has no texts. Without
	// Read there are no statements.
	Read func(protocol, text string) ([]policy.Operation, error)
	// Only chooses tests by their names; nil takes all.
	Only func(name string) bool
}

// Run runs the tests of all suites. An error is a [policy.Errors], and says that
// policies or tests are wrong: nothing was run then.
func (o Options) Run(suites ...Suite) (*Report, error) {
	report := newReport()
	var errs strict.Errors
	var prepared []*suite
	for _, s := range suites {
		p := o.prepare(s)
		errs = append(errs, p.errs...)
		prepared = append(prepared, p)
	}
	if err := onceEach(errs).Err(); err != nil {
		return nil, err
	}
	for _, s := range prepared {
		report.cover(s.Policies)
		for i := range s.cases {
			report.Results = append(report.Results, s.run(&s.cases[i], report))
		}
	}
	report.finish()
	return report, nil
}

// onceEach leaves out what was found again because a file is in several suites.
func onceEach(errs strict.Errors) strict.Errors {
	seen := map[strict.Error]bool{}
	errs = slices.DeleteFunc(errs, func(e *strict.Error) bool {
		again := seen[*e]
		seen[*e] = true
		return again
	})
	errs.Sort()
	return errs
}

// suite is a suite that can be run.
type suite struct {
	Suite
	options   Options
	engine    *policy.Engine
	addresses map[string][]netip.Addr
	cases     []testCase
	errs      strict.Errors
}

// testCase is a test with what it asks the engine.
type testCase struct {
	*testSyntax
	at         string
	req        policy.Request
	operations []policy.Operation
}

func (o Options) prepare(s Suite) *suite {
	p := &suite{Suite: s, options: o}
	p.resolve()
	compile := o.Policy
	compile.Resolved = p.addresses
	engine, err := compile.Compile(append(slices.Clone(s.Policies), s.Tests.extras)...)
	if err != nil {
		var errs policy.Errors
		if !errors.As(err, &errs) {
			p.errs.Add(strict.Position{File: s.Tests.name}, "%v", err)
		}
		p.errs = append(p.errs, errs...)
		return p
	}
	p.engine = engine
	for i := range s.Tests.syntax.Tests {
		t := &s.Tests.syntax.Tests[i]
		c := testCase{testSyntax: t, at: item("tests", i)}
		p.who(&c)
		p.where(&c)
		if o.Only == nil || o.Only(t.Name) {
			p.cases = append(p.cases, c)
		}
	}
	return p
}

func (s *suite) bad(at, format string, args ...any) { s.errs.Add(s.Tests.at.At(at), format, args...) }

// resolve gives every host name an address: the one that the tests say, or one of
// the range for benchmarks, 198.18.0.0/15 (RFC 2544).
func (s *suite) resolve() {
	names := map[string]bool{}
	for _, f := range append(slices.Clone(s.Policies), s.Tests.extras) {
		for _, h := range f.Hosts() {
			names[h.Name] = true
		}
	}
	for i := range s.Tests.syntax.Tests {
		if h, err := policy.ParseHost(s.Tests.syntax.Tests[i].Target); err == nil && h.Name != "" {
			names[h.Name] = true
		}
	}
	s.addresses = map[string][]netip.Addr{}
	next := netip.AddrFrom4([4]byte{198, 18, 0, 1})
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s.addresses[name] = []netip.Addr{next}
		next = next.Next()
	}
	for name, a := range s.Tests.syntax.Addresses {
		s.addresses[strings.ToLower(strings.TrimSuffix(name, "."))] = []netip.Addr{a.Addr}
	}
}

// who sets on whose behalf a test asks, and from which process.
func (s *suite) who(c *testCase) {
	given := &s.Tests.syntax.Given
	principal, groups, claims := c.Principal, c.Groups, c.Claims
	if principal == "" {
		principal = given.Principal
		if !s.Tests.given(c.at + ".groups") {
			groups = given.Groups
		}
		if !s.Tests.given(c.at + ".claims") {
			claims = given.Claims
		}
	}
	if issuer, subject, ok := strings.Cut(principal, ":"); ok {
		c.req.Principal = identity.Principal{Issuer: issuer, Subject: subject, Groups: groups, Claims: claims}
	}
	c.req.Agent = cmp.Or(c.Agent, given.Agent, policy.DefaultAgent)
	known := func(a policy.Agent) bool { return a.Name == c.req.Agent }
	if c.req.Agent != policy.DefaultAgent && !slices.ContainsFunc(s.engine.Agents(), known) {
		s.bad(c.at+".agent", "unknown agent %q: name one of the policy's, or give it under agents", c.req.Agent)
	}
	c.req.Time = c.Time.Time
	if c.req.Time.IsZero() {
		c.req.Time = given.Time.Time
	}
	c.req.Process = s.process(c.Lineage, c.at)
	if len(c.Lineage) == 0 {
		c.req.Process = s.process(given.Lineage, "given")
	}
}

// usualUID is the user of a program of which the test says nothing.
const usualUID = 1000

// process is the first of the programs, which the others have started.
func (s *suite) process(lineage []programSyntax, at string) *process.Process {
	if len(lineage) == 1 && lineage[0].Exe == unknown {
		return nil
	}
	var p *process.Process
	for i := range slices.Backward(lineage) {
		one := &lineage[i]
		child := &process.Process{
			ID:    process.ID{PID: uint32(1000 + len(lineage) - i), Start: uint64(len(lineage) - i)},
			Image: &process.Image{Exe: one.Exe, Argv: one.Argv}, UID: one.UID, Parent: p,
		}
		if len(one.Argv) == 0 {
			child.Image.Argv = []string{one.Exe}
		}
		if !s.Tests.given(item(at+".lineage", i) + ".uid") {
			child.UID = usualUID
		}
		child.Root = child.ID
		if p != nil {
			child.Root, child.Depth = p.Root, p.Depth+1
		}
		p = child
	}
	return p
}

// where sets where a test goes, and then what it asks for there.
func (s *suite) where(c *testCase) {
	switch {
	case c.Socket != "":
	case c.Asked != "":
		c.req.Transport = transparent.UDP
		s.target(c)
		if servers := s.engine.Servers(); c.Target == "" && len(servers) > 0 {
			c.req.Target = servers[0]
		}
		question := policy.Question(c.Asked, c.Effects)
		if c.Connect {
			c.operations = []policy.Operation{operation(question.Protocol, []string{policy.Connect})}
			return
		}
		s.vocabulary(c, question.Protocol)
		c.operations = []policy.Operation{question}
	case c.Target != "":
		s.target(c)
		r, _ := s.engine.ResourceOf(&c.req)
		s.what(c, cmp.Or(c.Protocol, r.Protocol))
	default:
		name := cmp.Or(c.Resource, s.Tests.syntax.Given.Resource)
		s.resource(c, name)
	}
}

// target sets the target that a test gives.
func (s *suite) target(c *testCase) {
	h, err := policy.ParseHost(c.Target)
	if err != nil {
		return // it is left out, or was found wrong already
	}
	if c.Transport == "udp" {
		c.req.Transport = transparent.UDP
	} else if c.Transport == "tcp" {
		c.req.Transport = transparent.TCP
	}
	addr := h.Prefix.Addr()
	if h.Name != "" {
		addr, c.req.Names = s.addresses[h.Name][0], []string{h.Name}
	}
	c.req.Target = netip.AddrPortFrom(addr, h.Port)
}

// resource sets a target that belongs to a resource.
func (s *suite) resource(c *testCase, name string) {
	at := c.at + ".resource"
	if c.Resource == "" {
		at = "given.resource"
	}
	list := s.engine.Resources()
	i := slices.IndexFunc(list, func(r policy.Resource) bool { return r.Name == name })
	if i < 0 {
		s.bad(at, "unknown resource %q: name one of the policy's, or give it under resources", name)
		return
	}
	example, ok := s.engine.Example(name)
	if !ok {
		s.bad(at, "resource %s has no host that a test could go to: give target, socket or asked", name)
		return
	}
	c.req.Target, c.req.Transport, c.req.Names = example.Target, example.Transport, example.Names
	s.what(c, list[i].Protocol)
}

// what sets the operations that a test asks for.
func (s *suite) what(c *testCase, protocol string) {
	switch {
	case c.Connect:
		c.operations = []policy.Operation{operation(protocol, []string{policy.Connect})}
	case len(c.Effects) > 0:
		s.vocabulary(c, protocol)
		op := operation(protocol, c.Effects)
		for _, o := range c.Objects {
			op.Objects = append(op.Objects, policy.Object(o))
		}
		c.operations = []policy.Operation{op}
	case s.Tests.given(c.at + ".statement"):
		s.read(c, protocol)
	}
}

func (s *suite) read(c *testCase, protocol string) {
	at := c.at + ".statement"
	if protocol == "" {
		s.bad(at, "the target belongs to no resource: give protocol, the language of the statement")
		return
	}
	if s.options.Read == nil {
		s.bad(at, "statements are not read here: give effects")
		return
	}
	list, err := s.options.Read(protocol, c.Statement)
	if err != nil {
		s.bad(at, "%v; give effects instead", err)
		return
	}
	if len(list) == 0 { // nothing found is not nothing there
		list = []policy.Operation{{Protocol: protocol, Verb: policy.Unknown, Effects: []string{policy.Unknown}, Text: c.Statement}}
	}
	c.operations = list
}

// vocabulary refuses effects that the protocol does not have: a rule can't be right
// or wrong about them.
func (s *suite) vocabulary(c *testCase, protocol string) {
	if s.options.Policy.Vocabulary == nil {
		return
	}
	words := append([]string{"*", policy.Connect, policy.Unknown}, s.options.Policy.Vocabulary[protocol]...)
	for i, effect := range c.Effects {
		if !slices.Contains(words, effect) {
			s.bad(item(c.at+".effects", i), "unknown operation %q of protocol %q; \"*\" is one that no rule names", effect, protocol)
		}
	}
}

func operation(protocol string, effects []string) policy.Operation {
	return policy.Operation{Protocol: protocol, Verb: effects[0], Effects: effects}
}
