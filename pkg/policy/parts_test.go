package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/policy/strict"
	"github.com/headgate/headgate/pkg/transparent"
)

const partsPolicy = `version: 1
resources:
  - {name: db, protocol: p, hosts: ["*.example.org:1", "db.internal:5432", "10.0.0.0/24:5433"]}
  - {name: below, protocol: p, hosts: ["*.example.org:1"]}
  - {name: clock, protocol: udp, hosts: ["192.0.2.123:123"]}
  - {name: zone, protocol: dns, names: ["*"], servers: ["192.0.2.53:53"]}
  - {name: docker, protocol: unix, paths: [/run/docker.sock]}
rules:
  - {name: reads, effect: allow, resources: [db]}
masks:
  - {name: mails, resources: [db], columns: ["*.*.mail"], with: redact, unless: ["group:ops"]}
  - {name: ids, resources: [db], columns: ["*.*.ssn"], with: "null"}
`

func compileParts(t *testing.T) (*File, *Engine) {
	t.Helper()
	f, err := Parse("p.yaml", []byte(partsPolicy))
	if err != nil {
		t.Fatal(err)
	}
	e, err := Options{Resolved: map[string][]netip.Addr{"db.internal": {netip.MustParseAddr("10.0.0.9")}}}.Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	return f, e
}

func TestPartsAreWhereTheFileHasThem(t *testing.T) {
	f, _ := compileParts(t)
	want := []Part{
		{PartRule, "reads", strict.Position{File: "p.yaml", Line: 9, Column: 5}},
		{PartMask, "mails", strict.Position{File: "p.yaml", Line: 11, Column: 5}},
		{PartMask, "ids", strict.Position{File: "p.yaml", Line: 12, Column: 5}},
	}
	if d := cmp.Diff(want, f.Parts()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAnExampleOfAResourceBelongsToIt(t *testing.T) {
	_, e := compileParts(t)
	for name, want := range map[string]Request{
		"db":    {Target: netip.MustParseAddrPort("10.0.0.9:5432"), Names: []string{"db.internal"}},
		"clock": {Target: netip.MustParseAddrPort("192.0.2.123:123"), Transport: transparent.UDP},
	} {
		got, ok := e.Example(name)
		if !ok || got.Target != want.Target || got.Transport != want.Transport || !slices.Equal(got.Names, want.Names) {
			t.Errorf("%s: %+v", name, got)
		}
		if r, _ := e.ResourceOf(&got); r.Name != name {
			t.Errorf("the example of %s belongs to %q", name, r.Name)
		}
	}
	if got, ok := e.Example("zone"); !ok || got.Target != netip.MustParseAddrPort("192.0.2.53:53") {
		t.Errorf("zone: %+v", got)
	}
	for _, name := range []string{"docker", "gone"} {
		if got, ok := e.Example(name); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, ok := (*Engine)(nil).Example("db"); ok {
		t.Error("nobody has an example")
	}
}

func TestMasksAreAlsoToldOneByOne(t *testing.T) {
	_, e := compileParts(t)
	req, _ := e.Example("db")
	sets := e.MasksByName(&req)
	if got := slices.Sorted(maps.Keys(sets)); !slices.Equal(got, []string{"ids", "mails"}) {
		t.Fatalf("masks %q", got)
	}
	for mask, columns := range map[string][2]string{"mails": {"mail", "ssn"}, "ids": {"ssn", "mail"}} {
		_, has := sets[mask].Column("public", "t", columns[0])
		_, more := sets[mask].Column("public", "t", columns[1])
		if !has || more {
			t.Errorf("%s has its own column: %v, another one's: %v", mask, has, more)
		}
	}
	req.Principal = identityOf("people", "eve", "ops")
	if got := slices.Sorted(maps.Keys(e.MasksByName(&req))); !slices.Equal(got, []string{"ids"}) {
		t.Errorf("masks for who is exempt: %q", got)
	}
	if (*Engine)(nil).MasksByName(&req) != nil || e.MasksByName(nil) != nil || e.MasksByName(&Request{}) != nil {
		t.Error("there are masks for nothing")
	}
}

func TestTheKernelsVerdictIsThatOfTheNarrowestRange(t *testing.T) {
	e, err := Compile(1, mustParse(t, `version: 1
resources:
  - {name: wide, protocol: tcp, inspection: none, hosts: ["10.0.0.0/8:80"]}
  - {name: narrow, protocol: tcp, inspection: none, hosts: ["10.0.0.7:80"]}
rules:
  - {name: go, effect: allow, resources: [wide]}
  - {name: stop, effect: deny, resources: [narrow]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"10.0.0.7:80": "denied by stop", "10.0.0.8:80": "direct by go", "[::ffff:10.0.0.7]:80": "denied by stop", "10.0.0.7:81": "", "11.0.0.7:80": "",
	} {
		d, ok := e.KernelVerdict(&Request{Target: netip.MustParseAddrPort(target)})
		if got := d.Verdict.String() + " by " + d.Rule; ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s, known %v, want %q", target, got, ok, want)
		}
	}
}

func TestSectionsOfAnotherFileAreCheckedLikeAPolicys(t *testing.T) {
	var into struct {
		Agents    AgentList    `yaml:"agents"`
		Resources ResourceList `yaml:"resources"`
	}
	for text, want := range map[string]string{
		"resources: [{name: db, protocol: p, hosts: ['10.0.0.1:1']}]\nagents: [{name: ci}]": "",
		"resources: [{name: db, protocol: p, hosts: ['10.0.0.1']}]":                         "f:1:45: host \"10.0.0.1\"",
		"resources: [{name: db, protocol: p, hosts: ['a:1']}, {name: db}]":                  "f:1:61: name \"db\" is used twice",
		"agents: [{name: ci, users: ['a b']}]":                                              "f:1:29: user",
	} {
		at := strict.Positions{}
		into.Agents, into.Resources = nil, nil
		if errs := strict.Decode("f", []byte(text), &into, at); len(errs) > 0 {
			t.Fatal(errs)
		}
		f, err := Sections("f", into.Agents, into.Resources, at)
		if want == "" && (err != nil || len(f.Parts()) > 0) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if err == nil {
			if _, err := Compile(1, f); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}
