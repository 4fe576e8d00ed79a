package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestAPolicyTellsWhichFactsItsConditionsLookAt(t *testing.T) {
	for _, tc := range []struct {
		rule          string
		tables, where bool
	}{
		{"operations: [delete]", false, false},
		{"operations: [delete], when: 'process.uid == 0'", false, false},
		{"operations: [delete], when: '!sql.has_where'", false, true},
		{"when: \"sql.tables.exists(t, t == 'a')\"", true, false},
		{"operations: [delete], when: 'has(sql.tables) || op.verb == \"x\"'", true, false},
		{"operations: [delete], when: 'sql.has_where && size(sql.tables) > 1'", true, true},
		{"operations: [delete], when: 'sql == sql'", true, true}, // whatever is in it
		{"operations: [delete], principals: ['group:nobody'], when: '!sql.has_where'", false, false},
		{"operations: [delete], mode: observe, when: '!sql.has_where'", false, true},
	} {
		e := compileWith(t, conditionOptions, "rules: [{name: r, effect: deny, resources: [app-db], "+tc.rule+"}]")
		if got := e.Asks(full(), []string{"statements", "tables"}); got != tc.tables {
			t.Errorf("%s: asks for tables: %v", tc.rule, got)
		}
		if got := e.Asks(full(), []string{"has_where"}); got != tc.where {
			t.Errorf("%s: asks for has_where: %v", tc.rule, got)
		}
	}
	var none *Engine
	e := compileWith(t, conditionOptions, "rules: [{name: r, effect: deny, resources: [app-db], when: '!sql.has_where'}]")
	elsewhere := full()
	elsewhere.Target = netip.MustParseAddrPort("192.0.2.9:1")
	if none.Asks(full(), []string{"has_where"}) || e.Asks(nil, []string{"has_where"}) || e.Asks(elsewhere, []string{"has_where"}) || e.Asks(full(), nil) {
		t.Error("a fact is asked for where nothing is")
	}
}

func TestWhyAConditionFailedIsTold(t *testing.T) {
	for mode, reason := range map[string]string{"enforce": "deny r error", "observe": "allow work rule"} {
		e := compileWith(t, conditionOptions, fmt.Sprintf(`rules:
  - {name: r, effect: deny, mode: %s, resources: [app-db], operations: [delete], when: "sql.text == 'x'"}
  - {name: work, effect: allow, resources: [app-db]}
`, mode))
		req := full()
		d := e.Decide(req)
		if got := answer(d); got != reason {
			t.Errorf("%s: %s", mode, got)
		}
		cause := e.Cause(req, &d)
		if mode == "enforce" && !strings.Contains(cause, "sql.text: not known: the schema is not known") {
			t.Errorf("the cause is %q", cause)
		}
		if d.Reason != ReasonError && cause != "" {
			t.Errorf("%s: the cause is %q", mode, cause)
		}
	}
	var none *Engine
	if none.Cause(full(), &Decision{Reason: ReasonError}) != "" {
		t.Error("nobody knows a cause")
	}
}
