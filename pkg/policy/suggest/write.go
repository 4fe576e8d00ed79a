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
	names := s.asked(resources)
	taken := s.existing()
	for _, r := range resources {
		taken[r.name] = true
	}
	s.namesResource = newName(namesResource, taken)
	text := &writer{}
	text.line("# Suggested by headgate from %d observed connections and operations.", s.total)
	text.line("#")
	text.line("# It allows what was seen and nothing else. Read it before you use it: whatever an agent should not have done is in it as well.")
	text.line("# headgate policy replay DIR tells what it would have refused of what happened; with mode: observe nothing is refused yet.")
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

// askedName is one entry of the names that may be asked for.
type askedName struct {
	name  string
	below int // how many names it stands for, if it is a wildcard
}

// asked returns the names that were asked for and that no suggested resource
// implies, those of one domain as one where there are many.
func (s *Suggestion) asked(resources []resource) []askedName {
	implied := map[string]bool{}
	for _, r := range resources {
		for _, h := range r.hosts {
			implied[h[:strings.LastIndexByte(h, ':')]] = true
		}
	}
	below := map[string][]string{}
	for q := range s.questions {
		if q.name == "" || q.effect == effectAddress && implied[q.name] {
			continue
		}
		_, domain, _ := strings.Cut(q.name, ".")
		if !slices.Contains(below[domain], q.name) {
			below[domain] = append(below[domain], q.name)
		}
	}
	var list []askedName
	for domain, names := range below {
		if s.options.Wildcard > 0 && len(names) >= s.options.Wildcard && strings.Contains(domain, ".") {
			list = append(list, askedName{"*." + domain, len(names)})
			continue
		}
		for _, name := range names {
			list = append(list, askedName{name: name})
		}
	}
	slices.SortFunc(list, func(a, b askedName) int { return strings.Compare(a.name, b.name) })
	return list
}

// namesResource is what the resource of the names that may be asked for is called, if
// no other one is: an earlier suggestion may have made one.
const namesResource = "suggested-names"

// writeNamed writes what is kept of the policy, with what is new in its lists.
func (s *Suggestion) writeNamed(text *writer, kept string, resources []resource, names []askedName) {
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
		if r.seen.plain {
			fresh.line("  # what was said there was not encrypted")
			fresh.line("  - {name: %q, protocol: %s, hosts: [%q], tls: {verify: \"off\"}}", r.name, r.protocol, r.hosts[0])
			continue
		}
		fresh.line("  - {name: %q, protocol: %s, hosts: [%q]}", r.name, r.protocol, r.hosts[0])
	}
	if len(names) > 0 {
		fresh.line("  - name: %s", s.namesResource)
		fresh.line("    protocol: dns")
		fresh.line("    names:")
		for _, n := range names {
			if n.below > 0 {
				fresh.line("      - %q # wildcard: %d names below it were asked for", n.name, n.below)
			} else {
				fresh.line("      - %q", n.name)
			}
		}
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

func (s *Suggestion) writeRules(text *writer, resources []resource, names []askedName) {
	var rules []ruleOf
	for _, r := range resources {
		for w, d := range r.seen.by {
			rules = append(rules, ruleOf{w, r.name, r.seen.protocol, d})
		}
	}
	if len(names) > 0 {
		rules = append(rules, s.askers()...)
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

// askers are the rules for names: one for everybody who asked for any.
func (s *Suggestion) askers() []ruleOf {
	by := map[who]*done{}
	for _, one := range s.questions {
		for w, d := range one.by {
			if by[w] == nil {
				by[w] = &done{effects: map[string]uint64{}, first: d.first, last: d.last, lineage: d.lineage}
			}
			by[w].merge(d)
		}
	}
	var rules []ruleOf
	for w, d := range by {
		rules = append(rules, ruleOf{w, s.namesResource, "dns", d})
	}
	return rules
}

func (d *done) merge(e *done) {
	d.count += e.count
	for effect, n := range e.effects {
		d.effects[effect] += n
	}
	if e.first.Before(d.first) || e.first.Equal(d.first) && e.lineage < d.lineage {
		d.first, d.lineage = e.first, e.lineage
	}
	if e.last.After(d.last) {
		d.last = e.last
	}
}

func writeRule(text *writer, r ruleOf, name string) {
	var counts []string
	for _, effect := range slices.Sorted(maps.Keys(r.done.effects)) {
		counts = append(counts, fmt.Sprintf("%s %d", effect, r.done.effects[effect]))
	}
	text.line("  # %d times from %s to %s: %s", r.done.count, stamp(r.done.first), stamp(r.done.last), strings.Join(counts, ", "))
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
