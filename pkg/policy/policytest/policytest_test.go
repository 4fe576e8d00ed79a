package policytest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/policy"
)

// shop is a policy for a protocol that the tests make up: every word of a text is an
// effect, and ";" ends a statement.
const shop = `version: 1
agents: [{name: ci, users: ["1000"]}]
resources:
  - {name: db, protocol: made-up, hosts: ["10.0.0.1:5432"]}
  - {name: pool, protocol: made-up, hosts: ["*.pool.internal:5432"]}
  - {name: by-name, protocol: made-up, hosts: ["db.internal:5432"]}
  - {name: slow, protocol: made-up, hosts: ["10.0.0.2:5432"]}
  - {name: zone, protocol: dns, names: [example.org], servers: ["192.0.2.53:53"]}
  - {name: docker, protocol: unix, paths: [/run/docker.sock]}
  - {name: clock, protocol: udp, hosts: ["192.0.2.123:123"]}
rules:
  - {name: reads, effect: allow, resources: [db, by-name, pool], operations: [read], limits: {rows: 100, per_minute: {operations: 7}}}
  - {name: writes, effect: allow, resources: [db], principals: ["group:ops"], operations: [write], limits: {rows: 50}}
  - {name: no-drop, effect: deny, resources: [db], operations: [drop]}
  - {name: tried, effect: deny, mode: observe, resources: [db], operations: [read], agents: [ci]}
  - {name: held, effect: approve, resources: [slow], operations: [write]}
  - {name: office, effect: allow, resources: [slow], operations: [read], when: "time.getHours() < 18 && process.exe == '/bin/a' && lineage.exists(p, p.uid == 7)"}
  - {name: claimed, effect: allow, resources: [slow], operations: [show], when: "principal.claims['repo'] == 'shop'"}
  - {name: asks, effect: allow, resources: [zone]}
  - {name: no-docker, effect: deny, resources: [docker]}
  - {name: ticks, effect: allow, resources: [clock]}
masks:
  - {name: mails, resources: [db], columns: ["*.people.mail"], detect: [email], with: redact, predicates: deny, unless: ["group:ops"]}
  - {name: phones, resources: [db], columns: ["*.*.phone"], with: redact, copies: allow}
`

func words(protocol, text string) ([]policy.Operation, error) {
	if protocol != "made-up" {
		return nil, errors.New("no texts in " + protocol)
	}
	var list []policy.Operation
	for statement := range strings.SplitSeq(text, ";") {
		if effects := strings.Fields(statement); len(effects) > 0 {
			list = append(list, policy.Operation{Protocol: protocol, Verb: effects[0], Effects: effects, Text: statement})
		}
	}
	return list, nil
}

func vocabulary() Options {
	return Options{
		Policy: policy.Options{Vocabulary: map[string][]string{"made-up": {"read", "write", "drop", "show"}, "dns": {"address", "text"}}},
		Read:   words,
	}
}

// trial runs tests, written as the list below "tests", against the shop's policy.
func trial(t *testing.T, tests string) (*Report, error) {
	t.Helper()
	p, err := policy.Parse("shop.yaml", []byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("shop_test.yaml", []byte("version: 1\n"+tests))
	if err != nil {
		return nil, err
	}
	return vocabulary().Run(Suite{Tests: f, Policies: []*policy.File{p}})
}

func TestWhatIsExpectedIsCompared(t *testing.T) {
	for _, test := range []struct{ name, asks, right, wrong, failure string }{
		{"a decision", "resource: db, statement: read", "allow", "deny", `want deny, got allow by rule reads, reason rule ("read" has effects read)`},
		{"a rule", "resource: db, statement: drop", "{rule: no-drop}", "{decision: deny, rule: reads}",
			`want deny by rule reads, got deny by rule no-drop, reason rule ("drop" has effects drop); rule reads: it is about operations [read]; this is [drop]`},
		{"a rule that is not there", "resource: db, statement: drop", "{rule: no-drop}", "{rule: nodrop}",
			`want by rule nodrop, which the policy does not have, got deny by rule no-drop, reason rule ("drop" has effects drop)`},
		{"a reason", "resource: db, effects: [unknown]", "{reason: unknown_operation}", "{reason: rule}",
			"want for reason rule, got deny by rule default, reason unknown_operation (effects unknown)"},
		{"the most restrictive of several statements", "resource: db, statement: read; drop; read", "{decision: deny, rule: no-drop}", "allow",
			`want allow, got deny by rule no-drop, reason rule (statement 2 of 3, " drop" has effects drop)`},
		{"a text without statements", `resource: db, statement: ""`, "{decision: deny, reason: unknown_operation}", "allow",
			`want allow, got deny by rule default, reason unknown_operation (effects unknown)`},
		{"an effect that no rule names", `resource: db, effects: ["*"]`, "{reason: unmatched}", "allow", "want allow, got deny by rule default, reason unmatched (effects *)"},
		{"an approval", "resource: slow, statement: write", "approve", "allow", `want allow, got approve by rule held, reason rule ("write" has effects write)`},
		{"a statement without its connection", "resource: by-name, agent: ci, connect: true", "allow", "deny", "want deny, got allow by rule reads, reason rule (connecting)"},
		{"what observes", "resource: db, agent: ci, statement: read", "{decision: allow, would_have: deny, mode: enforce}", "{would_have: allow}",
			`would_have: want allow, got deny by rule tried ("read" has effects read)`},
		{"the statement that would be refused, of two that pass", `resource: db, agent: ci, principal: "p:eve", groups: [ops], statement: write; read`, "{decision: allow, would_have: deny}", "{would_have: allow}",
			`would_have: want allow, got deny by rule tried (statement 2 of 2, " read" has effects read)`},
		{"a mode", "resource: db, statement: read", "{mode: enforce}", "{mode: observe}", `mode: want observe, got enforce ("read" has effects read)`},
		{"the tightest limit", `resource: db, principal: "p:eve", groups: [ops], statement: read; write`, "{limits: {rows: 50, operations_per_minute: 7, bytes: none}}", "{limits: {rows: 100}}",
			"limit rows: want 100, got 50 by rule writes"},
		{"no limits", "resource: db, connect: true", "{limits: none}", "{limits: {bytes: 5MiB}}", "limit bytes: want 5242880, got none"},
		{"a target", `target: "10.0.0.1:5432", statement: read`, "{rule: reads, kernel: proxied}", "{kernel: direct}", "kernel: want direct, got proxied"},
		{"a target by its name", `target: "db.internal:5432", statement: read`, "{rule: reads}", "deny", `want deny, got allow by rule reads, reason rule ("read" has effects read)`},
		{"a target by a pattern of names", `target: "a.pool.internal:5432", statement: read`, "{rule: reads}", "deny", `want deny, got allow by rule reads, reason rule ("read" has effects read)`},
		{"a target of no resource", `target: "192.0.2.9:1", protocol: made-up, statement: read`, "{reason: unknown_resource}", "allow",
			`want allow, got deny by rule default, reason unknown_resource ("read" has effects read)`},
		{"a datagram", "resource: clock, connect: true", "{rule: ticks, kernel: direct}", "deny", "want deny, got allow by rule ticks, reason rule (connecting)"},
		{"a datagram to no resource", `target: "192.0.2.9:1", transport: udp, connect: true`, "{kernel: denied}", "allow", "want allow, got deny by rule default, reason unknown_resource (connecting)"},
		{"a datagram to a name server", `target: "192.0.2.9:53", transport: udp, connect: true`, "{kernel: proxied}", "{kernel: denied}", "kernel: want denied, got proxied"},
		{"a socket", "socket: /run/docker.sock", "{decision: deny, rule: no-docker, kernel: denied}", "none", "want none, got deny by rule no-docker, reason rule (socket /run/docker.sock)"},
		{"a socket of nobody", "socket: /run/other.sock", "none", "deny", "want deny, got none: no resource names socket /run/other.sock"},
		{"a name", "asked: example.org", "{rule: asks}", "deny", "want deny, got allow by rule asks, reason rule (effects address)"},
		{"another record of it", "asked: example.org, effects: [text]", "{rule: asks}", "deny", "want deny, got allow by rule asks, reason rule (effects text)"},
		{"a name at another server", `asked: example.org, target: "192.0.2.1:53"`, "{reason: unknown_resource}", "allow", "want allow, got deny by rule default, reason unknown_resource (effects address)"},
		{"a name that is implied", "asked: db.internal", "{rule: reads, reason: implied}", "deny", "want deny, got allow by rule reads, reason implied (effects address)"},
		{"a name server", "asked: example.org, connect: true", "allow", "deny", "want deny, got allow by rule asks, reason rule (connecting)"},
		{"who asks, when and from where", `resource: slow, time: "2026-03-02T09:30:00Z", lineage: [/bin/a, {exe: /bin/b, uid: 7}], statement: read`, "{rule: office}", "deny",
			`want deny, got allow by rule office, reason rule ("read" has effects read)`},
		{"the same later", `resource: slow, time: "2026-03-02T19:30:00Z", lineage: [/bin/a, {exe: /bin/b, uid: 7}], statement: read`, "{reason: unmatched}", "allow",
			`want allow, got deny by rule default, reason unmatched ("read" has effects read)`},
		{"another user", `resource: slow, time: "2026-03-02T09:30:00Z", lineage: [/bin/a, /bin/b], statement: read`, "{reason: unmatched}", "allow",
			`want allow, got deny by rule default, reason unmatched ("read" has effects read)`},
		{"nobody knows from where", `resource: slow, time: "2026-03-02T09:30:00Z", lineage: [unknown], statement: read`, "{reason: error}", "allow",
			`want allow, got deny by rule office, reason error ("read" has effects read)`},
		{"claims", `resource: slow, principal: "p:eve", claims: {repo: shop}, effects: [show]`, "{rule: claimed}", "deny", "want deny, got allow by rule claimed, reason rule (effects show)"},
		{"a masked column", "resource: db", "{masked: [people.mail, sales.people.mail], clear: [mail, people.name]}", "{masked: [mail]}", `"mail" is clear, want masked`},
		{"a clear column", `resource: db, principal: "p:eve", groups: [ops]`, "{clear: [people.mail]}", "{masked: [people.mail]}", `"people.mail" is clear, want masked`},
		{"a column that should be clear", "resource: db", "{masked: [people.mail]}", "{clear: [people.mail]}", `"people.mail" is masked by mask mails, want clear`},
		{"a text with a find", "resource: db", "{found: [to eve@example.org], passed: [to eve]}", "{passed: [to eve@example.org]}", `"to eve@example.org" is found by a detector, want passed`},
		{"a text without one", "resource: db", "{passed: [to eve]}", "{found: [to eve]}", `"to eve" is passed, want found by a detector`},
		{"a search", "resource: db", "{unsearched: [people.mail], searched: [people.name]}", "{searched: [people.mail]}", `"people.mail" may not be searched by because of mask mails, want searched`},
		{"what is masked and no more", "resource: db", "{masked: [phone], searched: [phone], copied: [phone]}", "{unsearched: [phone]}", `"phone" may be searched by, want unsearched`},
		{"a copy", "resource: db", "{kept: [people.mail], copied: [people.name]}", "{kept: [people.name]}", `"people.name" may be copied, want kept`},
	} {
		report, err := trial(t, "tests:\n  - {name: right, "+test.asks+", expect: "+test.right+"}\n  - {name: wrong, "+test.asks+", expect: "+test.wrong+"}\n")
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := report.Results[0].Failures; len(got) > 0 {
			t.Errorf("%s: fails with %q", test.name, got)
		}
		if d := cmp.Diff([]string{test.failure}, report.Results[1].Failures); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
		if at := report.Results[1].At.String(); at != "shop_test.yaml:4:5" {
			t.Errorf("%s: at %s", test.name, at)
		}
	}
}

func TestAStatementThatMayNotConnectIsRefused(t *testing.T) {
	p, err := policy.Parse("p.yaml", []byte(`version: 1
resources: [{name: db, protocol: made-up, hosts: ["10.0.0.1:5432"]}]
rules:
  - {name: reads, effect: allow, resources: [db], operations: [read]}
  - {name: closed, effect: deny, resources: [db], operations: [connect]}
`))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("p_test.yaml", []byte("version: 1\ntests: [{name: n, resource: db, statement: read, expect: {decision: deny, rule: closed}}]"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := vocabulary().Run(Suite{f, []*policy.File{p}})
	if err != nil || report.Failed() > 0 || report.CoveredParts() != 2 {
		t.Errorf("%v, %+v", err, report)
	}
}

func TestAStatementOfWhoseConnectionAPersonIsAskedIsHeld(t *testing.T) {
	p, err := policy.Parse("p.yaml", []byte(`version: 1
resources: [{name: db, protocol: made-up, hosts: ["10.0.0.1:5432"]}]
rules:
  - {name: reads, effect: allow, resources: [db], operations: [read]}
  - {name: ask, effect: approve, resources: [db], operations: [connect]}
`))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("p_test.yaml", []byte("version: 1\ntests: [{name: n, resource: db, statement: read, expect: {decision: approve, rule: ask}}]"))
	if err != nil {
		t.Fatal(err)
	}
	if report, err := vocabulary().Run(Suite{f, []*policy.File{p}}); err != nil || report.Failed() > 0 {
		t.Errorf("%v, %+v", err, report)
	}
}

func TestWhatIsWrongWithTestsIsReportedWithItsPlace(t *testing.T) {
	for tests, want := range map[string]string{
		"test: []":             `:2:1: unknown key "test", want one of version, files, agents, resources, addresses, given, tests`,
		"given: {agent: ci}":   ":1:1: tests are required",
		"tests: [{name: n}]":   ":2:9: tests[0]: want resource, target, socket or asked",
		"files: [a_test.yaml]": `:2:9: file "a_test.yaml": want the name of a policy file`,
		"tests: [{resource: db, connect: true, expect: deny}]":                                      "name is required",
		"tests: [{name: n, resource: db, connect: true, expect: denied}]":                           `unknown value "denied", want allow or deny or approve or none`,
		"tests: [{name: n, resource: db, connect: true, expect: none}]":                             "decision: none is for sockets",
		"tests: [{name: n, resource: db, connect: true, statement: read, expect: deny}]":            "want one of statement and connect",
		"tests: [{name: n, resource: db, socket: /run/x, expect: deny}]":                            "want one of resource and socket",
		"tests: [{name: n, resource: db, expect: deny}]":                                            "give the test a statement, effects or connect: true",
		"tests: [{name: n, resource: db, connect: false, expect: deny}]":                            "connect: false asks for nothing",
		"tests: [{name: n, resource: db, connect: true, groups: [ops], expect: deny}]":              "the anonymous principal has none",
		"tests: [{name: n, resource: db, connect: true, principal: eve, expect: deny}]":             "want anonymous or ISSUER:SUBJECT",
		"tests: [{name: n, resource: db, connect: true, lineage: [claude], expect: deny}]":          "want the absolute path of an executable",
		"tests: [{name: n, resource: db, connect: true, lineage: [unknown, /bin/a], expect: deny}]": "want the absolute path of an executable",
		"tests: [{name: n, resource: db, connect: true, time: noon, expect: deny}]":                 "is not a time",
		"tests: [{name: n, resource: db, connect: true, transport: udp, expect: deny}]":             "transport is for tests with a target",
		"tests: [{name: n, target: db, connect: true, expect: deny}]":                               `target "db": no port`,
		"tests: [{name: n, socket: run, expect: deny}]":                                             "want an absolute path",
		"tests: [{name: n, socket: /run/x, connect: true, expect: deny}]":                           "leave connect out",
		"tests: [{name: n, asked: 10.0.0.1, expect: deny}]":                                         "want a host name",
		"tests: [{name: n, asked: example.org, statement: x, expect: deny}]":                        "leave statement out",
		"tests: [{name: n, resource: db, connect: true}]":                                           "expect is required",
		"tests: [{name: n, resource: db, expect: {masked: [a.b.c.d]}}]":                             "want column, table.column or schema.table.column",
		"tests: [{name: n, resource: db, connect: true, expect: {limits: {rows: 0}}}]":              "want at least 1",
		"tests: [{name: n, resource: db, statement: x, objects: [{kind: a, name: b}], expect: {}}]": "objects are for tests with effects",
		"addresses: {a: b}\ntests: [{name: n, socket: /run/x, expect: deny}]":                       `"b" is not an address`,
		"resources: [{name: x}]\ntests: [{name: n, socket: /run/x, expect: deny}]":                  ":2:13: resources[0].protocol is required",
		"tests: [{name: n, resource: db, connect: true, expect: {}}]":                               "tests[0].expect lists nothing, and would always pass",
		"tests: [{name: n, asked: example.org, expect: {kernel: direct}}]":                          "leave kernel out",
		"tests: [{name: n, socket: /run/x, expect: {clear: [mail]}}]":                               "clear is for tests with a resource or target",
		// What only the policy can tell.
		"tests: [{name: n, resource: bd, connect: true, expect: deny}]":                                                   `:2:29: unknown resource "bd"`,
		"given: {resource: bd}\ntests: [{name: n, connect: true, expect: deny}]":                                          `:2:19: unknown resource "bd"`,
		"tests: [{name: n, resource: docker, connect: true, expect: deny}]":                                               "resource docker has no host",
		"tests: [{name: n, resource: db, agent: cj, connect: true, expect: deny}]":                                        `unknown agent "cj"`,
		"tests: [{name: n, resource: db, effects: [dorp], expect: deny}]":                                                 `:2:43: unknown operation "dorp" of protocol "made-up"`,
		"tests: [{name: n, resource: zone, statement: x, expect: deny}]":                                                  "no texts in dns; give effects instead",
		"tests: [{name: n, target: '192.0.2.9:1', statement: x, expect: deny}]":                                           "give protocol, the language of the statement",
		"resources: [{name: db, protocol: udp, hosts: ['10.0.0.9:1']}]\ntests: [{name: n, socket: /run/x, expect: deny}]": `name "db" is used twice in resources`,
	} {
		if _, err := trial(t, tests); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "shop_test.yaml:") {
			t.Errorf("%s\n got %v\nwant %s", tests, err, want)
		}
	}
	if _, err := Parse("f", []byte("tests: [{name: n, socket: /run/x, expect: deny}, {name: n, socket: /run/x, expect: deny}]")); err == nil ||
		!strings.Contains(err.Error(), "version is required") || !strings.Contains(err.Error(), `name "n" is used twice, first at f:1:16`) {
		t.Errorf("got %v", err)
	}
}

func TestWhatTheTestsShareMayBeSaidOnce(t *testing.T) {
	report, err := trial(t, `
given: {resource: slow, principal: "p:eve", groups: [ops], claims: {repo: shop}, time: "2026-03-02T09:30:00Z", lineage: [/bin/a, {exe: /bin/b, uid: 7}]}
addresses: {db.internal: 10.0.0.3}
tests:
  - {name: claims, effects: [show], expect: {rule: claimed}}
  - {name: the groups, resource: db, effects: [write], expect: allow}
  - {name: time and programs, effects: [read], expect: {rule: office}}
  - {name: claims of its own, claims: {repo: other}, effects: [show], expect: {reason: unmatched}}
  - {name: another principal has not these claims, principal: "p:ann", effects: [show], expect: {reason: error}}
  - {name: nobody has, principal: anonymous, effects: [show], expect: {reason: error}}
  - {name: groups, resource: db, groups: [ops], effects: [write], expect: allow}
  - {name: other groups, resource: db, groups: [dev], effects: [write], expect: deny}
  - {name: what a name means, target: "10.0.0.3:5432", effects: [read], expect: {rule: reads}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if !r.Passed() {
			t.Errorf("%s: %q", r.Name, r.Failures)
		}
	}
}

func TestWhatHasASayIsCoveredAndNothingElse(t *testing.T) {
	report, err := trial(t, `
tests:
  - {name: two effects, resource: db, effects: [read, drop], expect: deny}
  - {name: the same again, resource: db, effects: [read, drop], expect: deny}
  - {name: would be refused, resource: db, agent: ci, effects: [read], expect: allow}
  - {name: socket, socket: /run/docker.sock, expect: deny}
  - {name: a failed test counts, resource: clock, connect: true, expect: deny}
  - {name: one mask, resource: db, expect: {clear: [mail], unsearched: [people.mail]}}
`)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, c := range report.Coverage {
		got[c.Kind+" "+c.Name] = c.Tests
	}
	want := map[string]int{
		"rule reads": 3, "rule writes": 0, "rule no-drop": 2, "rule tried": 1, "rule held": 0, "rule office": 0, "rule claimed": 0, "rule asks": 0,
		"rule no-docker": 1, "rule ticks": 1, "mask mails": 1, "mask phones": 0,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestOnlyWhatWasChosenRunsAndEverythingIsChecked(t *testing.T) {
	p, err := policy.Parse("shop.yaml", []byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("shop_test.yaml", []byte("version: 1\ntests: [{name: a, socket: /run/x, expect: none}, {name: b, socket: /run/x, expect: deny}]"))
	if err != nil {
		t.Fatal(err)
	}
	o := vocabulary()
	o.Only = func(name string) bool { return name == "a" }
	report, err := o.Run(Suite{f, []*policy.File{p}})
	if err != nil || len(report.Results) != 1 || report.Failed() != 0 {
		t.Errorf("%v, %+v", err, report)
	}
}

func TestAMistakeInAPolicyThatSeveralTestsAreAboutIsReportedOnce(t *testing.T) {
	p, err := policy.Parse("p.yaml", []byte("version: 1\nrules: [{name: r, effect: deny, resources: [gone]}]"))
	if err != nil {
		t.Fatal(err)
	}
	var suites []Suite
	for _, name := range []string{"a_test.yaml", "b_test.yaml"} {
		f, err := Parse(name, []byte("version: 1\ntests: [{name: a, socket: /run/x, expect: none}]"))
		if err != nil {
			t.Fatal(err)
		}
		suites = append(suites, Suite{f, []*policy.File{p}})
	}
	if _, err := vocabulary().Run(suites...); err == nil || strings.Count(err.Error(), "p.yaml:2:45: unknown resource") != 1 {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 1\ntests: [{name: n, resource: db, lineage: [/bin/a], statement: x, expect: {limits: none, masked: [a.b]}}]"))
	f.Add([]byte("version: 1\nagents: [{name: a}]\nresources: [{name: db}]\naddresses: {a: 10.0.0.1}\nfiles: [a.yaml]\ntests: [{expect: deny}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data)
		if (file == nil) == (err == nil) {
			t.Fatalf("%v and %v", file, err)
		}
		if err != nil {
			return
		}
		if report, err := vocabulary().Run(Suite{Tests: file}); (report == nil) == (err == nil) {
			t.Fatalf("%v and %v", report, err)
		}
	})
}
