// Package suggest writes a policy that allows what was seen, and nothing else.
//
// It is pure: observations come from somewhere else, as those of the audit log. What
// it writes has no text that an agent wrote: of operations it names what they do,
// never their texts or parameters, and of processes their executables, never their
// arguments. The same observations give the same policy, whatever their order.
package suggest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/transparent"
)

// Options say what is suggested. The zero Options are the defaults.
type Options struct {
	// Wildcard is how many names below one domain become *.domain, marked as such;
	// 0 never makes one.
	Wildcard int
	// Mode is the mode of the policy.
	Mode policy.Mode
	// Existing are the files of the policy in force: what they name is kept, and their
	// rules are left out.
	Existing []*policy.File
}

// Suggestion is what was seen so far.
type Suggestion struct {
	options   Options
	places    map[place]*seen
	questions map[question]*seen
	refused   map[string]uint64 // what is not suggested, by what it was
	total     uint64
}

// place is where connections went: a resource of the policy, or a target.
type place struct {
	resource  string
	host      string // a name, or an address
	port      uint16
	transport transparent.Transport
}

// question is a name that an agent asked a server for.
type question struct{ name, effect string }

// seen is what was done at one place, by whom.
type seen struct {
	protocol string
	by       map[who]*done
	// understood says of each session in which nothing was altered whether operations
	// were understood, which takes a connection without TLS.
	understood map[string]bool
}

// who is for whom a rule is suggested.
type who struct{ agent, principal string }

// done is what somebody did at one place.
type done struct {
	effects     map[string]uint64
	count       uint64
	refused     uint64 // of count
	first, last time.Time
	lineage     string // of the first
}

// New returns an empty suggestion.
func New(o Options) *Suggestion {
	return &Suggestion{options: o, places: map[place]*seen{}, questions: map[question]*seen{}, refused: map[string]uint64{}}
}

// Add takes one observation in. What a rule denied or held is not suggested, nor what
// was refused because it could not be allowed; what was denied, or would have been,
// because no rule said anything is what suggestions are for.
func (s *Suggestion) Add(o *policy.Observation) {
	s.total++
	op := &o.Request.Operation
	switch {
	case o.Reason == policy.ReasonRule && (o.Verdict == policy.Deny || o.WouldHave == policy.Deny):
		s.refused[fmt.Sprintf("rule %s denied %s", o.Rule, op.Verb)]++
	case len(op.Effects) == 0 || slices.Contains(op.Effects, policy.Unknown):
		s.refused[fmt.Sprintf("%s was not understood", cmp.Or(op.Protocol, "an operation"))]++
	case refused(o):
		s.refused[fmt.Sprintf("rule %s: %s was refused or held (%s)", o.Rule, op.Verb, o.Reason)]++
	case strings.ContainsAny(o.Request.Principal.String(), unsayable):
		s.refused["a principal has a character in its name that no rule can say, as a * or a space"]++
	case o.Reason == policy.ReasonImplied: // by a rule for the resource of that name
	case o.Resource == "" && len(questionsOf(op)) > 0:
		for _, q := range questionsOf(op) {
			if !plainName(q.name) {
				s.refused["what was asked for is no host name"]++
				continue
			}
			at(s.questions, q, op.Protocol).add(o)
		}
	default:
		one := at(s.places, placeOf(o), op.Protocol)
		if o.Mode == policy.Observe {
			one.understood[o.Session] = one.understood[o.Session] || op.Verb != policy.Connect && op.Protocol != "tls"
		}
		one.add(o)
	}
}

// refused reports whether something else than the default for what no rule matches
// stood in the way, or would have: a rule that asks a person, a condition that could
// not be evaluated, a limit, a mask. Where a rule that observes would have said
// something else the reason is not its own.
func refused(o *policy.Observation) bool {
	if o.Verdict == policy.Allow && o.WouldHave == policy.Allow {
		return false
	}
	unmatched := o.Reason == policy.ReasonUnmatched || o.Reason == policy.ReasonUnknownResource
	return !unmatched || o.Mode == policy.Enforce && o.WouldHave != o.Verdict
}

func at[K comparable](m map[K]*seen, k K, protocol string) *seen {
	if m[k] == nil {
		m[k] = &seen{by: map[who]*done{}, understood: map[string]bool{}}
	}
	m[k].protocol = cmp.Or(m[k].protocol, protocol)
	return m[k]
}

// questionsOf returns the names that an operation asks a name server for.
func questionsOf(op *policy.Operation) []question {
	var list []question
	for _, o := range op.Objects {
		if o.Kind == "name" {
			list = append(list, question{strings.ToLower(strings.TrimSuffix(o.Name, ".")), op.Verb})
		}
	}
	return list
}

func placeOf(o *policy.Observation) place {
	r := &o.Request
	if o.Resource != "" {
		return place{resource: o.Resource}
	}
	p := place{port: r.Target.Port(), transport: r.Transport, host: hostOf(r.Target.Addr())}
	if i := slices.IndexFunc(r.Names, plainName); i >= 0 {
		p.host = strings.ToLower(strings.TrimSuffix(r.Names[i], "."))
	}
	return p
}

// unsayable are the characters that no principal of a rule can have as such.
const unsayable = "*?[]{}\\ \t\r\n"

// plainName reports whether a name can stand in a policy for itself. An agent may ask
// a name server for anything: *.example.com would be a wildcard there.
func plainName(name string) bool {
	h, err := policy.ParseHost(name + ":53")
	return err == nil && h.Name != ""
}

func hostOf(a netip.Addr) string {
	if a = a.Unmap(); a.Is6() {
		return "[" + a.WithZone("").String() + "]"
	}
	return a.String()
}

func (s *seen) add(o *policy.Observation) {
	r := &o.Request
	w := who{r.Agent, r.Principal.String()}
	d := s.by[w]
	if d == nil {
		d = &done{effects: map[string]uint64{}, first: r.Time, last: r.Time, lineage: lineageOf(r)}
		s.by[w] = d
	}
	if r.Time.Before(d.first) || r.Time.Equal(d.first) && lineageOf(r) < d.lineage {
		d.first, d.lineage = r.Time, lineageOf(r)
	}
	if r.Time.After(d.last) {
		d.last = r.Time
	}
	d.count++
	if o.Verdict != policy.Allow {
		d.refused++
	}
	for _, effect := range r.Operation.Effects {
		d.effects[effect]++
	}
}

// plain returns in how many sessions, of those in which nothing was altered, what was
// said was not encrypted.
func (s *seen) plain() (n, of int) {
	for _, understood := range s.understood {
		if understood {
			n++
		}
	}
	return n, len(s.understood)
}

// maxLineage bounds how many processes of a lineage are shown.
const maxLineage = 6

func lineageOf(r *policy.Request) string {
	var exes []string
	for _, p := range r.Process.Lineage() {
		if p.Image != nil && len(exes) < maxLineage {
			exes = append(exes, printable(p.Image.Exe))
		}
	}
	return strings.Join(exes, " <- ")
}

// printable keeps what an agent chose from leaving its comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == '\uFFFD' { // controls, C1 too, and what turns the direction of text
			return '?'
		}
		return r
	}, s)
}

// operations are the words for a rule that allows what was done: connecting goes
// without saying where something else is allowed.
func (d *done) operations() []string {
	words := slices.Sorted(maps.Keys(d.effects))
	if len(words) > 1 {
		words = slices.DeleteFunc(words, func(w string) bool { return w == policy.Connect })
	}
	return words
}
