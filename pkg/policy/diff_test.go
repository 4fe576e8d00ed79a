package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestADiffTellsWhatChangedAndNotWhereItStands(t *testing.T) {
	from := []*File{mustParse(t, `version: 1
resources: [{name: db, protocol: sqlish, hosts: ["10.0.0.1:1"], tls: {verify: full}}]
rules:
  - {name: a, effect: allow, resources: [db], operations: [select]}
  - {name: b, effect: deny, resources: [db]}
  - {name: same, effect: deny, mode: observe, resources: [db]}
defaults: {mode: observe}
`)}
	to := []*File{mustParse(t, `version: 1
mode: observe
rules:
  - {name: same, effect: deny, resources: [db]}
masks: [{name: m, resources: [db], columns: ["*.*.ssn"], with: redact}]
`), mustParse(t, `version: 1
resources: [{name: db, protocol: sqlish, hosts: ["10.0.0.1:1"], tls: {verify: "off"}}]
rules:
  - {name: a, effect: allow, resources: [db], operations: [select, insert], when: "true"}
defaults: {mode: observe, unmatched: allow}
`)}
	want := []Difference{
		{Kind: "defaults", Change: Changed, Key: "unmatched", To: "allow"},
		{Kind: "masks", Name: "m", Change: Added},
		{Kind: "resources", Name: "db", Change: Changed, Key: "tls.verify", From: "full", To: "off"},
		{Kind: "rules", Name: "a", Change: Changed, Key: "operations", From: "[select]", To: "[select, insert]"},
		{Kind: "rules", Name: "a", Change: Changed, Key: "when", To: "true"},
		{Kind: "rules", Name: "b", Change: Removed},
	}
	if d := cmp.Diff(want, Diff(from, to)); d != "" {
		t.Errorf("differences (-want +got):\n%s", d)
	}
	if same := Diff(to, to); len(same) != 0 {
		t.Errorf("a policy differs from itself: %v", same)
	}
}
