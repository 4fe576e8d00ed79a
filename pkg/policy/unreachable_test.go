package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestARuleIsUnreachableIfOthersDenyAllOfIt(t *testing.T) {
	for rules, want := range map[string]string{
		"{name: d, effect: deny, resources: [app-db]}, {name: r, effect: allow, resources: [app-db], operations: [select]}":                                                                                                  "d",
		"{name: d, effect: deny, resources: ['*'], operations: [select]}, {name: e, effect: deny, resources: [app-db], operations: [insert]}, {name: r, effect: approve, resources: [app-db], operations: [select, insert]}": "d and e",
		"{name: d, effect: deny, resources: [app-db], principals: ['group:ci']}, {name: r, effect: allow, resources: [app-db], principals: ['group:ci']}":                                                                    "d",
		"{name: d, effect: deny, resources: [app-db], operations: [select]}, {name: r, effect: allow, resources: [app-db], operations: [select, insert]}":                                                                    "",
		"{name: d, effect: deny, resources: [app-db], operations: [select]}, {name: r, effect: allow, resources: [app-db]}":                                                                                                  "",
		"{name: d, effect: deny, resources: [app-db]}, {name: r, effect: allow, resources: ['*']}":                                                                                                                           "",
		"{name: d, effect: deny, resources: [app-db], principals: ['group:ci']}, {name: r, effect: allow, resources: [app-db]}":                                                                                              "",
		"{name: d, effect: deny, mode: observe, resources: [app-db]}, {name: r, effect: allow, resources: [app-db]}":                                                                                                         "",
		"{name: d, effect: deny, resources: [app-db], when: \"process.uid == 0\"}, {name: r, effect: allow, resources: [app-db]}":                                                                                            "",
		"{name: d, effect: deny, resources: [app-db]}, {name: e, effect: deny, resources: [app-db]}":                                                                                                                         "",
	} {
		got := compileWith(t, conditionOptions, "rules: ["+rules+"]").Unreachable()
		switch {
		case want == "" && len(got) > 0:
			t.Errorf("%s: %q", rules, got)
		case want != "" && !slices.ContainsFunc(got, func(s string) bool {
			return strings.HasPrefix(s, "p.yaml:") && strings.Contains(s, "rule r never has an effect on what it lists, all of which rule "+want+" denies")
		}):
			t.Errorf("%s: %q, want %q", rules, got, want)
		}
	}
}
