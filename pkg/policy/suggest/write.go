package suggest

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/transparent"
)

// effectAddress is the effect of asking for the addresses of a name, which who may
// connect to a resource of that name may do without a rule.
const effectAddress = "address"

// maxName is the length of the longest name in a policy.
const maxName = 63

// resource is a resource that is suggested, or one of the policy.
type resource struct {
	name, protocol string
	hosts          []string
	kept           bool
	marked         string // a remark for whoever reads
	seen           *seen
}

// Write writes the suggestion as one complete policy file.
func (s *Suggestion) Write(w io.Writer) error {
	kept, err := policy.Kept(s.options.Existing)
	if err != nil {
		return err
	}
	resources := s.resources()
	taken := s.existing()
	for _, r := range resources {
		taken[r.name] = true
	}
	names := s.groups(resources, taken)
	text := &writer{}
	text.line("# Suggested by headgate from %d observed connections and operations.", s.total)
	text.line("#")
	text.line("# It allows what was seen and nothing else. Read it before you use it: whatever an agent should not have done is in it as well.")
	text.line("# headgate policy replay DIR tells what it would have refused of what happened; with mode: observe nothing is refused yet.")
	text.line("# Of the policy that it replaces agents, resources and masks are kept, and neither its rules nor modes of its files.")
	s.writeRefused(text)
	text.line("version: 1")
	s.writeNamed(text, string(kept), resources, names)
	s.writeRules(text, resources, names)
	text.line("defaults: {mode: %s, unmatched: deny, unknown_operation: deny, on_failure: closed}", s.options.Mode)
	_, err = io.WriteString(w, text.String())
	return err
}

// writer collects lines.
type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) {
	// Writing to a strings.Builder never fails.
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}

func (s *Suggestion) writeRefused(text *writer) {
	if len(s.refused) == 0 {
		return
	}
	text.line("#")
	text.line("# Not suggested:")
	for _, what := range slices.Sorted(maps.Keys(s.refused)) {
		text.line("#   %d x %s", s.refused[what], printable(what))
	}
}

// resources are those that rules are suggested for, by name.
func (s *Suggestion) resources() []resource {
	taken := s.existing()
	var list []resource
	for _, p := range slices.SortedFunc(maps.Keys(s.places), comparePlaces) {
		one := resource{name: p.resource, kept: true, seen: s.places[p]}
		if p.resource == "" {
			one = s.newResource(p, taken)
		} else if !taken[p.resource] {
			s.refused["resource "+p.resource+" is not in the policy any more"] += one.seen.count()
			continue
		}
		list = append(list, one)
	}
	return list
}

// existing are the names of the resources of the policy.
func (s *Suggestion) existing() map[string]bool {
	names := map[string]bool{}
	for _, f := range s.options.Existing {
		for _, name := range f.Resources() {
			names[name] = true
		}
	}
	return names
}

func (s *Suggestion) newResource(p place, taken map[string]bool) resource {
	one := resource{protocol: cmp.Or(s.places[p].protocol, "tcp"), hosts: []string{fmt.Sprintf("%s:%d", p.host, p.port)}, seen: s.places[p]}
	if p.transport == transparent.UDP {
		one.protocol = "udp"
	}
	if _, err := netip.ParseAddr(strings.Trim(p.host, "[]")); err == nil {
		one.marked = "known by its address only"
	}
	one.name = newName(fmt.Sprintf("%s-%s-%d", one.protocol, p.host, p.port), taken)
	return one
}

// newName makes a name that no resource has yet.
func newName(wanted string, taken map[string]bool) string {
	valid := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, wanted)
	name := valid[:min(len(valid), maxName)]
	for i := 2; taken[name]; i++ {
		suffix := fmt.Sprintf("-%d", i)
		name = valid[:min(len(valid), maxName-len(suffix))] + suffix
	}
	taken[name] = true
	return name
}

func comparePlaces(a, b place) int {
	return cmp.Or(strings.Compare(a.resource, b.resource), strings.Compare(a.host, b.host), cmp.Compare(a.port, b.port), cmp.Compare(a.transport, b.transport))
}

func (s *seen) count() uint64 {
	var n uint64
	for _, d := range s.by {
		n += d.count
	}
	return n
}

// writeNamed writes what is kept of the policy, with what is new in its lists.
func (s *Suggestion) writeNamed(text *writer, kept string, resources []resource, groups []askedGroup) {
	agents, rest := cutSection(kept, "agents:")
	known, masks := cutSection(rest, "resources:")
	missing := s.missingAgents()
	if agents+missing != "" {
		text.WriteString("agents:\n" + agents + missing)
	}
	fresh := &writer{}
	for _, r := range resources {
		if r.kept {
			continue
		}
		if r.marked != "" {
			fresh.line("  # %s", r.marked)
		}
		plain, of := r.seen.plain()
		tls := ""
		switch {
		case plain > 0 && plain == of:
			fresh.line("  # what was said there was not encrypted")
			tls = `, tls: {verify: "off"}`
		case plain > 0:
			fresh.line("  # not encrypted in %d of %d sessions: these will be refused, unless it has tls: {verify: \"off\"}, with which none has to be", plain, of)
		}
		fresh.line("  - {name: %q, protocol: %s, hosts: [%q]%s}", r.name, r.protocol, r.hosts[0], tls)
	}
	for _, g := range groups {
		g.write(fresh)
	}
	if known+fresh.String() != "" {
		text.WriteString("resources:\n" + known + fresh.String())
	}
	text.WriteString(masks)
}

// cutSection takes the list below a key out of the text of a policy.
func cutSection(text, key string) (section, rest string) {
	after, found := strings.CutPrefix(text, key+"\n")
	if !found {
		return "", text
	}
	end := 0
	for line := range strings.Lines(after) {
		if !strings.HasPrefix(line, " ") {
			break
		}
		end += len(line)
	}
	return after[:end], after[end:]
}

// missingAgents declares the agents that were seen and that the policy lacks.
func (s *Suggestion) missingAgents() string {
	known := map[string]bool{policy.DefaultAgent: true, "": true}
	for _, f := range s.options.Existing {
		for _, name := range f.Agents() {
			known[name] = true
		}
	}
	var missing []string
	for one := range s.all() {
		for w := range one.by {
			if !known[w.agent] {
				known[w.agent] = true
				missing = append(missing, w.agent)
			}
		}
	}
	slices.Sort(missing)
	text := &writer{}
	for _, name := range missing {
		text.line("  - {name: %q}", name)
	}
	return text.String()
}

// all is everything that was seen.
func (s *Suggestion) all() map[*seen]bool {
	list := map[*seen]bool{}
	for _, one := range s.places {
		list[one] = true
	}
	for _, one := range s.questions {
		list[one] = true
	}
	return list
}

// ruleOf is a rule that is suggested.
type ruleOf struct {
	who
	resource, protocol string
	done               *done
}

func (s *Suggestion) writeRules(text *writer, resources []resource, groups []askedGroup) {
	var rules []ruleOf
	for _, r := range resources {
		for w, d := range r.seen.by {
			rules = append(rules, ruleOf{w, r.name, r.seen.protocol, d})
		}
	}
	for _, g := range groups {
		for w, d := range g.by {
			rules = append(rules, ruleOf{w, g.resource, "dns", d})
		}
	}
	slices.SortFunc(rules, func(a, b ruleOf) int {
		return cmp.Or(strings.Compare(a.resource, b.resource), strings.Compare(a.agent, b.agent), strings.Compare(a.principal, b.principal))
	})
	if len(rules) == 0 {
		return
	}
	text.line("rules:")
	taken := map[string]bool{}
	for _, r := range rules {
		writeRule(text, r, newName("suggested-"+r.resource+"-"+r.agent, taken))
	}
}

func writeRule(text *writer, r ruleOf, name string) {
	var counts []string
	for _, effect := range slices.Sorted(maps.Keys(r.done.effects)) {
		counts = append(counts, fmt.Sprintf("%s %d", effect, r.done.effects[effect]))
	}
	text.line("  # %d times from %s to %s: %s", r.done.count, stamp(r.done.first), stamp(r.done.last), strings.Join(counts, ", "))
	if r.done.refused > 0 {
		text.line("  # %d of them were refused, as no rule allowed them", r.done.refused)
	}
	if r.done.lineage != "" {
		text.line("  # first by %s", r.done.lineage)
	}
	if _, only := r.done.effects[policy.Connect]; only && len(counts) == 1 && r.protocol != "tcp" {
		text.line("  # only connections were seen, as where what is said is encrypted: add the operations that you mean")
	}
	text.line("  - name: %q", name)
	text.line("    effect: allow")
	text.line("    resources: [%q]", r.resource)
	if r.agent != "" {
		text.line("    agents: [%q]", r.agent)
	}
	text.line("    principals: [%q]", r.principal)
	text.line("    operations: [%s]", strings.Join(r.done.operations(), ", "))
}

func stamp(t time.Time) string { return t.UTC().Format(time.DateTime) }
