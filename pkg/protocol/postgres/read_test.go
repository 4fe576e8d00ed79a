package postgres

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// spoken is a fact in words.
func spoken(f policy.Facts, name string) string {
	value, err := f.Fact(name)
	if errors.Is(err, policy.ErrUnknownFact) {
		return "unknown"
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(value)
}

func TestATextIsReadAsASessionWithTheDefaultSearchPathReadsIt(t *testing.T) {
	p := New(Options{})
	for _, tc := range []struct{ text, where, tables, written, functions string }{
		{"delete from invoices", "false", "[public.invoices]", "[public.invoices]", "[]"},
		{`delete from "public"."Invoices" where id = 1`, "true", "[public.Invoices]", "[public.Invoices]", "[]"},
		{"delete from db.app.invoices i using b where i.id = b.id", "true", "[app.invoices public.b]", "[app.invoices]", "[]"},
		{"with a as (select 1) select * from a, c where c.id = 1", "true", "[public.c]", "[]", "[]"},
		{"select upper(x), pg_catalog.lower(x) from pg_class", "false", "[pg_catalog.pg_class]", "[]", "[lower pg_catalog.lower upper]"},
		{"set search_path = app, public; update t set a = 1", "false", "[app.t]", "[app.t]", "[]"},
		{"prepare p as delete from t where id = 1; execute p", "true", "[public.t]", "[public.t]", "[]"},
		{"execute q", "unknown", "unknown", "unknown", "unknown"},
		{"begin; declare c cursor for select f(a) from t; fetch c", "false", "unknown", "unknown", "[f]"},
		{"create temp table x as select * from t", "false", "[pg_temp.x public.t]", "[pg_temp.x]", "[]"},
		{"create temp table t as select * from t", "false", "[pg_temp.t public.t]", "[pg_temp.t]", "[]"},
		{"copy t (a) from stdin", "false", "[public.t]", "[public.t]", "[]"},
		{"explain analyze delete from t", "false", "[public.t]", "[public.t]", "[]"},
		{"do $$ begin delete from t; end $$", "unknown", "unknown", "unknown", "unknown"},
		{"select purge()", "false", "unknown", "unknown", "[purge]"},
		{"drop schema public cascade", "false", "unknown", "unknown", "[]"},
		{"drop table a, b.c", "false", "[b.c public.a]", "[b.c public.a]", "[]"},
		{"this is no sql", "unknown", "unknown", "unknown", "unknown"},
		{`select * from "a.b"."c"`, "false", `["a.b".c]`, "[]", "[]"},
	} {
		operations, err := p.Read(tc.text)
		if err != nil {
			t.Fatal(err)
		}
		op := operations[len(operations)-1]
		got := [4]string{spoken(op.Facts, "has_where"), spoken(op.Facts, "tables"), spoken(op.Facts, "written"), spoken(op.Facts, "functions")}
		if want := [4]string{tc.where, tc.tables, tc.written, tc.functions}; got != want {
			t.Errorf("%s: %q, want %q", tc.text, got, want)
		}
	}
}

func TestATextThatIsReadGivesTheOperationsOfASession(t *testing.T) {
	operations, err := New(Options{}).Read("begin; delete from t; nonsense")
	if err != nil || len(operations) != 1 || !slices.Equal(operations[0].Effects, []string{policy.Unknown}) || operations[0].Protocol != Name {
		t.Errorf("a text with a part that is no SQL is %+v, %v", operations, err)
	}
	operations, err = New(Options{}).Read("begin; delete from t")
	if err != nil || len(operations) != 2 || operations[1].Verb != statement.Delete || operations[1].Text != "delete from t" {
		t.Errorf("got %+v, %v", operations, err)
	}
}

// In a policy, the example of its documentation comes to the same as in a session.
func TestTheExampleOfTheConditionsHoldsForATextThatIsRead(t *testing.T) {
	file, err := policy.Parse("policy.yaml", []byte(`version: 1
resources: [{name: app-db, protocol: postgres, hosts: ["10.0.3.7:5432"]}]
rules:
  - {name: work, effect: allow, resources: [app-db], operations: [select, update, delete]}
  - {name: wide-write, effect: approve, resources: [app-db], operations: [update, delete], when: "!sql.has_where || sql.tables.exists(t, t == 'public.invoices')"}
`))
	if err != nil {
		t.Fatal(err)
	}
	p := New(Options{})
	engine, err := policy.Options{Facts: map[string]policy.FactType{Name: p.Facts()}}.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"delete from orders":                                             "approve wide-write",
		"delete from orders where id = 1":                                "allow work",
		"delete from invoices where id = 1":                              "approve wide-write",
		"update public.invoices set a = 1 where a=2":                     "approve wide-write",
		"select * from invoices":                                         "allow work",
		"delete from orders where id in (select order_id from invoices)": "approve wide-write",
	} {
		operations, err := p.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		req := policy.Request{Operation: operations[0]}
		req.Target = netip.MustParseAddrPort("10.0.3.7:5432")
		if d := engine.Decide(&req); d.Verdict.String()+" "+d.Rule != want {
			t.Errorf("%s: %s by %s (%s), want %s", text, d.Verdict, d.Rule, d.Reason, want)
		}
	}
}

func TestEveryFactHasASentence(t *testing.T) {
	facts := New(Options{}).Facts()
	op := &step{facts: []*statement.Statement{&statement.Parse("select 1")[0]}}
	for _, f := range facts.Fields {
		if f.Doc == "" || f.Kind == 0 {
			t.Errorf("%s.%s has no sentence or kind", facts.Variable, f.Name)
		}
		if got := spoken(op, f.Name); got == "unknown" == (f.Name == "has_where") {
			t.Errorf("without a catalog %s is %s", f.Name, got)
		}
	}
}

// What may be several things is all of them.
func TestTheFactsOfSeveralStatementsAreThoseOfAll(t *testing.T) {
	parsed := statement.Parse("execute p; delete from a where id = 1; delete from b")
	read := func(facts ...*statement.Statement) *readFacts { return &readFacts{facts: facts, schema: "public"} }
	for i, tc := range []struct {
		facts         *readFacts
		where, tables string
	}{
		{read(&parsed[0], &parsed[1]), "true", "[public.a]"},
		{read(&parsed[0], &parsed[1], &parsed[2]), "false", "[public.a public.b]"},
		{read(&parsed[1], nil), "unknown", "unknown"},
		{read(&parsed[0]), "false", "[]"},
		{read(), "false", "[]"},
	} {
		if where, tables := spoken(tc.facts, "has_where"), spoken(tc.facts, "tables"); where != tc.where || tables != tc.tables {
			t.Errorf("%d: has_where %s, tables %s", i, where, tables)
		}
	}
}

func TestTheLastPartOfANameIsFound(t *testing.T) {
	for name, want := range map[string]string{"a": "a", "a.b": "b", `"a.b"`: `"a.b"`, `x."a"".b"`: `"a"".b"`, "a.b.c": "c"} {
		if got := strings.TrimPrefix(name, name[:lastDot(name)]); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
