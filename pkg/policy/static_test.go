package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/headgate/headgate/pkg/transparent"
)

const kinds = `
version: 1
resources:
  - {name: db, protocol: sqlish, hosts: ["10.0.3.7:1", "10.1.0.0/16:1"]}
  - {name: mirror, protocol: tcp, inspection: none, hosts: ["10.0.0.0/8:1", "10.9.9.9:2"]}
  - {name: ntp, protocol: udp, hosts: ["10.0.0.1:123", "10.0.3.7:1"]}
  - {name: docker, protocol: unix, paths: [/run/docker.sock, /run/podman/podman.sock]}
  - {name: bus, protocol: unix, paths: ["/run/user/*/bus", "/run/pg/.s.*"]}
  - {name: dns, protocol: dns, names: ["*"], servers: ["10.0.0.2:53"]}
`

func compileKinds(t *testing.T, body string) *Engine {
	t.Helper()
	e, err := Options{conditions: fakes}.Compile(mustParse(t, kinds+body))
	if err != nil {
		t.Fatalf("compile:\n%v", err)
	}
	return e
}

// statics are the static verdicts of an engine, one line for each.
func statics(e *Engine) []string {
	var list []string
	for _, d := range e.Destinations() {
		list = append(list, strings.TrimSpace(d.Transport.String()+" "+Host{Prefix: d.Prefix, Port: d.Port}.String()+" "+d.Verdict.String()+" "+d.Resource+" "+d.Rule))
	}
	for _, s := range e.UnixSockets() {
		list = append(list, s.Pattern+" "+s.Verdict.String()+" "+s.Resource+" "+s.Rule)
	}
	return list
}

func TestTheKernelIsToldWhatItCanJudgeAlone(t *testing.T) {
	tests := []struct {
		name, body string
		want       []string
	}{
		{"no rules deny what the kernel judges", "", []string{
			"tcp 10.0.0.0/8:1 denied mirror default", "udp 10.0.0.1:123 denied ntp default",
			"tcp 10.0.3.7:1 denied db default", "udp 10.0.3.7:1 denied ntp default",
			"tcp 10.1.0.0/16:1 denied db default", "tcp 10.9.9.9:2 denied mirror default",
			"/run/docker.sock denied docker default", "/run/pg/.s.* denied bus default",
			"/run/podman/podman.sock denied docker default", "/run/user/*/bus denied bus default",
		}},
		{"a rule lets pass, but not what is inspected too", "rules: [{name: r, effect: allow, resources: [\"*\"]}]", []string{
			"tcp 10.0.0.0/8:1 direct mirror r", "udp 10.0.0.1:123 direct ntp r",
			"tcp 10.0.3.7:1 proxied db", "udp 10.0.3.7:1 direct ntp r",
			"tcp 10.1.0.0/16:1 proxied db", "tcp 10.9.9.9:2 direct mirror r",
			"/run/docker.sock direct docker r", "/run/pg/.s.* direct bus r",
			"/run/podman/podman.sock direct docker r", "/run/user/*/bus direct bus r",
		}},
		{"a denial for everybody needs no proxy", "rules: [{name: r, effect: allow, resources: [\"*\"]}, {name: d, effect: deny, resources: [db, bus], operations: [connect]}]", []string{
			"tcp 10.0.0.0/8:1 direct mirror r", "udp 10.0.0.1:123 direct ntp r",
			"tcp 10.0.3.7:1 denied db d", "udp 10.0.3.7:1 direct ntp r",
			"tcp 10.1.0.0/16:1 denied db d", "tcp 10.9.9.9:2 direct mirror r",
			"/run/docker.sock direct docker r", "/run/pg/.s.* denied bus d",
			"/run/podman/podman.sock direct docker r", "/run/user/*/bus denied bus d",
		}},
		{"a policy that observes denies nothing, and names what would", "rules: [{name: r, effect: deny, resources: [\"*\"]}]\ndefaults: {mode: observe}", []string{
			"tcp 10.0.0.0/8:1 observed mirror r", "udp 10.0.0.1:123 observed ntp r",
			"tcp 10.0.3.7:1 proxied db", "udp 10.0.3.7:1 observed ntp r",
			"tcp 10.1.0.0/16:1 proxied db", "tcp 10.9.9.9:2 observed mirror r",
			"/run/docker.sock observed docker r", "/run/pg/.s.* observed bus r",
			"/run/podman/podman.sock observed docker r", "/run/user/*/bus observed bus r",
		}},
		{"but a rule that enforces does", "rules: [{name: r, mode: enforce, effect: deny, resources: [docker, db]}]\ndefaults: {mode: observe}", []string{
			"tcp 10.0.0.0/8:1 observed mirror default", "udp 10.0.0.1:123 observed ntp default",
			"tcp 10.0.3.7:1 proxied db", "udp 10.0.3.7:1 observed ntp default",
			"tcp 10.1.0.0/16:1 proxied db", "tcp 10.9.9.9:2 observed mirror default",
			"/run/docker.sock denied docker r", "/run/pg/.s.* observed bus default",
			"/run/podman/podman.sock denied docker r", "/run/user/*/bus observed bus default",
		}},
		{"a rule that observes denies nothing that others allow", "rules: [{name: r, effect: allow, resources: [\"*\"]}, {name: d, mode: observe, effect: deny, resources: [db, bus, ntp]}]", []string{
			"tcp 10.0.0.0/8:1 direct mirror r", "udp 10.0.0.1:123 observed ntp d",
			"tcp 10.0.3.7:1 proxied db", "udp 10.0.3.7:1 observed ntp d",
			"tcp 10.1.0.0/16:1 proxied db", "tcp 10.9.9.9:2 direct mirror r",
			"/run/docker.sock direct docker r", "/run/pg/.s.* observed bus d",
			"/run/podman/podman.sock direct docker r", "/run/user/*/bus observed bus d",
		}},
		{"and allows nothing that others deny", "rules: [{name: r, mode: observe, effect: allow, resources: [bus, ntp, mirror]}]\ndefaults: {mode: enforce}", []string{
			"tcp 10.0.0.0/8:1 denied mirror default", "udp 10.0.0.1:123 denied ntp default",
			"tcp 10.0.3.7:1 denied db default", "udp 10.0.3.7:1 denied ntp default",
			"tcp 10.1.0.0/16:1 denied db default", "tcp 10.9.9.9:2 denied mirror default",
			"/run/docker.sock denied docker default", "/run/pg/.s.* denied bus default",
			"/run/podman/podman.sock denied docker default", "/run/user/*/bus denied bus default",
		}},
		{"what everything would allow passes unsaid", "rules: [{name: r, effect: allow, resources: [ntp, docker]}]\ndefaults: {mode: observe}", []string{
			"tcp 10.0.0.0/8:1 observed mirror default", "udp 10.0.0.1:123 direct ntp default",
			"tcp 10.0.3.7:1 proxied db", "udp 10.0.3.7:1 direct ntp default",
			"tcp 10.1.0.0/16:1 proxied db", "tcp 10.9.9.9:2 observed mirror default",
			"/run/docker.sock direct docker default", "/run/pg/.s.* observed bus default",
			"/run/podman/podman.sock direct docker default", "/run/user/*/bus observed bus default",
		}},
		{"a default that allows is not a rule", "defaults: {unmatched: allow}", []string{
			"tcp 10.0.0.0/8:1 direct mirror default", "udp 10.0.0.1:123 direct ntp default",
			"tcp 10.0.3.7:1 proxied db", "udp 10.0.3.7:1 direct ntp default",
			"tcp 10.1.0.0/16:1 proxied db", "tcp 10.9.9.9:2 direct mirror default",
			"/run/docker.sock direct docker default", "/run/pg/.s.* direct bus default",
			"/run/podman/podman.sock direct docker default", "/run/user/*/bus direct bus default",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, statics(compileKinds(t, test.body))); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
		})
	}
	if e := (*Engine)(nil); e.Destinations() != nil || e.UnixSockets() != nil || e.Servers() != nil {
		t.Error("a nil engine says something")
	}
	if (Destination{}).Verdict != Denied || (UnixSocket{}).Verdict != Denied {
		t.Error("the zero verdict does not deny")
	}
}

func TestOnlyADenialForEverybodyIsStatic(t *testing.T) {
	const allow = "rules: [{name: a, effect: allow, resources: [db]}, {name: d, effect: deny, resources: [db], "
	tests := []struct {
		body string
		want Static
	}{
		{allow + `operations: [connect]}]`, Denied},
		{allow + `operations: ["*"], principals: ["*"]}]`, Denied},
		{allow + `operations: [drop]}]`, Proxied},
		{allow + `operations: [unknown]}]`, Proxied},
		{allow + `principals: [anonymous]}]`, Proxied},
		{allow + `agents: [default]}]`, Proxied},
		{allow + `when: "true"}]`, Proxied},
		{allow + `mode: observe}]`, Proxied},
		{allow + `operations: [connect]}, {name: o, mode: observe, effect: allow, resources: [db]}]`, Proxied},
	}
	for _, test := range tests {
		t.Run(test.body, func(t *testing.T) {
			e := compileKinds(t, test.body+"\ndefaults: {unmatched: allow}")
			i := slices.IndexFunc(e.Destinations(), func(d Destination) bool { return d.Resource == "db" })
			if got := e.Destinations()[i].Verdict; got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestARuleThatTheKernelCannotKeepDoesNotCompile(t *testing.T) {
	const where = "is judged by the kernel, which knows only where a flow goes"
	tests := []struct{ body, want string }{
		{`{name: r, effect: allow, resources: [docker], principals: ["group:ci"]}`, `p.yaml:10:67: rule r: it is for some principals, but resource docker (protocol: unix) ` + where},
		{`{name: r, effect: allow, resources: [mirror], agents: [default]}`, `p.yaml:10:63: rule r: it is for some agents, but resource mirror (inspection: none) ` + where},
		{`{name: r, effect: deny, resources: [ntp], when: "true"}`, `p.yaml:10:57: rule r: it has a condition, but resource ntp (protocol: udp) ` + where},
		{`{name: r, effect: approve, resources: [ntp]}`, `p.yaml:10:27: rule r: it asks for approval, but resource ntp (protocol: udp) ` + where},
		{`{name: r, effect: allow, resources: ["protocol:udp"], operations: [select]}`, `p.yaml:10:75: rule r: it is for some operations, but resource ntp (protocol: udp) ` + where},
		{`{name: r, effect: deny, resources: [bus, ntp], operations: [connect, drop]}`, `p.yaml:10:68: rule r: it is for some operations, but resource ntp (protocol: udp) ` + where +
			"\n" + `p.yaml:10:68: rule r: it is for some operations, but resource bus (protocol: unix) ` + where},

		{`{name: r, effect: allow, resources: ["*"], principals: ["*"], operations: ["*"]}`, ""},
		{`{name: r, effect: allow, resources: [ntp], operations: [connect]}`, ""},
		{`{name: r, effect: deny, resources: [ntp], operations: [connect, unknown]}`, ""},
		{`{name: r, effect: deny, resources: ["*"], operations: [drop], principals: ["group:ci"], when: "true"}`, ""},
		{`{name: r, effect: approve, resources: [dns, db], operations: [update], principals: ["group:ci"]}`, ""},
	}
	for _, test := range tests {
		t.Run(test.body, func(t *testing.T) {
			_, err := Options{conditions: fakes}.Compile(mustParse(t, kinds+"rules: ["+test.body+"]\n"))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("error\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestNothingIsMaskedWhereNothingIsSeen(t *testing.T) {
	_, err := Compile(1, mustParse(t, kinds+`masks: [{name: m, resources: [db, "m*", "protocol:udp"], detect: [pan], with: redact}]`))
	want := "p.yaml:10:30: mask m: nothing is masked at resource mirror (inspection: none)\n" +
		"p.yaml:10:30: mask m: nothing is masked at resource ntp (protocol: udp)"
	if err == nil || err.Error() != want {
		t.Errorf("error\n got %v\nwant %s", err, want)
	}
	e := compileKinds(t, `masks: [{name: m, resources: ["*"], detect: [pan], with: redact}]`)
	if e.Masks(&Request{Target: netip.MustParseAddrPort("10.0.3.7:1")}) == nil {
		t.Error("what is inspected is not masked")
	}
	if e.Masks(&Request{Target: netip.MustParseAddrPort("10.9.9.9:2")}) != nil {
		t.Error("what is not inspected is masked")
	}
}

func TestTheProtocolsOfTheKernelAreKnown(t *testing.T) {
	o := Options{Vocabulary: map[string][]string{"sqlish": {"select"}, "dns": {"address"}}}
	_, err := o.Compile(mustParse(t, kinds+`rules: [{name: r, effect: deny, resources: ["protocol:unix", "protocol:udp", "protocol:tcp"]}]`))
	if err != nil {
		t.Error(err)
	}
	_, err = o.Compile(mustParse(t, kinds+`rules: [{name: r, effect: deny, resources: ["protocol:unix"], operations: [select]}]`))
	if err == nil || !strings.Contains(err.Error(), `unknown operation "select"`) {
		t.Errorf("error %v", err)
	}
	delete(o.Vocabulary, "dns")
	_, err = o.Compile(mustParse(t, kinds))
	if err == nil || !strings.Contains(err.Error(), `unknown protocol "dns"`) {
		t.Errorf("error %v", err)
	}
}

func TestAPathOfASocketMatchesByComponents(t *testing.T) {
	tests := []struct {
		pattern, path string
		want          bool
	}{
		{"/run/docker.sock", "/run/docker.sock", true},
		{"/run/docker.sock", "/run/docker.sock2", false},
		{"/run/docker.sock", "/run//docker.sock", false},
		{"/run/user/*/bus", "/run/user/1000/bus", true},
		{"/run/user/*/bus", "/run/user/bus", false},
		{"/run/user/*/bus", "/run/user//bus", false},
		{"/run/user/*/bus", "/run/user/1000/x/bus", false},
		{"/run/pg/.s.*", "/run/pg/.s.5432", true},
		{"/run/pg/.s.*", "/run/pg/.s.", true},
		{"/run/pg/.s.*", "/run/pg/.s.5432/x", false},
		{"/run/pg/*", "/run/pg/", false},
	}
	for _, test := range tests {
		if !validSocketPattern(test.pattern) {
			t.Errorf("%s is not valid", test.pattern)
		}
		if got := (UnixSocket{Pattern: test.pattern}).Match(test.path); got != test.want {
			t.Errorf("%s matches %s: %v", test.pattern, test.path, got)
		}
	}
}

func TestAPathThatSeveralResourcesNameIsDeniedIfOneIs(t *testing.T) {
	const two = "version: 1\nresources: [{name: a, protocol: unix, paths: [/x]}, {name: b, protocol: unix, paths: [/x]}]\nrules: "
	for rules, want := range map[string]string{
		"[{name: r, effect: allow, resources: [a]}]":                                          "/x denied b default",
		"[{name: r, effect: allow, resources: [b]}]":                                          "/x denied a default",
		"[{name: r, effect: allow, resources: [a]}, {name: s, effect: deny, resources: [b]}]": "/x denied b s",
		"[{name: r, effect: deny, resources: [a]}]":                                           "/x denied a r",
		"[{name: r, effect: allow, resources: [a, b]}]":                                       "/x direct a r",
	} {
		e, err := Compile(1, mustParse(t, two+rules))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{want}, statics(e)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", rules, diff)
		}
	}
}

// staticPolicy is a random policy with resources of every kind that has hosts.
func (d dice) staticPolicy() string {
	text := "version: 1\nresources:\n"
	for _, name := range []string{"a", "b", "c", "d"} {
		kind := d.one("protocol: p", "protocol: tcp, inspection: none", "protocol: udp")
		text += "  - {name: " + name + ", " + kind + ", hosts: ['" + d.one("10.0.0.1", "10.0.0.0/24", "10.0.0.0/16", "10.0.1.0/24") + ":1', '" +
			d.one("10.0.0.1", "10.0.0.2", "10.0.0.0/8") + ":1']}\n"
	}
	text += "defaults: {mode: " + d.one("observe", "enforce", "enforce") + ", unmatched: " + d.one("allow", "deny") + "}\nrules:\n"
	for i := range 1 + d.IntN(4) {
		name := "r" + string(rune('0'+i))
		if d.IntN(6) == 0 {
			text += d.rule(name)
			continue
		}
		text += "  - {name: " + name + ", effect: " + d.one("allow", "allow", "deny") + `, resources: ["` + d.one("a", "b", "c", "d", "*") + `"]` +
			d.some("operations", "connect", "*") + d.one("", "", "", ", mode: observe", ", mode: enforce") + "}\n"
	}
	return text
}

func TestAStaticVerdictIsWhatWouldHaveBeenDecided(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(3, 4))}
	seen := map[Static]int{}
	for seen[Denied]+seen[Observed]+seen[Direct] < 4000 {
		text := d.staticPolicy()
		f, err := Parse("p.yaml", []byte(strings.ReplaceAll(text, ", agents: [\"runner\"", ", agents: [\"default\"")))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		e, err := Options{conditions: fakes}.Compile(f)
		if err != nil {
			continue // A rule that the kernel can't keep, or an agent that is not there.
		}
		for range 10 {
			req := d.request()
			req.Target = netip.MustParseAddrPort(d.one("10.0.0.1:1", "10.0.0.2:1", "10.0.0.9:1", "10.0.1.1:1", "10.0.9.9:1", "10.9.9.9:1"))
			req.Transport = []transparent.Transport{transparent.TCP, transparent.UDP}[d.IntN(2)]
			req.Operation = Operation{Verb: Connect, Effects: []string{Connect}}
			dest, ok := longest(e.Destinations(), req)
			if !ok {
				continue
			}
			seen[dest.Verdict]++
			got := e.Decide(req)
			if dest.Verdict == Denied && got.Verdict != Deny ||
				dest.Verdict == Observed && (got.Verdict != Allow || got.WouldHave == Allow || got.WouldHaveRule != dest.Rule) ||
				dest.Verdict == Direct && (got.Verdict != Allow || got.WouldHave != Allow) {
				t.Fatalf("the kernel: %+v\ndecided: %+v\n%+v\n%s", dest, got, req, text)
			}
			if want := mayBeDirect(f, req); (dest.Verdict == Proxied) == want && dest.Verdict != Denied {
				t.Fatalf("the kernel: %+v, uninspected %v\n%+v\n%s", dest, want, req, text)
			}
			if r, _ := e.ResourceOf(req); r.Name != dest.Resource || dest.Verdict == Proxied && r.Uninspected {
				t.Fatalf("the kernel: %+v\nresource %+v\n%s", dest, r, text)
			}
			if f.syntax.Defaults.Mode == "observe" && dest.Verdict == Denied && !strings.Contains(text, "mode: enforce") {
				t.Fatalf("an observing policy denies: %+v\n%s", dest, text)
			}
		}
	}
	for _, v := range []Static{Denied, Proxied, Observed, Direct} {
		if seen[v] < 100 {
			t.Errorf("%v was met %d times", v, seen[v])
		}
	}
}

// longest finds what the kernel finds.
func longest(list []Destination, req *Request) (found Destination, ok bool) {
	for _, d := range list {
		if d.Port == req.Target.Port() && d.Transport == req.Transport && d.Prefix.Contains(req.Target.Addr()) && (!ok || d.Prefix.Bits() > found.Prefix.Bits()) {
			found, ok = d, true
		}
	}
	return found, ok
}

// mayBeDirect reports whether nothing that a target belongs to is inspected.
func mayBeDirect(f *File, req *Request) bool {
	for _, r := range f.syntax.Resources {
		for _, s := range r.Hosts {
			h, err := ParseHost(s)
			if err == nil && h.Prefix.Contains(req.Target.Addr()) && r.Protocol == "p" && req.Transport == transparent.TCP {
				return false
			}
		}
	}
	return true
}

func TestUDPThatNothingNamesIsRefused(t *testing.T) {
	req := &Request{Transport: transparent.UDP, Target: nowhere, Operation: Operation{Effects: []string{Connect}}}
	if got := answer(compileKinds(t, "defaults: {unmatched: allow}").Decide(req)); got != "deny default unknown_resource" {
		t.Errorf("got %q", got)
	}
	if got := compileKinds(t, "defaults: {mode: observe}").Decide(req); got.Verdict != Allow || got.WouldHave != Deny {
		t.Errorf("got %+v", got)
	}
	req.Transport = 7
	if got := answer(compileKinds(t, "defaults: {unmatched: allow}").Decide(req)); got != "deny default unknown_resource" {
		t.Errorf("of a transport that is not known: %q", got)
	}
}

func TestEveryTransportHasItsOwnResources(t *testing.T) {
	e := compileKinds(t, "rules: [{name: n, effect: allow, resources: [ntp]}, {name: s, effect: allow, resources: [db, mirror]}]")
	req := &Request{Target: netip.MustParseAddrPort("10.0.3.7:1"), Operation: Operation{Effects: []string{Connect}}}
	if got := e.Decide(req); answer(got) != "allow s rule" || got.Resource != "db" {
		t.Errorf("TCP: %+v", got)
	}
	req.Transport = transparent.UDP
	if got := e.Decide(req); answer(got) != "allow n rule" || got.Resource != "ntp" {
		t.Errorf("UDP: %+v", got)
	}
	want := Resource{Name: "ntp", Protocol: "udp", Uninspected: true}
	if got, _ := e.ResourceOf(req); got != want {
		t.Errorf("resource %+v", got)
	}
	req.Target = netip.MustParseAddrPort("10.0.0.1:123")
	req.Transport = transparent.TCP
	if got := answer(e.Decide(req)); got != "deny default unknown_resource" {
		t.Errorf("TCP at a resource of UDP: %q", got)
	}
}

func TestWhoMayConnectToWhatIsNotInspectedMayDoAnythingThere(t *testing.T) {
	e := compileKinds(t, "rules: [{name: d, effect: allow, resources: [db], operations: [select]}, {name: m, effect: allow, resources: [mirror], operations: [connect]}]")
	req := &Request{Target: netip.MustParseAddrPort("10.0.3.7:1"), Operation: Operation{Effects: []string{"select"}}}
	if got := answer(e.Decide(req)); got != "allow d rule" {
		t.Errorf("got %q", got)
	}
}

func TestServersAreListed(t *testing.T) {
	e, err := Compile(1, mustParse(t, `version: 1
resources:
  - {name: a, protocol: dns, names: [a], servers: ["[2001:db8::1]:53", "10.0.0.2:53"]}
  - {name: b, protocol: dns, names: [b], servers: ["10.0.0.2:53", "10.0.0.2:5353"]}
  - {name: c, protocol: dns, names: [c]}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.AddrPort{
		netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("10.0.0.2:5353"), netip.MustParseAddrPort("[2001:db8::1]:53"),
	}
	if diff := cmp.Diff(want, e.Servers(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("servers (-want +got):\n%s", diff)
	}
}
