package e2e

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
)

const explainRules = `
rules:
  - {name: reads, effect: allow, resources: [shop], operations: [select, transaction]}
  - {name: writes, effect: allow, resources: [shop], operations: [insert, update, delete], when: "process.exe.endsWith('/psql') && size(lineage) > 2"}
  - {name: narrow, effect: deny, resources: [shop], operations: [update, delete], when: "!sql.has_where || sql.tables.exists(t, t == 'public.orders')"}
  - {name: no-drop, effect: deny, resources: [shop], operations: [drop]}
  - {name: held, effect: approve, resources: [shop], operations: [truncate]}
  - {name: tried, effect: deny, mode: observe, resources: [shop], operations: [insert]}
`

// Whatever happened, the explanation of its event says the same.
func TestPrivilegedExplanationsAgreeWithWhatHappened(t *testing.T) {
	r := newRig(t, reloadHead+explainRules)
	for _, statement := range []string{
		"select 1", "select name from customers", "insert into orders (customer, note) values (1, 'x')", "update customers set name = name",
		"update customers set name = name where id = 1", "delete from public.orders where id = -1", "drop table customers", "truncate orders",
		"create table t (x int)", "this is no statement", "begin; delete from customers; commit", "do 'begin end'",
	} {
		r.agent(psql("-c", statement)...)
	}
	r.last()
	said := map[string]int{}
	for o, err := range audit.Observations(r.state, time.Time{}) {
		check(t, err)
		text := r.cli("policy", "explain", filepath.Join(r.dir, "policies"), "--state", r.state, "--op", o.Op, "-o", "json")
		var x struct {
			Now struct {
				Verdict   string `json:"verdict"`
				WouldHave string `json:"would_have"`
				Rule      string `json:"rule"`
				Reason    string `json:"reason"`
			} `json:"now"`
			Rules []struct {
				Rule    string `json:"rule"`
				Decided bool   `json:"decided"`
				Matched bool   `json:"matched"`
			} `json:"rules"`
		}
		check(t, json.Unmarshal([]byte(text.text), &x))
		if o.Reason == "approval_unavailable" { // the policy holds it, and nobody can be asked yet
			o.Verdict, o.WouldHave, o.Reason = policy.Approve, policy.Approve, policy.ReasonRule
		}
		if x.Now.Verdict != o.Verdict.String() || x.Now.WouldHave != o.WouldHave.String() || x.Now.Rule != o.Rule || x.Now.Reason != o.Reason {
			t.Errorf("%s %q: %s by %s (%s), would %s; explained as %+v", o.Op, o.Request.Operation.Text, o.Verdict, o.Rule, o.Reason, o.WouldHave, x.Now)
		}
		for _, one := range x.Rules {
			if one.Decided && !one.Matched {
				t.Errorf("%s: rule %s decided and did not match", o.Op, one.Rule)
			}
		}
		said[o.Verdict.String()+" by "+o.Rule+" ("+o.Reason+")"]++
	}
	t.Logf("%v", said)
	for _, want := range []string{
		"allow by reads (rule)", "approve by held (rule)", "allow by writes (rule)", "deny by narrow (rule)", "deny by no-drop (rule)", "deny by default (unmatched)", "deny by default (unknown_operation)",
	} {
		if said[want] == 0 {
			t.Errorf("%q did not happen", want)
		}
	}
}
