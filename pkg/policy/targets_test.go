package policy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const overlapping = `
version: 1
resources:
  - {name: any, protocol: sqlish, hosts: ["0.0.0.0/0:5432", "[::/0]:5432"]}
  - {name: net, protocol: sqlish, hosts: ["10.0.3.0/24:5432"]}
  - {name: named, protocol: sqlish, hosts: ["App-DB.internal.:5432", "gone.internal:5432"]}
  - {name: alias, protocol: sqlish, hosts: ["alias.internal:5432"]}
  - {name: six, protocol: other, hosts: ["[2001:db8::1]:22"], tls: {verify: full}, credential: c}
rules:
  - {name: any-read, effect: allow, resources: [any], operations: [select]}
  - {name: net-read, effect: allow, resources: [net], operations: [select]}
  - {name: named-read, effect: allow, resources: [named, alias], operations: [select]}
  - {name: named-hold, effect: approve, resources: [named], operations: [insert]}
  - {name: named-write, effect: allow, resources: [any, net, alias], operations: [insert]}
  - {name: net-update, effect: allow, resources: [net], operations: [update]}
`

func overlappingEngine(t *testing.T) *Engine {
	t.Helper()
	e, err := Options{Resolved: map[string][]netip.Addr{
		"app-db.internal": {netip.MustParseAddr("10.0.3.7"), netip.MustParseAddr("::ffff:10.9.9.9")},
		"Alias.internal.": {netip.MustParseAddr("10.0.3.7")},
		"stranger":        {netip.MustParseAddr("10.0.3.8")},
	}}.Compile(mustParse(t, overlapping))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestATargetIsNamedByTheNarrowestRange(t *testing.T) {
	tests := []struct {
		target string
		names  []string
		want   string
	}{
		{"10.0.3.7:5432", nil, "alias"},
		{"10.0.3.7:5432", []string{"app-db.internal"}, "named"},
		{"10.0.3.7:5432", []string{"unknown", "APP-DB.internal."}, "named"},
		{"10.0.3.7:5432", []string{""}, "alias"},
		{"[::ffff:10.0.3.7]:5432", nil, "alias"},
		{"10.9.9.9:5432", nil, "named"},
		{"10.0.3.8:5432", nil, "net"},
		{"10.0.3.8:5432", []string{"app-db.internal"}, "net"},
		{"10.0.4.8:5432", nil, "any"},
		{"[2001:db8::1]:5432", nil, "any"},
		{"[2001:db8::1%eth0]:22", nil, "six"},
		{"[2001:db8::1]:23", []string{"app-db.internal"}, ""},
		{"[2001:db8::2]:22", nil, ""},
	}
	e := overlappingEngine(t)
	for _, test := range tests {
		r, ok := e.Resource(netip.MustParseAddrPort(test.target), test.names)
		if r.Name != test.want || ok != (test.want != "") {
			t.Errorf("Resource(%s, %q) = %q, %v, want %q", test.target, test.names, r.Name, ok, test.want)
		}
	}
	if _, ok := e.Resource(netip.AddrPort{}, nil); ok {
		t.Error("the zero target belongs to a resource")
	}
	six, _ := e.Resource(netip.MustParseAddrPort("[2001:db8::1]:22"), nil)
	want := Resource{Name: "six", Protocol: "other", Credential: "c", TLS: TLS{Verify: "full", CA: "system"}}
	if diff := cmp.Diff(want, six); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
}

func TestTheHostNameOfATargetIsTheOneThatThePolicyFoundItBy(t *testing.T) {
	e, err := Options{Resolved: map[string][]netip.Addr{
		"App-DB.internal": {netip.MustParseAddr("::ffff:10.0.3.7")}, "second.internal": {netip.MustParseAddr("10.0.3.7")},
	}}.Compile(mustParse(t, `
version: 1
resources:
  - name: db
    protocol: sqlish
    hosts: ["10.0.0.0/8:5432", "app-db.internal:5432", "second.internal:5432", "*.cloud.test:5432"]
    tls: {verify: off, agent: refuse}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		target string
		names  []string
		want   string
	}{
		{"10.0.3.7:5432", nil, "app-db.internal"},
		{"[::ffff:10.0.3.7]:5432", []string{"elsewhere"}, "app-db.internal"},
		{"10.0.3.7:5432", []string{"elsewhere", "SECOND.internal."}, "second.internal"},
		{"10.0.3.8:5432", nil, ""},
		{"10.0.3.8:5432", []string{"x.elsewhere"}, ""},
		{"10.0.3.8:5432", []string{"x.Cloud.test."}, "x.cloud.test"},
		{"192.0.2.1:5432", []string{"x.cloud.test"}, "x.cloud.test"},
	} {
		req := &Request{Target: netip.MustParseAddrPort(test.target), Names: test.names}
		want := Resource{Name: "db", Protocol: "sqlish", Host: test.want, TLS: TLS{Verify: TLSOff, Agent: TLSRefuse}}
		got, _ := e.ResourceOf(req)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %q (-want +got):\n%s", test.target, test.names, diff)
		}
	}
}

func TestAnAmbiguousTargetGetsTheMostRestrictiveAnswer(t *testing.T) {
	tests := []struct{ target, effect, want string }{
		{"10.0.3.7:5432", "select", "allow any-read rule"},
		{"10.0.3.7:5432", "insert", "approve named-hold rule"},
		{"10.0.3.7:5432", "update", "deny default unmatched"},
		{"10.0.3.8:5432", "insert", "allow named-write rule"},
		{"10.0.3.8:5432", "update", "deny default unmatched"},
	}
	e := overlappingEngine(t)
	for _, test := range tests {
		req := &Request{Target: netip.MustParseAddrPort(test.target), Operation: Operation{Effects: []string{test.effect}}}
		if got := answer(e.Decide(req)); got != test.want {
			t.Errorf("%s at %s: got %q, want %q", test.effect, test.target, got, test.want)
		}
	}
}

func TestNamesAndDestinationsAreListedForTheDaemon(t *testing.T) {
	e := overlappingEngine(t)
	if diff := cmp.Diff([]string{"gone.internal"}, e.Unresolved()); diff != "" {
		t.Errorf("unresolved (-want +got):\n%s", diff)
	}
	hosts := []Host{{Name: "alias.internal", Port: 5432}, {Name: "app-db.internal", Port: 5432}, {Name: "gone.internal", Port: 5432}}
	addr := cmpopts.EquateComparable(netip.Prefix{})
	if diff := cmp.Diff(hosts, e.Hosts(), addr); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	if got := mustParse(t, overlapping).Hosts(); len(got) != 3 {
		t.Errorf("the file's hosts: %v", got)
	}
	want := []Destination{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: 5432, Verdict: Proxied, Resource: "any"},
		{Prefix: netip.MustParsePrefix("10.0.3.0/24"), Port: 5432, Verdict: Proxied, Resource: "net"},
		{Prefix: netip.MustParsePrefix("10.0.3.7/32"), Port: 5432, Verdict: Proxied, Resource: "alias"},
		{Prefix: netip.MustParsePrefix("10.9.9.9/32"), Port: 5432, Verdict: Proxied, Resource: "named"},
		{Prefix: netip.MustParsePrefix("::/0"), Port: 5432, Verdict: Proxied, Resource: "any"},
		{Prefix: netip.MustParsePrefix("2001:db8::1/128"), Port: 22, Verdict: Proxied, Resource: "six"},
	}
	if diff := cmp.Diff(want, e.Destinations(), addr); diff != "" {
		t.Errorf("destinations (-want +got):\n%s", diff)
	}
}

func TestAHostIsPrintedAsItIsRead(t *testing.T) {
	for _, s := range []string{"a.b-c.d:1", "10.0.0.1:5432", "10.0.0.0/8:65535", "[::1]:22", "[2001:db8::/32]:22", "x_1:7"} {
		h, err := ParseHost(s)
		if err != nil || h.String() != s {
			t.Errorf("ParseHost(%q) = %v, %v", s, h, err)
		}
	}
	for _, s := range []string{
		"", ":", "a", "a:", "a:x", "a:0", "a:+1", "a:01", "a:65536", ":1", "a b:1", "*.a:1", "a..b:1", "10.0.0.300:1", "10.0.0.1/33:1",
		"[10.0.0.1]:1", "[::1:1", "[::1]x:1", "::1:1", "[fe80::1%eth0]:1", "[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.0/104]:1", "2001:db8::/32:1", "é:1",
	} {
		if h, err := ParseHost(s); err == nil {
			t.Errorf("ParseHost(%q) = %v", s, h)
		}
	}
}
