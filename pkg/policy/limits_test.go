package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const limited = `
version: 1
resources:
  - {name: app-db, protocol: sqlish, hosts: ["10.0.3.7:5432"]}
rules:
  - {name: bulk, effect: allow, resources: [app-db], operations: [select, export], limits: {rows: 10000, bytes: 50MiB}}
  - {name: busy, effect: allow, resources: [app-db], limits: {per_minute: {operations: 120, rows: 100000, bytes: 1GiB}}}
  - {name: held, effect: approve, resources: [app-db], operations: [delete], limits: {rows: 5}}
  - {name: tried, effect: allow, mode: observe, resources: [app-db], operations: [select], limits: {rows: 1}}
  - {name: no-drop, effect: deny, resources: [app-db], operations: [drop]}
defaults: {unknown_operation: allow}
`

func TestADecisionCarriesTheLimitsOfEveryRuleThatAllows(t *testing.T) {
	e, err := Compile(1, mustParse(t, limited))
	if err != nil {
		t.Fatal(err)
	}
	bulk := Limit{Rule: "bulk", Rows: 10_000, Bytes: 50 << 20}
	busy := Limit{Rule: "busy", PerMinute: Rate{Operations: 120, Rows: 100_000, Bytes: 1 << 30}}
	held := Limit{Rule: "held", Rows: 5}
	for effects, want := range map[string][]Limit{
		"select":         {bulk, busy},
		"insert":         {busy},
		"select delete":  {bulk, busy, held},
		"select drop":    nil,
		"connect":        nil,
		"unknown":        {bulk, busy, held},
		"":               {bulk, busy, held},
		"insert unknown": {bulk, busy, held},
	} {
		d := e.Decide(&Request{Target: appDB, Operation: Operation{Effects: strings.Fields(effects)}})
		if diff := cmp.Diff(want, d.Limits); diff != "" {
			t.Errorf("%q: %s by %s (-want +got):\n%s", effects, d.Verdict, d.Rule, diff)
		}
	}
}

func TestLimitsAreReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		"allow, limits: {rows: 0}":                        `p.yaml:4:80: rules[0].limits.rows: want at least 1; where nothing is to be allowed, use effect: deny`,
		"allow, limits: {rows: -1}":                       `p.yaml:4:80: rules[0].limits.rows: "-1" is not a number, as in 10000`,
		"allow, limits: {rows: 1e3}":                      `p.yaml:4:80: rules[0].limits.rows: "1e3" is not a number, as in 10000`,
		"allow, limits: {rows: 10 MiB}":                   `p.yaml:4:80: rules[0].limits.rows: "10 MiB" is not a number, as in 10000`,
		"allow, limits: {bytes: 5 potatoes}":              `p.yaml:4:81: rules[0].limits.bytes: "5 potatoes" is not a number of bytes, as in 65536 or 50MiB`,
		"allow, limits: {bytes: 9000000TiB}":              `p.yaml:4:81: rules[0].limits.bytes: want at most 2305843009213693951; where everything is to be allowed, leave it out`,
		"allow, limits: {rows: 99999999999999999999}":     `p.yaml:4:80: rules[0].limits.rows: "99999999999999999999" is not a number, as in 10000`,
		"allow, limits: {lines: 3}":                       `p.yaml:4:74: unknown key "lines", want one of rows, bytes, per_minute`,
		"allow, limits: {per_minute: {}}":                 `p.yaml:4:86: per_minute: want operations, rows, bytes or several of them`,
		"allow, limits: {}":                               `p.yaml:4:73: limits: want rows, bytes, per_minute or several of them`,
		"deny, limits: {rows: 3}":                         `p.yaml:4:72: limits are for rules with effect: allow or approve`,
		"allow, limits: {per_minute: {operations: many}}": `p.yaml:4:99: rules[0].limits.per_minute.operations: "many" is not a number, as in 10000`,
	} {
		_, err := Parse("p.yaml", []byte("version: 1\nresources: [{name: a, protocol: p, hosts: ['10.0.0.1:1']}]\nrules:\n  - {name: x, resources: ['*'], operations: [a], effect: "+text+"}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestSizesHaveUnits(t *testing.T) {
	for text, want := range map[string]size{"1": 1, "7B": 7, "2kB": 2000, "2KiB": 2048, "50MiB": 50 << 20, "3 MB": 3e6, "1GiB": 1 << 30, "2GB": 2e9, "4TB": 4e12, "1TiB": 1 << 40} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", text, got, err, want)
		}
	}
}

func TestLimitsThatNobodyWouldKeepAreAnError(t *testing.T) {
	const resources = `version: 1
resources:
  - {name: db, protocol: sqlish, hosts: ["10.0.0.1:1"]}
  - {name: raw, protocol: tcp, hosts: ["10.0.0.2:1"]}
  - {name: past, protocol: sqlish, inspection: none, hosts: ["10.0.0.3:1"]}
  - {name: names, protocol: dns, names: [a.example]}
  - {name: other, protocol: webby, hosts: ["10.0.0.4:1"]}
`
	o := Options{Metered: []string{"sqlish"}}
	for name, what := range map[string]string{"raw": "protocol: tcp", "past": "inspection: none", "names": "protocol: dns", "other": "protocol: webby"} {
		_, err := o.Compile(mustParse(t, resources+"rules: [{name: r, effect: allow, resources: ["+name+"], operations: [connect], limits: {rows: 1}}]\n"))
		want := "rule r: nobody counts what comes from resource " + name + " (" + what + "), so that limits can't be kept there; give it a rule without limits"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	if _, err := o.Compile(mustParse(t, resources+"rules: [{name: r, effect: allow, resources: [db], limits: {rows: 1}}]\n")); err != nil {
		t.Errorf("where it is counted: %v", err)
	}
}

// FuzzLimits checks that whatever is taken for an amount is one within bounds.
func FuzzLimits(f *testing.F) {
	for _, s := range []string{"1", "0", "50MiB", "3 MB", "18446744073709551615", "9007199254740993TiB", "MiB", " 1", "+1", "0x10", "1_000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var n count
		var b size
		if err := n.UnmarshalText([]byte(text)); err == nil && (n == 0 || n > maxAmount) {
			t.Errorf("count %q is %d", text, n)
		}
		if err := b.UnmarshalText([]byte(text)); err == nil && (b == 0 || b > maxAmount) {
			t.Errorf("size %q is %d", text, b)
		}
	})
}

func TestTheTermsOfMasksAreReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		"columns: ['*.*.a'], predicates: never": `predicates: unknown value "never", want allow or deny`,
		"columns: ['*.*.a'], copies: true":      `want a string, found true or false`,
		"detect: [pan], predicates: deny":       `predicates is about columns, and the mask names none`,
		"detect: [pan], copies: allow":          `copies is about columns, and the mask names none`,
		"columns: ['*.*.a'], definitions: hide": `definitions: unknown value "hide", want allow or deny`,
		"detect: [pan], definitions: deny":      `definitions is about columns, and the mask names none`,
	} {
		_, err := Parse("p.yaml", []byte("version: 1\nmasks:\n  - {name: m, resources: ['*'], with: redact, "+text+"}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	e, err := Compile(1, mustParse(t, `
version: 1
resources: [{name: app-db, protocol: sqlish, hosts: ["10.0.3.7:5432"]}]
masks:
  - {name: ids, resources: ["*"], columns: ["*.*.ssn"], with: redact, predicates: deny, copies: allow}
  - {name: mail, resources: ["*"], columns: ["*.*.email"], with: redact}
`))
	if err != nil {
		t.Fatal(err)
	}
	set := e.Masks(&Request{Target: appDB})
	got := []bool{set.NoPredicates().Protects("ssn"), set.NoPredicates().Protects("email"), set.NoCopies().Protects("ssn"), set.NoCopies().Protects("email")}
	if diff := cmp.Diff([]bool{true, false, false, true}, got); diff != "" {
		t.Errorf("predicates of ssn and email, copies of both, denied (-want +got):\n%s", diff)
	}
	if set.NoDefinitions() {
		t.Error("definitions are denied where nothing says so")
	}
	e, err = Compile(1, mustParse(t, `
version: 1
resources: [{name: app-db, protocol: sqlish, hosts: ["10.0.3.7:5432"]}]
masks: [{name: ids, resources: ["*"], columns: ["*.*.ssn"], with: redact, definitions: deny}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if !e.Masks(&Request{Target: appDB}).NoDefinitions() {
		t.Error("definitions: deny is not heard")
	}
}
