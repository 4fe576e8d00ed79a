package policy

import (
	"slices"
	"strings"
	"time"
)

// The settings of approvals that a rule leaves out.
const (
	defaultApprovers       = 1
	defaultApprovalTimeout = 10 * time.Minute
)

// Scope is what an approval is for. The zero Scope is Once.
type Scope uint8

// The scopes of approvals.
const (
	// Once is the one operation that was asked about, with its parameters.
	Once Scope = iota
	// PerStatement is that operation, whenever the same tree asks for it again.
	PerStatement
	// PerSession is what the rule holds in that session.
	PerSession
	// ForTime is what the rule holds of that tree for a time.
	ForTime
)

// String returns "once", "statement", "session" or "time".
func (s Scope) String() string {
	return [...]string{Once: "once", PerStatement: "statement", PerSession: "session", ForTime: "time"}[min(s, ForTime)]
}

// Approval is what a rule with effect approve asks of people.
type Approval struct {
	Rule string
	// Groups are those whose members may approve; none means that nobody may who is
	// not named elsewhere.
	Groups []string
	// Count is how many people have to, each another one; at least 1.
	Count int
	// Timeout is how long they have; then it is denied.
	Timeout time.Duration
	Scope   Scope
	// For is how long the approval lasts, for the scope [ForTime].
	For time.Duration
}

// approval is what a rule asks for, with what it leaves out.
func (s approvalSyntax) approval(rule string) Approval {
	a := Approval{Rule: rule, Groups: slices.Clone(s.Groups), Count: max(defaultApprovers, s.Count), Timeout: defaultApprovalTimeout}
	// Parsing the file has found the durations good.
	if d, err := time.ParseDuration(s.Timeout); err == nil {
		a.Timeout = d
	}
	switch s.Grant {
	case "", "once":
	case "statement":
		a.Scope = PerStatement
	case "session":
		a.Scope = PerSession
	default:
		if d, err := time.ParseDuration(s.Grant); err == nil {
			a.Scope, a.For = ForTime, d
		}
	}
	return a
}

// approvals returns what all enforced rules ask for that hold an operation at the
// resources of a view, by the rules' names. Every one of them has to be satisfied.
func (v *view) approvals(req *Request) []Approval {
	var list []Approval
	for i := range v.resources {
		r := &v.resources[i]
		for _, effect := range req.Operation.Effects {
			for _, c := range r.candidates(effect) {
				known := func(a Approval) bool { return a.Rule == c.rule.name }
				if c.verdict == Approve && c.rule.mode == Enforce && !slices.ContainsFunc(list, known) && c.holds(req, r.at) {
					list = append(list, c.rule.approval)
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b Approval) int { return strings.Compare(a.Rule, b.Rule) })
	return list
}

// holds reports whether the candidate's condition, if it has one, holds. An error has
// denied the operation already.
func (c *candidate) holds(req *Request, at *Resource) bool {
	if c.condition == nil {
		return true
	}
	holds, err := c.condition.Eval(req, at)
	return holds || err != nil
}
