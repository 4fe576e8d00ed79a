package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy/strict"
)

// rulesOf is a policy of n rules at one resource, of which the last one allows what
// [benchRequest] asks for.
func rulesOf(tb testing.TB, n int) *Engine {
	tb.Helper()
	var b strings.Builder
	b.WriteString("version: 1\nresources:\n  - {name: r7, protocol: p, hosts: ['10.1.0.7:5432']}\nrules:\n")
	var files []*File
	for i := range n - 1 {
		if b.Len() > strict.MaxSize/2 { // a file has a limit, a policy as many files as it likes
			files = append(files, mustParse(tb, b.String()))
			b.Reset()
			b.WriteString("version: 1\nrules:\n")
		}
		fmt.Fprintf(&b, "  - {name: rule-%05d, effect: %s, resources: [r7], operations: [op%d, op%d], principals: ['repo:acme/%d-*', 'group:g%d']}\n",
			i, []string{"allow", "deny", "approve"}[i%3], i%40, (i+7)%40, i, i)
	}
	b.WriteString("  - {name: read, effect: allow, resources: [r7], operations: [select]}\n")
	e, err := Compile(1, append(files, mustParse(tb, b.String()))...)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// BenchmarkDecideRules shows how a decision grows with the policy.
func BenchmarkDecideRules(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e, req := rulesOf(b, n), benchRequest()
			b.ReportAllocs()
			for b.Loop() {
				if d := e.Decide(req); d.Verdict != Allow {
					b.Fatal(d)
				}
			}
		})
	}
}
