package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const named = `
version: 1
resources:
  - {name: github, protocol: web, hosts: ["github.com:443", "*.github.com:443"]}
  - {name: secret, protocol: web, hosts: ["secret.github.com:443"]}
  - {name: cdn, protocol: web, hosts: ["10.0.0.0/24:443"]}
  - {name: mirror, protocol: tcp, inspection: none, hosts: ["mirror.corp:443", "10.0.1.0/24:443"]}
  - {name: time, protocol: udp, hosts: ["github.com:443", "10.0.0.9:443"]}
rules:
  - {name: get, effect: allow, resources: [github, cdn, mirror]}
  - {name: no-put, effect: deny, resources: [github], operations: [put]}
masks:
  - {name: m, resources: [secret], columns: ["*.*.a"], with: redact}
`

func TestATrustedNameAddsResources(t *testing.T) {
	e, err := Compile(1, mustParse(t, named))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, target string
		names        []string
		effect       string
		want         string
	}{
		{"an address alone", "10.0.0.1:443", nil, "get", "allow get rule cdn"},
		{"another name changes nothing", "10.0.0.1:443", []string{"example.com"}, "get", "allow get rule cdn"},
		{"a name makes it more", "10.0.0.1:443", []string{"github.com"}, "put", "deny no-put rule github"},
		{"a name at another port does not", "10.0.0.1:444", []string{"github.com"}, "get", "deny default unknown_resource "},
		{"all must allow", "10.0.0.1:443", []string{"secret.github.com"}, "get", "deny default unmatched secret"},
		{"the order of names does not matter", "10.0.0.1:443", []string{"x.github.com", "secret.github.com"}, "get", "deny default unmatched secret"},
		{"nor does the other", "10.0.0.1:443", []string{"secret.github.com", "x.github.com"}, "get", "deny default unmatched secret"},
		{"an unknown address is denied", "10.9.9.9:443", nil, "get", "deny default unknown_resource "},
		{"and allowed by a name", "10.9.9.9:443", []string{"github.com"}, "get", "allow get rule github"},
		{"or by a pattern", "10.9.9.9:443", []string{"a.b.GitHub.com."}, "get", "allow get rule github"},
		{"a pattern needs a label", "10.9.9.9:443", []string{"xgithub.com"}, "get", "deny default unknown_resource "},
		{"a dot inside a label is none", "10.9.9.9:443", []string{`x\.github.com`}, "get", "deny default unknown_resource "},
		{"what is inspected decides how it is spoken", "10.0.1.1:443", []string{"github.com"}, "get", "allow get rule github"},
		{"also if what is not inspected is named", "10.0.0.1:443", []string{"mirror.corp"}, "get", "allow get rule cdn"},
		{"what is not inspected may be reached by name", "10.9.9.9:443", []string{"mirror.corp"}, "get", "allow get rule mirror"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req := &Request{Target: netip.MustParseAddrPort(test.target), Names: test.names, Operation: Operation{Effects: []string{test.effect}}}
			for range 2 { // made, then found
				d := e.Decide(req)
				if got := answer(d) + " " + d.Resource; got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				if r, ok := e.ResourceOf(req); r.Name != d.Resource || ok != (d.Resource != "") {
					t.Errorf("the resource is %q, of the decision %q", r.Name, d.Resource)
				}
			}
		})
	}
}

func TestANameNeverAllowsWhatTheAddressIsDenied(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(5, 6))}
	seen := map[string]int{}
	for range 300 {
		text := "version: 1\nresources:\n"
		for _, name := range []string{"a", "b", "c"} {
			text += "  - {name: " + name + ", protocol: p, hosts: ['" + d.one("10.0.0.1:1", "10.0.0.0/24:1", "n:1") + "', '" + d.one("n:1", "m:1", "*.n:1", "n:2") + "']}\n"
		}
		text += "defaults: {mode: " + d.one("observe", "enforce") + ", unmatched: " + d.one("allow", "deny") + "}\nrules:\n"
		for i := range 1 + d.IntN(4) {
			text += strings.ReplaceAll(strings.ReplaceAll(d.rule(fmt.Sprintf("r%d", i)), "runner", "default"), "backup", "default")
		}
		e, err := Options{conditions: fakes}.Compile(mustParse(t, text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for range 30 {
			req := d.request()
			req.Target = netip.MustParseAddrPort(d.one("10.0.0.1:1", "10.0.0.2:1", "10.9.9.9:1"))
			alone := e.Decide(req)
			req.Names = []string{d.one("n", "m", "x.n", "z"), d.one("n", "m", "x.n", "z")}
			named := e.Decide(req)
			widened := named.Verdict > alone.Verdict || named.WouldHave > alone.WouldHave
			if alone.Resource != "" && widened {
				t.Fatalf("alone: %+v\nnamed: %+v\n%+v\n%s", alone, named, req, text)
			}
			seen[fmt.Sprint(alone.Resource != "", widened, named.Verdict < alone.Verdict)]++
			slices.Reverse(req.Names)
			if again := e.Decide(req); again.Verdict != named.Verdict || again.Rule != named.Rule || again.Reason != named.Reason || again.WouldHave != named.WouldHave {
				t.Fatalf("in another order: %+v\n%+v\n%+v\n%s", again, named, req, text)
			}
		}
	}
	for _, what := range []string{"true false true", "true false false", "false true false"} {
		if seen[what] < 10 {
			t.Errorf("%s was met %d times", what, seen[what])
		}
	}
}

func TestANameAddsMasks(t *testing.T) {
	e, err := Compile(1, mustParse(t, named))
	if err != nil {
		t.Fatal(err)
	}
	req := &Request{Target: netip.MustParseAddrPort("10.0.0.1:443")}
	if e.Masks(req) != nil {
		t.Error("masked without a name")
	}
	req.Names = []string{"secret.github.com"}
	if _, ok := e.Masks(req).Column("s", "t", "a"); !ok {
		t.Error("not masked")
	}
}

func TestMasksThatANameMayBringTogetherMustFit(t *testing.T) {
	const text = `
version: 1
resources:
  - {name: a, protocol: p, hosts: ["a:1"]}
  - {name: b, protocol: p, hosts: ["10.0.0.1:%d"]}
masks:
  - {name: m, resources: [a], columns: ["*.*.a"], with: constant, constant: "4111111111111111"}
  - {name: n, resources: [b], detect: [pan], with: redact}
`
	if _, err := Compile(1, mustParse(t, fmt.Sprintf(text, 1))); err == nil {
		t.Error("compiled")
	}
	if _, err := Compile(1, mustParse(t, fmt.Sprintf(text, 2))); err != nil {
		t.Error(err)
	}
}

func TestAPatternIsNotResolved(t *testing.T) {
	f := mustParse(t, named)
	e, err := Compile(1, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]Host{f.Hosts(), e.Hosts()} {
		for _, h := range list {
			if h.Name != "github.com" && h.Name != "secret.github.com" && h.Name != "mirror.corp" {
				t.Errorf("host %v", h)
			}
		}
	}
	for _, name := range e.Unresolved() {
		if name == "*.github.com" {
			t.Error("a pattern is unresolved")
		}
	}
}

// manyNames is a policy where every subset of the names is another group.
func manyNames(tb testing.TB) *Engine {
	tb.Helper()
	text := "version: 1\nresources:\n"
	for i := range 13 {
		text += fmt.Sprintf("  - {name: r%d, protocol: p, hosts: ['n%d:1']}\n", i, i)
	}
	e, err := Compile(1, mustParse(tb, text+"rules: [{name: a, effect: allow, resources: ['*']}, {name: d, effect: deny, resources: [r0]}]"))
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func TestFullTablesOfNamesChangeNoAnswer(t *testing.T) {
	e := manyNames(t)
	for set := 1; set < 1<<13; set++ {
		if set == 6000 {
			clear(e.views) // The groups are still full.
		}
		req := &Request{Target: netip.MustParseAddrPort("10.0.0.1:1"), Operation: Operation{Effects: []string{"x"}}}
		for i := range 13 {
			if set&(1<<i) != 0 {
				req.Names = append(req.Names, fmt.Sprintf("n%d", i))
			}
		}
		want := Allow
		if set&(1) != 0 {
			want = Deny
		}
		if d := e.Decide(req); d.Verdict != want {
			t.Fatalf("%q: %+v", req.Names, d)
		}
	}
	if len(e.joined) != maxJoined || len(e.views) > maxViews {
		t.Errorf("%d groups and %d views are kept", len(e.joined), len(e.views))
	}
	ids := map[int]bool{e.nobody.id: true}
	for _, g := range e.joined {
		if ids[g.id] {
			t.Fatalf("two groups have the id %d", g.id)
		}
		ids[g.id] = true
	}
}

func TestDecidingByNameAllocatesNothingOnceItIsKnown(t *testing.T) {
	e, err := Compile(1, mustParse(t, named))
	if err != nil {
		t.Fatal(err)
	}
	req := &Request{Target: netip.MustParseAddrPort("10.0.0.1:443"), Names: []string{"a.github.com"}, Operation: Operation{Effects: []string{"get"}}}
	e.Decide(req)
	if n := testing.AllocsPerRun(100, func() { e.Decide(req) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecideByName(b *testing.B) {
	e, err := Compile(1, mustParse(b, named))
	if err != nil {
		b.Fatal(err)
	}
	req := &Request{Target: netip.MustParseAddrPort("10.0.0.1:443"), Names: []string{"a.github.com"}, Operation: Operation{Effects: []string{"get"}}}
	b.ReportAllocs()
	for b.Loop() {
		if d := e.Decide(req); d.Verdict != Allow {
			b.Fatal(d)
		}
	}
}
