package policy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/transparent"
)

const asking = `
version: 1
resources:
  - {name: public, protocol: dns, names: ["github.com", "*.github.com"]}
  - {name: corp, protocol: dns, names: ["*.corp", "10.in-addr.arpa", "*.10.in-addr.arpa"], servers: ["10.0.0.2:53", "[2001:db8::1]:53"]}
  - {name: bad, protocol: dns, names: ["*.bad.corp"]}
  - {name: db, protocol: sqlish, hosts: ["db.internal:1", "10.0.0.1:1"]}
  - {name: web, protocol: web, hosts: ["*.pages.dev:443", "db.internal:443"]}
  - {name: closed, protocol: sqlish, hosts: ["closed.internal:1", "x.bad.corp:1"]}
  - {name: odd, protocol: web, hosts: ["10.0.0.3:5353"]}
rules:
  - {name: ask-public, effect: allow, resources: [public], operations: [address, service]}
  - {name: ask-corp, effect: allow, resources: [corp], principals: ["group:ci"]}
  - {name: no-zone, effect: deny, resources: ["protocol:dns"], operations: [zone, update, unknown]}
  - {name: hold-text, effect: approve, resources: [public], operations: [text]}
  - {name: no-bad, effect: deny, resources: [bad]}
  - {name: db-read, effect: allow, resources: [db], operations: [select], principals: ["group:ci"]}
  - {name: web-hold, effect: approve, resources: [web]}
  - {name: bad-host, effect: allow, resources: [closed], principals: ["group:nobody"]}
  - {name: odd-get, effect: allow, resources: [odd], operations: [get]}
`

// query is a request of a name server for a name.
func query(server, name string, effects ...string) *Request {
	req := &Request{Principal: ciJob, Target: netip.MustParseAddrPort(server), Transport: transparent.UDP}
	req.Operation = Operation{Protocol: "dns", Effects: effects}
	if len(effects) > 0 {
		req.Operation.Verb = effects[0]
	}
	if name != "" {
		req.Operation.Objects = []Object{{Kind: "name", Name: name}}
	}
	return req
}

func TestNamesAreAskedForByRule(t *testing.T) {
	const any, corp = "127.0.0.53:53", "10.0.0.2:53"
	tests := []struct {
		name string
		req  *Request
		want string
	}{
		{"a name", query(any, "github.com", "address"), "allow ask-public rule public"},
		{"a name below another, however it is written", query(any, "a.B.GitHub.com.", "address"), "allow ask-public rule public"},
		{"a name that only ends alike", query(any, "xgithub.com", "address"), "deny default unknown_resource "},
		{"a dot inside a label", query(any, `x\.github.com`, "address"), "deny default unknown_resource "},
		{"another effect", query(any, "github.com", "reverse"), "deny default unmatched public"},
		{"every effect must be allowed", query(any, "github.com", "address", "reverse"), "deny default unmatched public"},
		{"an effect that is held", query(any, "github.com", "text"), "approve hold-text rule public"},
		{"an effect that is denied", query(any, "github.com", "update"), "deny no-zone rule public"},
		{"an operation that is not understood", query(any, "github.com", Unknown), "deny no-zone rule public"},
		{"no effects", query(any, "github.com"), "deny no-zone rule public"},
		{"a name of another server's", query(any, "a.corp", "address"), "deny default unknown_resource "},
		{"a name that this server may be asked for", query(corp, "a.corp", "address"), "allow ask-corp rule corp"},
		{"the same server, over IPv6", query("[2001:db8::1%eth0]:53", "a.corp", "address"), "allow ask-corp rule corp"},
		{"the same server as IPv4-mapped", query("[::ffff:10.0.0.2]:53", "a.corp", "address"), "allow ask-corp rule corp"},
		{"another port of it", query("10.0.0.2:54", "a.corp", "address"), "deny default unknown_resource "},
		{"a resource without servers holds for all", query(corp, "github.com", "address"), "allow ask-public rule public"},
		{"all resources must allow", query(corp, "x.bad.corp", "address"), "deny no-bad rule bad"},
		{"an address backwards", query(corp, "7.3.0.10.in-addr.arpa", "reverse"), "allow ask-corp rule corp"},
		{"the root", query(corp, ".", "address"), "deny default unknown_resource "},
		{"nothing at all may be everything", query(corp, "", "address"), "deny no-bad rule bad"},
		{"nothing at all that is not understood", query(corp, "", Unknown), "deny no-bad rule bad"},

		{"a host of a resource that one may connect to", query(any, "db.internal", "address"), "allow db-read implied db"},
		{"only its address", query(any, "db.internal", "service"), "deny default unknown_resource "},
		{"also if it is held", query(any, "x.pages.dev", "address"), "allow web-hold implied web"},
		{"not if one may not connect", query(any, "closed.internal", "address"), "deny default unknown_resource "},
		{"not if a rule denies the name", query(any, "x.bad.corp", "address"), "deny no-bad rule bad"},
		{"not what is not understood", query(any, "db.internal", "address", Unknown), "deny default unknown_resource db"},
		{"not below the name", query(any, "x.db.internal", "address"), "deny default unknown_resource "},

		{"connecting", query(any, "", Connect), "allow ask-public rule public"},
		{"a server that belongs to another resource needs both", query("10.0.0.3:5353", "github.com", "address"), "allow ask-public rule public"},
		{"of the transport", over(transparent.TCP, query("10.0.0.3:5353", "github.com", "address")), "deny default unmatched public"},
		{"TCP is not another thing", over(transparent.TCP, query(any, "github.com", "address")), "allow ask-public rule public"},
	}
	e, err := Compile(1, mustParse(t, asking))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := e.Decide(test.req)
			if got := answer(d) + " " + d.Resource; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func over(transport transparent.Transport, req *Request) *Request {
	req.Transport = transport
	return req
}

func TestTwoNamesMustBothBeAllowed(t *testing.T) {
	e, err := Compile(1, mustParse(t, asking))
	if err != nil {
		t.Fatal(err)
	}
	req := query("127.0.0.53:53", "github.com", "address")
	req.Operation.Objects = append(req.Operation.Objects, Object{Kind: "name", Name: "example.com"})
	if got := answer(e.Decide(req)); got != "deny default unknown_resource" {
		t.Errorf("got %q", got)
	}
}

func TestAnImpliedPermissionFillsWhatNoRuleSays(t *testing.T) {
	const body = `
version: 1
resources:
  - {name: all, protocol: dns, names: ["*"]}
  - {name: db, protocol: sqlish, hosts: ["db.internal:1"]}
rules:
  - {name: others, effect: allow, resources: [all], principals: ["group:other"]}
  - {name: db-read, effect: allow, resources: [db]}
`
	e, err := Compile(1, mustParse(t, body))
	if err != nil {
		t.Fatal(err)
	}
	if got := answer(e.Decide(query("10.0.0.2:53", "db.internal", "address"))); got != "allow db-read implied" {
		t.Errorf("got %q", got)
	}
	if got := answer(e.Decide(query("10.0.0.2:53", "example.com", "address"))); got != "deny default unmatched" {
		t.Errorf("got %q", got)
	}
	if got := answer(e.Decide(query("10.0.0.2:53", "", Connect))); got != "allow db-read implied" {
		t.Errorf("connecting: %q", got)
	}
}

func TestWhoMayAskForAnythingMayTalkToTheServer(t *testing.T) {
	res := func(names, more string) string {
		return "version: 1\nresources: [{name: dns, protocol: dns, names: [" + names + "]}" + more + "]\n"
	}
	const db = `, {name: db, protocol: sqlish, hosts: ["db.internal:1"]}`
	tests := []struct{ name, body, want string }{
		{"nothing may be asked for", "version: 1\n", "deny default unknown_resource"},
		{"everything may, by default", "version: 1\ndefaults: {unmatched: allow}", "allow default unknown_resource"},
		{"a name without a rule", res("a", ""), "deny default unknown_resource"},
		{"a name that is denied, and others by default", res("a", "") + "rules: [{name: r, effect: deny, resources: [dns]}]\ndefaults: {unmatched: allow}", "allow default unknown_resource"},
		{"every name denied", res(`"*"`, "") + "rules: [{name: r, effect: deny, resources: [dns]}]\ndefaults: {unmatched: allow}", "deny r rule"},
		{"an approval for everything", res(`"*"`, "") + "rules: [{name: r, effect: approve, resources: [dns]}]", "approve r rule"},
		{"a host", res("a", db) + "rules: [{name: r, effect: allow, resources: [db]}]", "allow r implied"},
		{"a host that is denied", res("a", db) + "rules: [{name: r, effect: deny, resources: [db]}]", "deny default unknown_resource"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e, err := Compile(1, mustParse(t, test.body))
			if err != nil {
				t.Fatal(err)
			}
			if got := answer(e.Decide(query("10.0.0.2:53", "", Connect))); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAskingIsObservedAsEverythingIs(t *testing.T) {
	const res = "version: 1\nresources: [{name: dns, protocol: dns, names: [a]}, {name: db, protocol: p, hosts: ['db:1']}]\ndefaults: {mode: observe}\n"
	e, err := Compile(1, mustParse(t, res+"rules: [{name: r, effect: deny, resources: [dns]}, {name: d, effect: allow, resources: [db]}]"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Decision{
		"a":  {Verdict: Allow, Rule: "r", Reason: ReasonRule, Resource: "dns", WouldHave: Deny, WouldHaveRule: "r", Mode: Observe, Generation: 1},
		"b":  {Verdict: Allow, Rule: DefaultRule, Reason: ReasonUnknownResource, WouldHave: Deny, WouldHaveRule: DefaultRule, Mode: Observe, Generation: 1},
		"db": {Verdict: Allow, Rule: "d", Reason: ReasonImplied, Resource: "db", WouldHave: Allow, WouldHaveRule: "d", Mode: Observe, Generation: 1},
	} {
		if diff := cmp.Diff(want, e.Decide(query("10.0.0.2:53", name, "address"))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if d := e.Decide(query("10.0.0.2:53", "", Connect)); d.Verdict != Allow || d.Mode != Observe {
		t.Errorf("connecting: %+v", d)
	}
	e, err = Compile(1, mustParse(t, res+"rules: [{name: r, mode: enforce, effect: deny, resources: [dns]}]"))
	if err != nil {
		t.Fatal(err)
	}
	if d := e.Decide(query("10.0.0.2:53", "a", "address")); d.Verdict != Deny || d.Rule != "r" {
		t.Errorf("a rule that enforces: %+v", d)
	}
	if d := e.Decide(query("10.0.0.2:53", "", Connect)); d.Verdict != Allow || d.Mode != Enforce {
		t.Errorf("connecting must be understood: %+v", d)
	}
}
