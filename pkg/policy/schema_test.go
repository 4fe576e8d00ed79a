package policy

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schema returns the schema as an editor has it: through JSON.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := json.Marshal(Schema())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(instance)
}

func TestTheSchemaTakesEveryPackAndEveryKey(t *testing.T) {
	s := schema(t)
	packs, err := filepath.Glob("../../policies/*.yaml")
	if err != nil || len(packs) == 0 {
		t.Fatalf("%d packs, %v", len(packs), err)
	}
	for _, name := range packs {
		if strings.HasSuffix(name, "_test.yaml") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	const all = `version: 1
mode: observe
agents: [{name: a, users: [1000, ci], units: ["x"], cgroups: ["/x"], executables: [/x], containers: [docker]}]
resources: [{name: r, protocol: postgres, inspection: full, hosts: ["a:1"], credential: c, tls: {verify: full, ca: system, server_name: x, agent: offer}}]
rules: [{name: x, effect: approve, mode: enforce, resources: [r], principals: ["*"], agents: [a], operations: [select], message: m, when: "true",
  approval: {groups: [g], count: 1, timeout: 1m, grant: once}, limits: {rows: 1, bytes: 5MiB, per_minute: {operations: 1, rows: 2, bytes: 3}}}]
masks: [{name: m, resources: [r], columns: ["*.*.c"], detect: [pan], with: constant, constant: x, predicates: allow, copies: deny, definitions: deny, unless: ["*"]}]
defaults: {mode: observe, unmatched: deny, unknown_operation: deny, on_failure: closed}
`
	if err := valid(t, s, []byte(all)); err != nil {
		t.Error(err)
	}
}

func TestTheSchemaRefusesWhatParsingRefuses(t *testing.T) {
	s := schema(t)
	for _, text := range []string{
		"rules: [{name: x, effect: deny, resources: [r]}]",
		"version: 1\nrulez: [{name: x}]",
		"version: 1\nrules: [{name: x, effect: forbid, resources: [r]}]",
		"version: 1\nrules: [{name: x, effect: deny}]",
		"version: 1\nrules: [{name: x, effect: deny, resources: []}]",
		"version: 1\nrules: {name: x}",
		"version: 1\nmasks: [{name: x, resources: [r], with: blur}]",
		"version: 1\ndefaults: {unmatched: approve}",
	} {
		if err := valid(t, s, []byte(text)); err == nil {
			t.Errorf("taken: %s", text)
		}
		if _, err := Parse("p.yaml", []byte(text)); err == nil {
			t.Errorf("parsed: %s", text)
		}
	}
}
