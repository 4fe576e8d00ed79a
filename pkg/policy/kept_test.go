package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsKeptOfAPolicySaysTheSame(t *testing.T) {
	f := mustParse(t, `version: 1
agents: [{name: b, users: [1000, "ci"], executables: [/usr/bin/x]}, {name: a, containers: ["*"]}]
resources:
  - {name: r, protocol: sqlish, hosts: ["[::1]:1", "*.x.example:2"], credential: c, tls: {verify: "off", agent: refuse}}
  - {name: asked, protocol: dns, names: ["*.x.example"]}
  - {name: told, protocol: udp, hosts: ["10.0.0.9:123"]}
masks: [{name: m, resources: ["*"], columns: ["*.*.ssn"], with: "null", unless: ["group:a"]}]
rules: [{name: x, effect: deny, resources: ["*"]}]
`)
	text, err := Kept([]*File{f})
	if err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, "version: 1\n"+string(text))
	want := []Difference{{Kind: "rules", Name: "x", Change: Removed}}
	if d := cmp.Diff(want, Diff([]*File{f}, []*File{again})); d != "" {
		t.Errorf("differences (-want +got):\n%s\n%s", d, text)
	}
	if text, err := Kept(nil); err != nil || len(text) != 0 {
		t.Errorf("of nothing: %q, %v", text, err)
	}
}
