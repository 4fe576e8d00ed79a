package policy

import (
	"reflect"

	"github.com/headgate/headgate/pkg/mask"
)

// words are the values that a key may have, by its path.
func words() map[string][]string {
	modes, answers := []string{"observe", "enforce"}, []string{"allow", "deny"}
	return map[string][]string{
		"mode": modes, "rules.mode": modes, "defaults.mode": modes,
		"rules.effect":         {"allow", "deny", "approve"},
		"resources.inspection": {"full", "none"},
		"resources.tls.verify": {TLSFull, TLSChain, TLSOff}, "resources.tls.agent": {TLSOffer, TLSRefuse},
		"masks.detect": mask.Detectors(), "masks.with": mask.Transforms(),
		"masks.predicates": answers, "masks.copies": answers, "masks.definitions": answers,
		"defaults.unmatched": answers, "defaults.unknown_operation": answers, "defaults.on_failure": {"closed", "open"},
	}
}

// required are the keys that must be given, by the path of what they belong to.
func required() map[string][]string {
	return map[string][]string{
		"": {"version"}, "agents": {"name"}, "resources": {"name", "protocol"}, "rules": {"name", "effect", "resources"}, "masks": {"name", "resources", "with"},
	}
}

// descriptions are what editors show beside a key.
func descriptions() map[string]string {
	return map[string]string{
		"version": "The version of this format: 1.", "mode": "Of the rules and masks of this file.",
		"agents": "Which processes are enrolled, and under which name.", "resources": "Named upstream targets.",
		"rules": "All rules that match are considered: deny before approve before allow, whatever their order.",
		"masks": "What is masked in results, whatever allowed the operation.", "defaults": "What holds where no rule does; each key in one file only.",
		"agents.users": "Names or numbers.", "agents.cgroups": "Globs over paths below the mount point of cgroup2.", "agents.units": "Globs over names of systemd units.",
		"agents.executables": "Absolute paths.", "agents.containers": "\"*\", runtimes, or a runtime and the start of an id.",
		"resources.hosts": "address:port, prefix:port, name:port or *.name:port.", "resources.paths": "Of unix sockets, for protocol: unix.",
		"resources.names": "What may be asked for, for protocol: dns.", "resources.servers": "Name servers, for protocol: dns: address:port.",
		"resources.credential": "A name in the configuration, never a secret.",
		"rules.resources":      "Names, globs over names, protocol:NAME, or \"*\".", "rules.principals": "\"*\", anonymous, group:NAME, agent:NAME or ISSUER:SUBJECT.",
		"rules.agents": "Names of agents.", "rules.operations": "Words of the protocol; all of them if left out.",
		"rules.when":    "A condition in CEL over principal, process, lineage, agent, resource, target, op, time, and the protocol's own variable.",
		"rules.message": "What the agent is told.", "rules.limits": "For effect allow or approve.", "rules.approval": "For effect approve.",
		"masks.columns": "schema.table.column; * is any.", "masks.unless": "Principals that see the values.", "masks.constant": "For with: constant.",
	}
}

// Schema returns the JSON Schema (draft 2020-12) of a policy file, for editors. It
// knows keys, types and fixed words; what needs the rest of the policy or the
// protocols' vocabulary, only compiling finds.
func Schema() map[string]any {
	b := schemaBuilder{words(), required(), descriptions()}
	s := b.object("", reflect.TypeFor[fileSyntax]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "headgate policy"
	return s
}

type schemaBuilder struct {
	words, required map[string][]string
	descriptions    map[string]string
}

func (b *schemaBuilder) object(path string, t reflect.Type) map[string]any {
	properties := map[string]any{}
	for i := range t.NumField() {
		name := yamlName(t.Field(i))
		here := name
		if path != "" {
			here = path + "." + name
		}
		value := b.value(here, t.Field(i).Type)
		if text := b.descriptions[here]; text != "" {
			value["description"] = text
		}
		properties[name] = value
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if list := b.required[path]; list != nil {
		s["required"] = list
	}
	return s
}

func (b *schemaBuilder) value(path string, t reflect.Type) map[string]any {
	if t == reflect.TypeFor[size]() { // 50MiB, or a number of bytes
		return map[string]any{"type": []string{"string", "integer"}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return b.object(path, t)
	case reflect.Slice:
		return map[string]any{"type": "array", "minItems": 1, "items": b.value(path, t.Elem())}
	case reflect.String:
		s := map[string]any{"type": "string"}
		if list := b.words[path]; list != nil {
			s["enum"] = list
		}
		if path == "agents.users" {
			s["type"] = []string{"string", "integer"}
		}
		return s
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	default:
		return map[string]any{"type": "integer"}
	}
}
