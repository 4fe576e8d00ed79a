// Package replay tries a policy on what happened under another one.
//
// It is pure: observations come from somewhere else, as those of the audit log.
// What the record does not keep of a request may make a difference, and is counted
// rather than guessed: see [Report.Unsure].
package replay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/headgate/headgate/pkg/policy"
)

// Read says what a text does in a protocol, as that protocol would ask the policy:
// an operation for each of its statements, with facts for conditions.
type Read func(protocol, text string) ([]policy.Operation, error)

// Answer is what a policy says about one observation.
type Answer struct {
	// Verdict is what it does, WouldHave what it would if all of it enforced.
	Verdict   policy.Verdict `json:"verdict"`
	WouldHave policy.Verdict `json:"would_have"`
	Rule      string         `json:"rule"`
	Reason    string         `json:"reason"`
	Resource  string         `json:"resource,omitempty"`
}

// AnswerOf is a decision as an answer.
func AnswerOf(d policy.Decision) Answer {
	return Answer{Verdict: d.Verdict, WouldHave: d.WouldHave, Rule: d.Rule, Reason: d.Reason, Resource: d.Resource}
}

// Recorded is the answer that an observation was given.
func Recorded(o *policy.Observation) Answer {
	return Answer{Verdict: o.Verdict, WouldHave: o.WouldHave, Rule: o.Rule, Reason: o.Reason, Resource: o.Resource}
}

// Same reports whether the same happens for the same reason.
func (a Answer) Same(b Answer) bool {
	return a.Verdict == b.Verdict && a.WouldHave == b.WouldHave && a.Rule == b.Rule && a.Reason == b.Reason
}

// Change is a difference that many operations have in common.
type Change struct {
	From, To Answer
	// Count is how many operations changed so, Agents and Example whose and which:
	// Example is the first of them.
	Count   uint64
	Agents  []string
	Example policy.Observation
}

// Report is what a policy would have changed.
type Report struct {
	// Total counts the observations, Same those with the same verdict.
	Total, Same uint64
	// Unsure counts those among them for which the record has not all that the policy
	// asks for: their answer may have been another one.
	Unsure uint64
	// Changes are the differences, those that refuse more first, then by number.
	Changes []Change
}

// Refuses counts the operations that passed and would be refused or held.
func (r *Report) Refuses() uint64 {
	return r.count(func(c *Change) bool { return c.To.Verdict < c.From.Verdict })
}

// Allows counts the operations that were refused or held and would pass further.
func (r *Report) Allows() uint64 {
	return r.count(func(c *Change) bool { return c.To.Verdict > c.From.Verdict })
}

func (r *Report) count(of func(*Change) bool) uint64 {
	var n uint64
	for i := range r.Changes {
		if of(&r.Changes[i]) {
			n += r.Changes[i].Count
		}
	}
	return n
}

// maxAgents bounds the agents that a change lists.
const maxAgents = 20

// Replay tries an engine on observations, which it takes one by one.
type Replay struct {
	engine *policy.Engine
	read   Read
	report Report
	seen   map[key]int // of report.Changes
}

// key is what observations with the same difference have in common.
type key struct{ from, to Answer }

// New returns a replay. Without read, conditions over facts cannot be evaluated.
func New(engine *policy.Engine, read Read) *Replay {
	return &Replay{engine: engine, read: read, seen: map[key]int{}}
}

// Add tries the engine on one observation.
func (r *Replay) Add(o *policy.Observation) {
	req := o.Request
	req.Operation.Facts = FactsOf(o, r.read)
	d := r.engine.Decide(&req)
	from, to := Recorded(o), AnswerOf(d)
	r.report.Total++
	if o.Cut || d.Reason == policy.ReasonError {
		r.report.Unsure++
	}
	if from.Verdict == to.Verdict {
		r.report.Same++
		return
	}
	k := key{from, to}
	i, ok := r.seen[k]
	if !ok {
		i = len(r.report.Changes)
		r.seen[k] = i
		r.report.Changes = append(r.report.Changes, Change{From: from, To: to, Example: *o})
	}
	c := &r.report.Changes[i]
	c.Count++
	if !slices.Contains(c.Agents, req.Agent) && len(c.Agents) < maxAgents {
		c.Agents = append(c.Agents, req.Agent)
	}
}

// Report returns what was found so far.
func (r *Replay) Report() Report {
	report := r.report
	report.Changes = slices.Clone(report.Changes)
	slices.SortFunc(report.Changes, func(a, b Change) int {
		return cmp.Or(
			cmp.Compare(a.To.Verdict, b.To.Verdict), -cmp.Compare(a.Count, b.Count),
			cmp.Compare(a.To.Rule, b.To.Rule), cmp.Compare(a.From.Rule, b.From.Rule), cmp.Compare(a.To.Reason, b.To.Reason),
		)
	})
	return report
}

// errUnread is wrapped where facts of a recorded text are not to be had.
var errUnread = errors.New("the record does not tell")

// FactsOf returns the facts of an observation's operation: what its text says, if
// that is one statement. They are not those of the session, which knew the target's
// catalog and settings. The text is read when a condition asks.
func FactsOf(o *policy.Observation, read Read) policy.Facts { return &facts{o: o, read: read} }

// facts are those of one observation.
type facts struct {
	o    *policy.Observation
	read Read
	once sync.Once
	of   policy.Facts
}

// Fact reads the text, if nobody has, and asks what it says.
func (f *facts) Fact(name string) (any, error) {
	f.once.Do(f.readText)
	if f.of == nil {
		return nil, fmt.Errorf("%w: %w", policy.ErrUnknownFact, errUnread)
	}
	return f.of.Fact(name)
}

func (f *facts) readText() {
	op := &f.o.Request.Operation
	if f.read == nil || op.Text == "" || f.o.Cut {
		return
	}
	if operations, err := f.read(op.Protocol, op.Text); err == nil && len(operations) == 1 {
		f.of = operations[0].Facts
	}
}
