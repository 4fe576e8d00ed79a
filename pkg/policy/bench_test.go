package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// thousandRules is a policy with 1,000 rules at one resource and as many
// resources again.
func thousandRules(tb testing.TB) *Engine {
	tb.Helper()
	var b strings.Builder
	b.WriteString("version: 1\nresources:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {name: r%d, protocol: p, hosts: ['10.1.%d.%d:5432']}\n", i, i/250, i%250)
	}
	b.WriteString("rules:\n")
	for i := range 999 {
		fmt.Fprintf(&b, "  - {name: rule-%03d, effect: %s, resources: [r7], operations: [op%d, op%d], principals: ['repo:acme/%d-*', 'group:g%d']}\n",
			i, []string{"allow", "deny", "approve"}[i%3], i%40, (i+7)%40, i, i)
	}
	b.WriteString("  - {name: read, effect: allow, resources: [r7], operations: [select]}\n")
	e, err := Compile(1, mustParse(tb, b.String()))
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func benchRequest() *Request {
	return &Request{
		Principal: identityOf("repo", "acme/web", "ci", "dev"), Agent: "runner",
		Target:    netip.MustParseAddrPort("10.1.0.7:5432"),
		Operation: Operation{Effects: []string{"select", "select"}},
	}
}

func BenchmarkDecide1000Rules(b *testing.B) {
	e, req := thousandRules(b), benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		if d := e.Decide(req); d.Verdict != Allow {
			b.Fatal(d)
		}
	}
}

// BenchmarkDecide1000RulesFirst decides for a principal that was never seen.
func BenchmarkDecide1000RulesFirst(b *testing.B) {
	e, req := thousandRules(b), benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		clear(e.views)
		if d := e.Decide(req); d.Verdict != Allow {
			b.Fatal(d)
		}
	}
}

// conditionalRules is a policy of 1,000 rules at 100 resources, each with a condition.
func conditionalRules(tb testing.TB, each int) *Engine {
	tb.Helper()
	var b strings.Builder
	b.WriteString("version: 1\nresources:\n")
	for i := range 100 {
		fmt.Fprintf(&b, "  - {name: r%d, protocol: sqlish, hosts: ['10.1.0.%d:5432']}\n", i, i)
	}
	b.WriteString("rules:\n")
	for i := range 100 * each {
		when := []string{"!sql.has_where", "lineage.exists(p, p.exe == '/usr/bin/claude')", "process.uid == 0", "sql.tables.exists(t, t.startsWith('pay.'))"}[i/100%4]
		fmt.Fprintf(&b, "  - {name: rule-%03d, effect: deny, resources: [r%d], operations: [%s], when: %q}\n",
			i, i%100, []string{"select", "insert", "update", "delete"}[i/100%4], when)
	}
	b.WriteString("  - {name: read, effect: allow, resources: ['*'], operations: [select]}\n")
	e, err := conditionOptions.Compile(mustParse(tb, b.String()))
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// BenchmarkDecide1000ConditionalRules asks three conditions for each decision.
func BenchmarkDecide1000ConditionalRules(b *testing.B) {
	e, req := conditionalRules(b, 10), full()
	req.Target = netip.MustParseAddrPort("10.1.0.7:5432")
	req.Operation.Effects, req.Operation.Facts = []string{"select"}, sqlFacts{"has_where": true}
	b.ReportAllocs()
	for b.Loop() {
		if d := e.Decide(req); d.Verdict != Allow {
			b.Fatal(d)
		}
	}
}

// An operation that no condition is about costs nothing for them, however many rules
// there are.
func TestConditionsCostNothingWhereTheyAreNotAsked(t *testing.T) {
	e, req := conditionalRules(t, 40), full()
	req.Target, req.Operation.Effects = netip.MustParseAddrPort("10.1.0.7:5432"), []string{"other"}
	e.Decide(req)
	if n := testing.AllocsPerRun(100, func() { e.Decide(req) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDecidingAllocatesNothingOnceAPrincipalIsKnown(t *testing.T) {
	e, req := thousandRules(t), benchRequest()
	e.Decide(req)
	if n := testing.AllocsPerRun(100, func() { e.Decide(req) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDecisionsMayBeMadeAtTheSameTime(t *testing.T) {
	e := mustCompile(t, "rules: [{name: r, effect: allow, resources: [app-db], principals: ['repo:1*']}]\n"+
		"masks: [{name: m, resources: [app-db], detect: [pan], with: redact}]")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				req := ask("select")
				req.Principal.Subject = fmt.Sprint(i)
				want := Deny
				if strings.HasPrefix(req.Principal.Subject, "1") {
					want = Allow
				}
				if got := e.Decide(req).Verdict; got != want || e.Masks(req).Empty() {
					t.Errorf("%s: %v", req.Principal, got)
				}
			}
		})
	}
	wg.Wait()
}

func TestAFullCacheChangesNoAnswer(t *testing.T) {
	e := mustCompile(t, "rules: [{name: r, effect: allow, resources: [app-db], principals: ['repo:*-yes']}]")
	for i := range maxViews + 10 {
		for suffix, want := range map[string]Verdict{"yes": Allow, "no": Deny} {
			req := ask("select")
			req.Principal.Subject = fmt.Sprintf("%d-%s", i, suffix)
			if got := e.Decide(req).Verdict; got != want {
				t.Fatalf("%s: %v", req.Principal, got)
			}
		}
	}
	if len(e.views) != maxViews {
		t.Errorf("%d views are kept", len(e.views))
	}
}

func TestAViewIsNotUsedForAnotherPrincipalWithTheSameHash(t *testing.T) {
	e := mustCompile(t, "rules: [{name: r, effect: allow, resources: [app-db], principals: ['group:ci']}]")
	e.Decide(ask("select"))
	other := ask("select")
	other.Principal.Groups = []string{"none"}
	// Pretend that both hash alike.
	for key, v := range e.views {
		e.views[viewKey{key.group, e.hash(&other.Principal, other.Agent)}] = v
	}
	if got := e.Decide(other).Verdict; got != Deny {
		t.Errorf("got %v", got)
	}
}
