package policy

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatOnlyAllFilesTogetherShowIsReportedWithItsPlace(t *testing.T) {
	const a = `version: 1
agents:
  - {name: runner, users: [ci]}
  - name: build
    units: ["actions.*.service"]
    executables: [/usr/bin/claude]
    containers: [docker]
resources:
  - {name: app-db, protocol: sqlish, hosts: ["a:1"]}
  - {name: web, protocol: ftp, hosts: ["b:1"]}
rules:
  - {name: r, effect: allow, resources: [app-db], operations: [select], principals: ["github:x", "agent:nobody"]}
  - {name: s, effect: deny, resources: [missing, "app-*", "x-*", "*", "protocol:sqlish", "protocol:gopher"], agents: [nobody]}
  - {name: t, effect: approve, resources: [app-db], operations: [drp, drop, connect], when: "true", approval: {groups: [dba]}}
  - {name: u, effect: deny, resources: [web, "protocol:sqlish"], operations: [unknown, drop, drp]}
defaults: {mode: observe}
`
	const b = `version: 1
agents: [{name: runner, users: [root]}]
resources: [{name: app-db, protocol: sqlish, hosts: ["a:1"]}]
rules: [{name: r, effect: allow, resources: [app-db]}]
masks:
  - {name: m, resources: [nowhere], columns: ["*.*.ssn"], with: redact, unless: ["people:*"]}
defaults: {mode: enforce, unmatched: allow}
`
	fa, err := Parse("a.yaml", []byte(a))
	if err != nil {
		t.Fatal(err)
	}
	fb, err := Parse("b.yaml", []byte(b))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Vocabulary: map[string][]string{"sqlish": {"select", "drop"}}, Issuers: []string{"people"}}
	_, err = o.Compile(fa, fb)
	if err == nil {
		t.Fatal("compiled")
	}
	want, rerr := os.ReadFile("testdata/compile.golden")
	if rerr != nil {
		t.Fatal(rerr)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(err.Error()+"\n", "\n")); diff != "" {
		t.Errorf("findings (-want +got):\n%s\n%s", diff, err)
	}
}

func TestAPackMayComeBeforeItsResources(t *testing.T) {
	e, err := Compile(1, mustParse(t, `
version: 1
rules:
  - {name: r, effect: deny, resources: ["protocol:sqlish"], operations: [drop]}
  - {name: s, effect: deny, resources: ["*"], operations: [drop]}
masks: [{name: m, resources: ["*"], detect: [pan], with: redact}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"mask m", "rule r", "rule s"}, e.Idle()); diff != "" {
		t.Errorf("idle (-want +got):\n%s", diff)
	}
}

func TestAgentsAreListedByName(t *testing.T) {
	e := mustCompile(t, `
agents:
  - {name: runner, users: [ci, 1001], cgroups: [/system.slice/runner.service]}
  - {name: backup, users: ["_backup$"]}
defaults: {on_failure: open}
`)
	want := []Agent{
		{Name: "backup", Users: []string{"_backup$"}},
		{Name: "runner", Users: []string{"ci", "1001"}, Cgroups: []string{"/system.slice/runner.service"}},
	}
	got := e.Agents()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("agents (-want +got):\n%s", diff)
	}
	got[0].Users[0] = "root"
	if e.Agents()[0].Users[0] != "_backup$" {
		t.Error("the engine's list can be changed from outside")
	}
	if e.OnFailure() != Open || mustCompile(t, "").OnFailure() != Closed {
		t.Error("on_failure is not what was written")
	}
}

// masked applies the engine's masks for a request to a card number.
func masked(t *testing.T, e *Engine, req *Request) string {
	t.Helper()
	out, _ := e.Masks(req).Scan(nil, []byte("4111111111111111"))
	return string(out)
}

func TestMasksApplyToAPrincipalAtAResource(t *testing.T) {
	const body = `
agents: [{name: runner, users: [ci]}]
masks:
  - {name: cards, resources: [app-db], detect: [pan], with: constant, constant: masked, unless: ["group:fraud-desk", "agent:runner"]}
  - {name: names, resources: [other], columns: ["*.*.name"], with: redact}
`
	e := mustCompile(t, body)
	desk := identityOf("people", "eve", "fraud-desk")
	tests := []struct {
		name string
		req  *Request
		want string
	}{
		{"everybody", &Request{Target: appDB}, "masked"},
		{"whatever the operation", &Request{Target: appDB, Operation: Operation{Effects: []string{"drop"}}}, "masked"},
		{"not who is exempt", &Request{Target: appDB, Principal: desk}, "4111111111111111"},
		{"not an agent that is exempt", &Request{Target: appDB, Agent: "runner"}, "4111111111111111"},
		{"not another resource", &Request{Target: netip.MustParseAddrPort("10.0.4.7:5432")}, "4111111111111111"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for range 2 { // made, then found
				if got := masked(t, e, test.req); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			}
		})
	}
	if e.Masks(&Request{Target: nowhere}) != nil || e.Masks(nil) != nil {
		t.Error("something is masked at no resource")
	}
	if first, second := e.Masks(&Request{Target: appDB}), e.Masks(&Request{Target: appDB}); first != second {
		t.Error("the set is not shared")
	}
}

func TestMasksOfAnObservingFileChangeNothing(t *testing.T) {
	const mask = "masks: [{name: m, resources: [app-db], detect: [pan], with: redact}]\n"
	req := &Request{Target: appDB, Operation: Operation{Effects: []string{Connect}}}
	if e := mustCompile(t, mask+"mode: observe"); e.Masks(req) != nil {
		t.Error("an observing file masks")
	}
	if e := mustCompile(t, mask+"defaults: {mode: observe}"); e.Masks(req) != nil || e.Decide(req).Mode != Observe {
		t.Error("an observing policy masks")
	}
	if e := mustCompile(t, mask+"mode: enforce\ndefaults: {mode: observe}"); e.Masks(req) == nil || e.Decide(req).Mode != Enforce {
		t.Error("an enforcing file does not mask")
	}
}

func TestMasksOfSeveralResourcesAddUp(t *testing.T) {
	e, err := Compile(1, mustParse(t, `
version: 1
resources:
  - {name: one, protocol: p, hosts: ["10.0.3.7:5432"]}
  - {name: net, protocol: p, hosts: ["10.0.3.0/24:5432"]}
masks:
  - {name: m, resources: [one], columns: ["*.*.a"], with: redact}
  - {name: n, resources: [net], columns: ["*.*.b"], with: redact}
  - {name: o, resources: ["*"], columns: ["*.*.c"], with: redact}
`))
	if err != nil {
		t.Fatal(err)
	}
	set := e.Masks(&Request{Target: appDB})
	for _, column := range []string{"a", "b", "c"} {
		if _, ok := set.Column("s", "t", column); !ok {
			t.Errorf("column %s is not masked", column)
		}
	}
}

func TestMasksThatDoNotFitTogetherDoNotCompile(t *testing.T) {
	_, err := Compile(1, mustParse(t, "version: 1\n"+resources+`
masks:
  - {name: m, resources: [app-db], columns: ["*.*.a"], with: constant, constant: "4111111111111111"}
  - {name: n, resources: [app-db], detect: [pan], with: redact}
`))
	if err == nil || !strings.HasPrefix(err.Error(), "p.yaml:9:5: masks of resource app-db: ") {
		t.Errorf("error %v", err)
	}
}
