package policy

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy/strict"
	"github.com/headgate/headgate/pkg/transparent"
)

// Options are what a policy is compiled with, beside its files. The zero value
// resolves no names and checks nothing against the rest of the program.
type Options struct {
	// Generation numbers the engine; it comes back in every decision.
	Generation uint64
	// Resolved holds the addresses of the host names of resources, as
	// [File.Hosts] lists them. A name without addresses matches nothing; see
	// [Engine.Unresolved].
	Resolved map[string][]netip.Addr
	// Vocabulary lists the effects of every protocol by the protocol's name. If
	// it is set, a resource of another protocol, or a rule with an operation
	// that none of its resources' protocols has, is an error: it would never
	// match anything. [Connect] and [Unknown] are in every vocabulary.
	Vocabulary map[string][]string
	// Metered are the protocols that count what an operation returns. If it is not
	// nil, a rule with limits for a resource of another protocol is an error:
	// nobody would keep them.
	Metered []string
	// Issuers are the names of the configured identity providers. If it is not
	// nil, a pattern for another issuer is an error.
	Issuers []string
	// MaskKey keys the transform "hash", see [mask.WithKey]. It is copied.
	MaskKey []byte

	// Host is the mode of the host: where it is Observe nothing enforces, whatever the
	// policy says.
	Host Mode
	// Facts are the variables that protocols have in conditions, by the protocols'
	// names.
	Facts map[string]FactType

	// conditions compiles the `when` of a rule in tests; nil is CEL.
	conditions func(expression string) (Condition, error)
}

// Compile makes an engine of all files of a policy, with the zero [Options].
func Compile(generation uint64, files ...*File) (*Engine, error) {
	return Options{Generation: generation}.Compile(files...)
}

// Compile makes an engine of all files of a policy, in any order. An error is
// an [Errors]. No files make an engine that denies everything.
func (o Options) Compile(files ...*File) (*Engine, error) {
	c := &compiler{
		Options: o,
		engine:  &Engine{compiled: true, generation: o.Generation, seed: maphash.MakeSeed(), views: map[viewKey]*view{}, joined: map[joinKey]*group{}},
		agents:  map[string]bool{DefaultAgent: true},
		cel:     newConditionCompiler(o.Facts),
	}
	if len(o.MaskKey) > 0 {
		c.engine.maskOptions = []mask.Option{mask.WithKey(o.MaskKey)}
	}
	c.defaults(files)
	if o.Host == Observe {
		c.engine.mode = Observe
	}
	c.names(files)
	for _, f := range files {
		c.compileAgents(f)
		c.compileResources(f)
	}
	for _, f := range files {
		c.compileRules(f)
		c.compileMasks(f)
	}
	c.finish()
	c.errs.Sort()
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	return c.engine, nil
}

type compiler struct {
	Options
	engine *Engine
	agents map[string]bool
	cel    *conditionCompiler
	errs   strict.Errors
}

func (c *compiler) bad(f *File, at, format string, args ...any) {
	c.errs.Add(f.at.At(at), format, args...)
}

// defaults takes each default from the one file that gives it. What no file
// gives is the zero value, which denies, enforces and fails closed.
func (c *compiler) defaults(files []*File) {
	given := map[string]strict.Position{}
	for _, f := range files {
		for _, key := range []string{"mode", "unmatched", "unknown_operation", "on_failure"} {
			at, ok := f.at["defaults."+key]
			if !ok {
				continue
			}
			if first, twice := given[key]; twice {
				c.bad(f, "defaults."+key, "defaults.%s is already set at %s", key, first)
				continue
			}
			given[key] = at
			c.setDefault(key, f.syntax.Defaults)
		}
	}
}

func (c *compiler) setDefault(key string, d defaultsSyntax) {
	e := c.engine
	switch key {
	case "mode":
		e.mode = parseMode(d.Mode)
	case "unmatched":
		e.unmatched = parseVerdict(d.Unmatched)
	case "unknown_operation":
		e.unknownOperation = parseVerdict(d.UnknownOperation)
	case "on_failure":
		if d.OnFailure == "open" {
			e.onFailure = Open
		}
	}
}

func parseMode(s string) Mode {
	if s == "observe" {
		return Observe
	}
	return Enforce
}

func parseVerdict(s string) Verdict {
	switch s {
	case "allow":
		return Allow
	case "approve":
		return Approve
	}
	return Deny
}

// mode is the mode of a rule or mask: its own, its file's, or the default one.
func (c *compiler) mode(f *File, own string) Mode {
	if c.Host == Observe {
		return Observe
	}
	if s := cmp.Or(own, f.syntax.Mode); s != "" {
		return parseMode(s)
	}
	return c.engine.mode
}

// names refuses names that two files use for the same kind of thing.
func (c *compiler) names(files []*File) {
	seen := uniqueNames{}
	add := func(f *File, kind string, i int, name string) {
		at := index(kind, i) + ".name"
		if first, ok := seen.add(kind, name, f.at.At(at)); !ok {
			c.bad(f, at, "name %q is used twice in %s, first at %s", name, kind, first)
		}
	}
	for _, f := range files {
		for i, a := range f.syntax.Agents {
			add(f, "agents", i, a.Name)
		}
		for i, r := range f.syntax.Resources {
			add(f, "resources", i, r.Name)
		}
		for i, r := range f.syntax.Rules {
			add(f, "rules", i, r.Name)
		}
		for i, m := range f.syntax.Masks {
			add(f, "masks", i, m.Name)
		}
	}
}

// finish brings everything into an order that does not depend on the files'
// and builds the table of targets.
func (c *compiler) finish() {
	e := c.engine
	slices.SortFunc(e.agents, func(a, b Agent) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(e.resources, func(a, b *resource) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(e.rules, func(a, b *rule) int { return cmp.Compare(a.name, b.name) })
	slices.Sort(e.idle)
	for _, r := range e.resources {
		slices.SortFunc(r.rules, func(a, b *rule) int { return cmp.Compare(a.name, b.name) })
		slices.SortFunc(r.masks, func(a, b *maskEntry) int { return cmp.Compare(a.rule.Name, b.rule.Name) })
	}
	if len(c.errs) > 0 {
		return
	}
	c.targets()
	c.checkMasks()
}

// targets builds the tables by which resources are found.
func (c *compiler) targets() {
	e := c.engine
	over := map[transparent.Transport][]*resource{}
	for i, r := range e.resources {
		r.id = i
		over[r.kind.transport()] = append(over[r.kind.transport()], r)
		if r.kind == questions {
			e.questions = append(e.questions, r)
		}
		if slices.ContainsFunc(r.hosts, func(h resourceHost) bool { return h.Name != "" }) {
			e.hosts = append(e.hosts, r)
		}
	}
	var more []string
	e.addresses = normalAddresses(c.Resolved)
	e.tcp, e.unresolved = buildTargets(over[transparent.TCP], e.addresses, 0)
	e.udp, more = buildTargets(over[transparent.UDP], e.addresses, len(e.tcp.groups))
	e.unresolved = append(e.unresolved, more...)
	slices.Sort(e.unresolved)
	e.unresolved = slices.Compact(e.unresolved)
	e.names = makeNameIndex(e.resources)
	e.nobody = &group{id: len(e.tcp.groups) + len(e.udp.groups)}
	e.firstJoined = e.nobody.id + 1
}

// checkMasks refuses masks that do not fit together where they may meet: at a
// destination, or at a port, where a name can add any resource that has it.
func (c *compiler) checkMasks() {
	for _, g := range c.engine.tcp.groups {
		if !c.masksFit(g, "resource "+g.resources[0].Name) {
			return
		}
	}
	ports := map[uint16]*group{}
	named := map[uint16]bool{}
	for _, r := range c.engine.resources {
		for _, h := range r.hosts {
			if ports[h.Port] == nil {
				ports[h.Port] = &group{}
			}
			if at := ports[h.Port]; !slices.Contains(at.resources, r) {
				at.resources = append(at.resources, r)
			}
			named[h.Port] = named[h.Port] || h.Name != ""
		}
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		if named[port] && !c.masksFit(ports[port], fmt.Sprintf("resources at port %d", port)) {
			return
		}
	}
}

func (c *compiler) masksFit(g *group, where string) bool {
	all := g.masks(func(*maskEntry) bool { return true })
	_, err := compileMasks(all, c.engine.maskOptions)
	if err != nil {
		c.errs.Add(all[len(all)-1].at, "masks of %s: %v", where, err)
	}
	return err == nil
}
