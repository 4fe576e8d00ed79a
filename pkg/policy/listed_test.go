package policy

import "testing"

func TestARuleThatMayRefuseAnEffectByItsNameIsFound(t *testing.T) {
	const rule = "rules:\n  - {name: r, resources: [app-db], effect: "
	for name, tc := range map[string]struct {
		body string
		want bool
	}{
		"it denies":                     {rule + "deny, operations: [drop, opaque]}", true},
		"it asks a person":              {rule + "approve, operations: [opaque]}", true},
		"it allows":                     {rule + "allow, operations: [opaque]}", false},
		"it observes":                   {rule + "deny, mode: observe, operations: [opaque]}", false},
		"it denies something else":      {rule + "deny, operations: [drop]}", false},
		"it denies everything":          {rule + `deny, operations: ["*"]}`, false},
		"it denies in front of another": {rule + `deny, operations: ["*"]}` + "\n  - {name: s, resources: [app-db], effect: deny, operations: [opaque]}", true},
		"nothing is said":               {"", false},
	} {
		if got := mustCompile(t, tc.body).Refuses(ask("select"), "user_function", "opaque"); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if (*Engine)(nil).Refuses(ask("select"), "opaque") || mustCompile(t, "").Refuses(nil, "opaque") {
		t.Error("a rule was found where there is none")
	}
}
