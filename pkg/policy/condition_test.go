package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/process"
)

// sqlish are facts of a protocol of the tests.
var sqlish = FactType{Variable: "sql", Fields: []FactField{
	{Name: "has_where", Kind: FactBool}, {Name: "statements", Kind: FactInt}, {Name: "text", Kind: FactString}, {Name: "tables", Kind: FactStrings},
}}

// sqlFacts are the facts of one operation; a nil value is not known.
type sqlFacts map[string]any

func (f sqlFacts) Fact(name string) (any, error) {
	if v := f[name]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("%w: the schema is not known", ErrUnknownFact)
}

var conditionOptions = Options{Generation: 7, Facts: map[string]FactType{"sqlish": sqlish}}

// nested is claude, started by a shell, started by a runner.
func nested() *process.Process {
	runner := &process.Process{ID: process.ID{PID: 10, Start: 1}, Image: &process.Image{Exe: "/opt/runner/bin/Runner", Argv: []string{"Runner"}}, UID: 1001}
	shell := &process.Process{ID: process.ID{PID: 11, Start: 2}, Image: &process.Image{Exe: "/bin/sh", Argv: []string{"sh", "-c", "claude"}}, UID: 1001, Parent: runner}
	return &process.Process{ID: process.ID{PID: 12, Start: 3}, Image: &process.Image{Exe: "/usr/bin/claude", Argv: []string{"claude", "-p"}}, UID: 1002, Parent: shell}
}

// full is a request about which everything is known.
func full() *Request {
	return &Request{
		Principal: identityOf("github", "repo:acme/web", "ci"), Process: nested(), Agent: "runner", Target: appDB, Names: []string{"db.internal"},
		Time: time.Date(2026, 3, 2, 14, 30, 0, 0, time.UTC),
		Operation: Operation{
			Protocol: "sqlish", Verb: "delete", Effects: []string{"delete", "select"}, Text: "DELETE FROM invoices",
			Parameters: []string{"7"}, Objects: []Object{{Kind: "table", Name: "invoices", Write: true}},
			Facts: sqlFacts{"has_where": false, "statements": int64(1), "tables": []string{"public.invoices"}},
		},
	}
}

func TestAConditionSeesWhatTheRequestHolds(t *testing.T) {
	for _, expression := range []string{
		"principal.issuer == 'github' && principal.subject.startsWith('repo:acme/') && 'ci' in principal.groups && !principal.anonymous",
		"process.exe == '/usr/bin/claude' && process.uid == 1002 && process.argv[1] == '-p' && process.pid == 12",
		"lineage.exists(p, p.exe == '/opt/runner/bin/Runner') && size(lineage) == 3 && lineage[0].exe == process.exe",
		"lineage.all(p, p.uid > 1000)",
		"agent == 'runner' && resource.name == 'app-db' && resource.protocol == 'sqlish'",
		"target.ip == '10.0.3.7' && target.port == 5432 && 'db.internal' in target.names",
		"op.verb == 'delete' && 'select' in op.effects && op.text.contains('invoices') && op.parameters == ['7'] && op.protocol == resource.protocol",
		"op.objects.exists(o, o.write && o.kind == 'table' && o.name == 'invoices')",
		"!sql.has_where || sql.tables.exists(t, t == 'public.invoices')",
		"sql.statements == 1",
		"time.getHours('Europe/Berlin') == 15 && time.getDayOfWeek() == 1",
		"!has(principal.claims.repository)",
		"!has(sql.text)",
		"op.text.matches('(?i)^delete')",
		"lineage.map(p, p.exe).filter(e, e.endsWith('sh')).size() == 1",
	} {
		e := compileWith(t, conditionOptions, fmt.Sprintf("rules: [{name: r, effect: allow, resources: [app-db], operations: [delete, select], when: %q}]", expression))
		if got := answer(e.Decide(full())); got != "allow r rule" {
			t.Errorf("%s: %s", expression, got)
		}
	}
}

func TestAConditionOverWhatIsNotKnownDenies(t *testing.T) {
	partial := nested()
	partial.Parent.Partial = true
	cut := nested()
	cut.Image.ArgvTruncated = true
	tests := []struct {
		name, expression string
		change           func(*Request)
	}{
		{"no process", "process.exe != '/bin/sh'", func(r *Request) { r.Process = nil }},
		{"no process, lineage", "!lineage.exists(p, p.exe == '/bin/sh')", func(r *Request) { r.Process = nil }},
		{"no image", "process.exe != '/bin/sh'", func(r *Request) { r.Process = &process.Process{} }},
		{"a partial lineage", "!lineage.exists(p, p.exe == '/bin/curl')", func(r *Request) { r.Process = partial }},
		{"its size", "size(lineage) < 9", func(r *Request) { r.Process = partial }},
		{"arguments that were cut", "!('-x' in process.argv)", func(r *Request) { r.Process = cut }},
		{"parameters that were cut", "!op.parameters.exists(p, p == 'x')", func(r *Request) { r.Operation.PartialParameters = true }},
		{"no facts", "sql.has_where || true in [sql.has_where]", func(r *Request) { r.Operation.Facts = nil }},
		{"a fact that is missing", "!sql.text.contains('x')", func(*Request) {}},
		{"no time", "time.getHours() < 24", func(r *Request) { r.Time = time.Time{} }},
		{"a claim that is missing", "principal.claims.repository != 'x'", func(*Request) {}},
		{"a group that is missing", "principal.groups[4] != 'x'", func(*Request) {}},
		{"a cost without end", "op.text.matches('a.*b.*c.*d')", func(r *Request) { r.Operation.Text = strings.Repeat("a", 1<<20) }},
	}
	for _, test := range tests {
		for _, effect := range []string{"allow", "deny", "approve"} {
			t.Run(test.name+", "+effect, func(t *testing.T) {
				e := compileWith(t, conditionOptions, fmt.Sprintf("rules: [{name: r, effect: %s, resources: [app-db], operations: [delete], when: %q}]\ndefaults: {unmatched: allow}", effect, test.expression))
				req := full()
				test.change(req)
				if got := answer(e.Decide(req)); got != "deny r error" {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}

func TestARuleAboutWhatIsDoneDoesNotConcernConnecting(t *testing.T) {
	e := compileWith(t, conditionOptions, `rules:
  - {name: guarded, effect: deny, resources: [app-db], when: "!sql.has_where"}
  - {name: work, effect: allow, resources: [app-db]}
`)
	req := full()
	req.Operation = Operation{Protocol: "sqlish", Verb: Connect, Effects: []string{Connect}}
	if got := answer(e.Decide(req)); got != "allow work rule" {
		t.Errorf("connecting: %s", got)
	}
	if got := answer(e.Decide(full())); got != "deny guarded rule" {
		t.Errorf("a statement: %s", got)
	}
}

func TestAConditionThatCannotWorkIsRefusedWithItsPlaceAndItsRule(t *testing.T) {
	tests := []struct{ name, rule, want string }{
		{"syntax", "resources: [app-db], when: 'sql.has_where &&'", "p.yaml:4:56: rule r: condition, line 1, column 17: Syntax error"},
		{"an unknown variable", "resources: [app-db], when: 'sqll.has_where'", "undeclared reference to 'sqll'"},
		{"an unknown field", "resources: [app-db], when: 'sql.wheres'", "undefined field 'wheres'"},
		{"no bool", "resources: [app-db], when: 'op.text'", "condition is of type string, want bool"},
		{"other types", "resources: [app-db], when: 'process.uid == \"root\"'", "no matching overload"},
		{"a protocol without the fact", "resources: [app-db, web], when: 'sql.has_where'", "sql is known of protocol sqlish only, and the rule is for ftp, too"},
		{"a regular expression that is none", "resources: [app-db], when: 'op.text.matches(\"(\")'", "invalid matches argument"},
		{"a regular expression that explodes", "resources: [app-db], when: 'op.text.matches(\"((a{100}){100}){100}\")'", "invalid matches argument"},
		{"a large regular expression", "resources: [app-db], when: 'op.text.matches(\"(a{100}){50}\")'", "invalid matches argument"},
		{"nesting", "resources: [app-db], when: 'lineage.all(a, lineage.all(b, lineage.all(c, true)))'", "nesting"},
		{"length", "resources: [app-db], when: '" + strings.Repeat("true && ", 1000) + "true'", "size"},
		{"connect", "resources: [app-db], operations: [connect], when: 'sql.has_where'", "its condition asks for facts of an operation, and whoever connects does nothing yet"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := "version: 1\nresources: [{name: app-db, protocol: sqlish, hosts: ['10.0.3.7:5432']}, {name: web, protocol: ftp, hosts: ['10.0.3.7:21']}]\nrules:\n  - {name: r, effect: deny, " + test.rule + "}\n"
			f, err := Parse("p.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			_, err = conditionOptions.Compile(f)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "rule r: ") || !strings.HasPrefix(err.Error(), "p.yaml:4:") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestAnUnknownFactIsTold(t *testing.T) {
	c, err := newConditionCompiler(conditionOptions.Facts).compile("sql.text == 'x'", []string{"sqlish"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Eval(full(), &Resource{}); !errors.Is(err, ErrUnknownFact) || !strings.Contains(err.Error(), "sql.text: not known: the schema is not known") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCondition(b *testing.B) {
	for _, expression := range []string{"!sql.has_where", "!sql.has_where || sql.tables.exists(t, t == 'public.invoices')", "lineage.exists(p, p.exe == '/opt/runner/bin/Runner')"} {
		b.Run(expression[:14], func(b *testing.B) {
			c, err := newConditionCompiler(conditionOptions.Facts).compile(expression, []string{"sqlish"})
			if err != nil {
				b.Fatal(err)
			}
			req := full()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Eval(req, &Resource{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
