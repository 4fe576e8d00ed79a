package catalog

import (
	"fmt"
	"testing"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

func TestARelationLeadsToAllThatItIsMadeOfAndPartOf(t *testing.T) {
	s := NewShield(nil, catalogOf(t,
		[]string{"c", "1259", "1", "pg_catalog", "pg_class", "relname", "r"},
		[]string{"c", "16400", "1", "public", "t", "id", "r"},
		[]string{"c", "16401", "1", "app", "t", "id", "r"},
		[]string{"c", "16402", "1", "public", "v", "id", "v"}, []string{"d", "16402", "1", "16400"},
		[]string{"c", "16403", "1", "public", "vv", "id", "v"}, []string{"d", "16403", "1", "16402"}, []string{"d", "16403", "1", "1259"},
		[]string{"c", "16404", "1", "public", "parted", "id", "p"},
		[]string{"c", "16405", "1", "public", "part_1", "id", "r"}, []string{"i", "16405", "16404"},
		[]string{"c", "16406", "1", "public", "part_2", "id", "r"}, []string{"i", "16406", "16404"},
		[]string{"c", "16407", "1", "public", "payers", "id", "r"}, []string{"y", "16407", "d", "16406", "d"}, []string{"y", "16407", "u", "16400", "u"},
		[]string{"c", "16408", "1", "public", "ruled", "id", "r"}, []string{"d", "16408", "0", "16401"}, []string{"r", "16408"},
		[]string{"c", "16409", "1", "public", "stored", "id", "m"}, []string{"d", "16409", "1", "16402"},
		[]string{"c", "16410", "1", "pg_temp_3", "own", "id", "r"},
		[]string{"c", "16411", "1", `a"b`, "c.d", "id", "r"},
		[]string{"c", "16412", "1", "public", "calling", "id", "v"}, []string{"f", "16412"},
		[]string{"c", "16413", "1", "public", "over_nothing", "id", "v"}, []string{"d", "16413", "0", "16999"},
		[]string{"c", "16414", "1", "public", "ring", "id", "v"}, []string{"d", "16414", "0", "16415"},
		[]string{"c", "16415", "1", "public", "ring_2", "id", "v"}, []string{"d", "16415", "0", "16414"},
	))
	for text, want := range map[string]string{
		"select from t":                     "[app.t public.t] []",
		"select from public.t":              "[public.t] []",
		"select from db.app.t":              "[app.t] []",
		"select from vv":                    "[pg_catalog.pg_class public.t public.v public.vv] []",
		"delete from v":                     "[public.t public.v] [public.t public.v]",
		"insert into app.t select * from v": "[app.t public.t public.v] [app.t]",
		"select from part_1":                "[public.part_1 public.parted] []",
		"update parted set id = 1":          "[public.part_1 public.part_2 public.parted] [public.part_1 public.part_2 public.parted]",
		"delete from payers":                "[public.part_2 public.parted public.payers] [public.part_2 public.parted public.payers]",
		"update payers set id = 1":          "[public.payers public.t] [public.payers public.t]",
		"insert into payers values (1)":     "[public.payers] [public.payers]",
		"select from payers":                "[public.payers] []",
		"delete from ruled":                 "[app.t public.ruled] [app.t public.ruled]",
		"select from ruled":                 "[public.ruled] []",
		"refresh materialized view stored":  "[public.stored public.t public.v] [public.stored]",
		"select from pg_temp.own":           "[pg_temp_3.own] []",
		"select from own":                   "[pg_temp_3.own] []",
		"select from pg_temp.t":             "missing pg_temp.t",
		`select from "a""b"."c.d"`:          `["a""b"."c.d"] []`,
		`select from "c.d"`:                 `["a""b"."c.d"] []`,
		"select from public.nowhere":        "missing public.nowhere",
		"select from over_nothing":          "missing behind one that it names",
		"select from ring":                  "[public.ring public.ring_2] []",
		"create table app.fresh (like t)":   "[app.fresh app.t public.t] [app.fresh]",
		"create table fresh ()":             "missing fresh",
		"create table t ()":                 "missing t",
		"create temp table t ()":            "[pg_temp.t] [pg_temp.t]",

		// A new name hides the relation that it is read from.
		"create temp table t as select from t":         "[app.t pg_temp.t public.t] [pg_temp.t]",
		"create temp table t as select from public.t":  "[pg_temp.t public.t] [pg_temp.t]",
		"select into temp v from v":                    "[pg_temp.v public.t public.v] [pg_temp.v]",
		"create temp view t as select from t":          "[app.t pg_temp.t public.t] [pg_temp.t]",
		"create temp table t (like t)":                 "[app.t pg_temp.t public.t] [pg_temp.t]",
		"create temp table n as select from n":         "missing n",
		"explain create temp table t as select from t": "[app.t pg_temp.t public.t] []",

		"create or replace view v as select 1":  "missing v",
		"create view public.v as select 1":      "[public.t public.v] [public.t public.v]",
		"insert into public.fresh values (1)":   "missing public.fresh",
		"select from pg_class":                  "[pg_catalog.pg_class] []",
		"begin":                                 "[] []",
		"select from calling":                   "[public.calling] [] the query of public.calling",
		"alter table app.t rename to something": "[app.t] [app.t]",
	} {
		fact := &statement.Parse(text)[0]
		r := s.Relations(fact)
		got := fmt.Sprint(r.All, r.Written)
		if r.Calls != nil {
			got += " " + r.Calls.String()
		}
		if r.Missing != "" {
			got = "missing " + r.Missing
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if r := NewShield(nil, nil).Relations(&statement.Parse("select")[0]); r.Missing == "" || s.Relations(nil).Missing == "" {
		t.Error("something is known where nothing is")
	}
}

// BenchmarkRelations finds a table behind a view.
func BenchmarkRelations(b *testing.B) {
	s, fact := behindShield(b), &statement.Parse("select * from vv where id = 1")[0]
	b.ReportAllocs()
	for b.Loop() {
		if len(s.Relations(fact).All) != 3 {
			b.Fatal("not all")
		}
	}
}
