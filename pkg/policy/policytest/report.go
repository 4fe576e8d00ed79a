package policytest

import (
	"cmp"
	"maps"
	"slices"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// Report is what came of the tests. It is not safe for concurrent use.
type Report struct {
	// Results are in the order of the suites and their files.
	Results []Result
	// Coverage lists every rule and mask of the policies, by file and place.
	Coverage []Covered

	parts map[policy.Part]int
}

// Result is what came of one test.
type Result struct {
	File, Name string
	At         strict.Position
	// Decision is what the policy said, "allow", "deny", "approve" or "none", and Rule
	// the name of the rule that said it. Both are empty where a test is of masks alone.
	Decision, Rule string
	// Failures say what was expected and what happened; none if the test passed.
	Failures []string
}

// Passed reports whether the test passed.
func (r *Result) Passed() bool { return len(r.Failures) == 0 }

// Covered is a rule or a mask and the number of tests that it has to do with.
type Covered struct {
	policy.Part
	Tests int
}

func newReport() *Report { return &Report{parts: map[policy.Part]int{}} }

// cover notes which parts there are to be covered.
func (r *Report) cover(files []*policy.File) {
	for _, f := range files {
		for _, p := range f.Parts() {
			r.parts[p] += 0
		}
	}
}

// covered counts a test for parts of policies, each once.
func (r *Report) covered(files []*policy.File, kind string, names []string) {
	for _, f := range files {
		for _, p := range f.Parts() {
			if p.Kind == kind && slices.Contains(names, p.Name) {
				r.parts[p]++
			}
		}
	}
}

// finish brings the coverage into its order.
func (r *Report) finish() {
	for _, p := range slices.SortedFunc(maps.Keys(r.parts), func(a, b policy.Part) int {
		return cmp.Or(cmp.Compare(a.At.File, b.At.File), cmp.Compare(a.At.Line, b.At.Line), cmp.Compare(a.At.Column, b.At.Column), cmp.Compare(a.Name, b.Name))
	}) {
		r.Coverage = append(r.Coverage, Covered{p, r.parts[p]})
	}
}

// Failed returns the number of tests that failed.
func (r *Report) Failed() int {
	n := 0
	for i := range r.Results {
		if !r.Results[i].Passed() {
			n++
		}
	}
	return n
}

// CoveredParts returns how many rules and masks have a test that has to do with them.
func (r *Report) CoveredParts() int {
	n := 0
	for _, c := range r.Coverage {
		if c.Tests > 0 {
			n++
		}
	}
	return n
}

// Percent returns the share of the rules and masks that are covered, from 0 to 100,
// with one digit behind the point and never rounded up. A policy that has none is
// covered.
func (r *Report) Percent() float64 {
	if len(r.Coverage) == 0 {
		return 100
	}
	return float64(r.CoveredParts()*1000/len(r.Coverage)) / 10
}
