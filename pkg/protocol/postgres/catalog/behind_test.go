package catalog

import (
	"fmt"
	"testing"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// behindShield knows relations that run code, and those that make them do it.
func behindShield(tb testing.TB) *Shield {
	tb.Helper()
	c := catalogOf(tb,
		[]string{"c", "16400", "1", "public", "t", "id", "r"}, []string{"x", "16400", "u", "", "a trigger"},
		[]string{"c", "16401", "1", "other", "t", "id", "r"},
		[]string{"c", "16402", "1", "public", "v", "id", "v"}, []string{"d", "16402", "1", "16400"},
		[]string{"c", "16403", "1", "public", "vv", "id", "v"}, []string{"d", "16403", "1", "16402"}, []string{"r", "16403"},
		[]string{"c", "16404", "1", "public", "parted", "id", "p"}, []string{"x", "16404", "iump", "", "a key"},
		[]string{"c", "16405", "1", "public", "part", "id", "r"}, []string{"i", "16405", "16404"},
		[]string{"c", "16406", "1", "public", "parent", "id", "r"}, []string{"y", "16406", "d", "16400", "u"},
		[]string{"c", "16407", "1", "public", "elder", "id", "r"}, []string{"y", "16407", "d", "16406", "d"}, []string{"y", "16406", "u", "16407", "d"},
		[]string{"c", "16408", "1", "public", "parts", "id", "p"},
		[]string{"c", "16409", "1", "public", "part_1", "id", "r"}, []string{"i", "16409", "16408"}, []string{"x", "16409", "i", "", "a trigger"},
		[]string{"c", "16410", "1", "public", "part_2", "id", "r"}, []string{"i", "16410", "16408"},
		[]string{"c", "16411", "1", "public", "shown", "id", "v"}, []string{"x", "16411", "siud", "", "the query"},
		[]string{"c", "16412", "1", "public", "kept", "id", "m"}, []string{"d", "16412", "1", "16411"},
		[]string{"c", "16413", "1", `a"b`, "c.d", "id", "r"}, []string{"x", "16413", "i", "", "a default"},
		[]string{"c", "16414", "1", "public", "noted", "id", "r"}, []string{"d", "16414", "1", "16411"}, []string{"r", "16414"},
	)
	return NewShield(mustCompile(tb, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"}), c)
}

func TestWhatRelationsRunIsFollowedToThoseThatMakeThemRunIt(t *testing.T) {
	s := behindShield(t)
	for text, want := range map[string]string{
		"update t set id = 1":                  "a trigger of public.t",
		"update db.public.t set id = 1":        "a trigger of public.t",
		"update pg_temp.t set id = 1":          "a trigger of public.t", // a schema that nobody knows
		"update other.t set id = 1":            "",
		"insert into t values (1)":             "",
		"select id from t":                     "",
		"create table n (like t)":              "a trigger of public.t",
		"create table n () inherits (t)":       "a trigger of public.t",
		"create table n (id int references t)": "",
		"alter table t rename to n":            "a trigger of public.t",
		"alter table t rename id to n":         "",
		"alter table t set schema other":       "a trigger of public.t",
		"alter schema other rename to n":       "",
		`alter schema "a""b" rename to n`:      `a default of a"b.c.d`,
		"update v set id = 1":                  "a trigger of public.t",
		"select id from v":                     "",
		"delete from v":                        "",
		"delete from vv":                       "a trigger of public.t", // its rules may do anything
		"insert into part values (1)":          "a key of public.parted",
		"delete from part":                     "",
		"delete from parent":                   "a trigger of public.t",
		"delete from elder":                    "a trigger of public.t",
		"insert into parts values (1)":         "a trigger of public.part_1",
		"update parts set id = 1":              "a trigger of public.part_1", // it may move rows
		"insert into part_2 values (1)":        "",
		"select id from shown":                 "the query of public.shown",
		"select id from kept":                  "",
		"refresh materialized view kept":       "the query of public.shown",
		"insert into noted values (1)":         "the query of public.shown",
		"select id from noted":                 "",
		`insert into "a""b"."c.d" values (1)`:  `a default of a"b.c.d`,
		`insert into "c.d" values (1)`:         `a default of a"b.c.d`,
		`insert into public."c.d" values (1)`:  "",
		"drop view shown":                      "",
		"grant select on shown to public":      "",
		"lock table shown":                     "",
		"explain update t set id = 1":          "",
		"explain update t set id = default":    "a trigger of public.t", // whatever it is that runs there
		"explain analyze update t set id = 1":  "a trigger of public.t",
		"with shown as (select 1) table shown": "",
		"select":                               "",
	} {
		by, got := s.RunsBehind(&statement.Parse(text)[0]), ""
		if by != nil {
			got = by.String()
		}
		if got != want {
			t.Errorf("%s: runs %q, want %q", text, got, want)
		}
	}
	if s.RunsBehind(nil) != nil || NewShield(s.set, nil).RunsBehind(&statement.Parse("update t set id = 1")[0]) != nil {
		t.Error("something runs where nothing is known")
	}
}

func TestWhatMayRunAnywhereRunsInEveryStatementThatComputes(t *testing.T) {
	const cast = "a cast between types of the system"
	s := NewShield(mustCompile(t, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"}), catalogOf(t, []string{"x", "0", "", "", cast, "", ""}))
	for text, want := range map[string]bool{"values (1)": true, "insert into t values (1)": true, "copy t from stdin": true, "begin": false} {
		by := s.RunsBehind(&statement.Parse(text)[0])
		if (by != nil) != want || want && by.String() != cast {
			t.Errorf("%s: runs %v", text, by)
		}
	}
}

func TestRowsAboutCodeThatAreNotUnderstoodAreErrors(t *testing.T) {
	for name, cells := range map[string][]string{
		"an event":         {"x", "16400", "z", "", "a trigger"},
		"another relation": {"y", "16400", "d", "z", "u"},
		"another event":    {"y", "16400", "d", "16401", "z"},
		"an implied event": {"y", "16400", "z", "16401", "u"},
	} {
		if err := New().Add(dataRow(t, row(cells...)...)[5:]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// BenchmarkSealBehind follows one trigger through a large schema in which
// everything refers to everything near it.
func BenchmarkSealBehind(b *testing.B) {
	const relations = 20_000
	c := New()
	add := func(cells ...string) {
		if err := c.Add(dataRow(b, row(cells...)...)[5:]); err != nil {
			b.Fatal(err)
		}
	}
	for i := range relations {
		oid, next := fmt.Sprint(20000+i), fmt.Sprint(20000+(i+1)%relations)
		add("c", oid, "1", "public", "relation_"+oid, "id", "p")
		add("d", oid, "1", next)
		add("i", oid, next)
		add("y", oid, "d", next, "u")
	}
	add("x", "20000", "siudtmlp", "", "a trigger")
	c.seal()
	b.ResetTimer()
	for b.Loop() {
		c.sealBehind()
	}
	if len(c.behind.at) != relations {
		b.Fatalf("%d relations run something", len(c.behind.at))
	}
}

// BenchmarkRunsBehind asks about a statement that runs nothing.
func BenchmarkRunsBehind(b *testing.B) {
	s, fact := behindShield(b), &statement.Parse("select t.id from t join other.t u on u.id = t.id where t.id = 1")[0]
	b.ReportAllocs()
	for b.Loop() {
		if s.RunsBehind(fact) != nil {
			b.Fatal("it runs something")
		}
	}
}
