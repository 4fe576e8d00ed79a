package statement

import (
	"slices"
	"testing"
)

func TestTheRelationsOfAStatementAreWholeOrNot(t *testing.T) {
	for text, want := range map[string]Reach{
		"select 1":                                             {Whole: true},
		"select * into n from t":                               {Whole: true, Creates: "n"},
		"create table a.n (id int)":                            {Whole: true, Creates: "a.n"},
		"create temp table n as select from n":                 {Whole: true, Creates: "n", Temporary: true, Again: true},
		"create temp table n as select 1":                      {Whole: true, Creates: "n", Temporary: true},
		"create table pg_temp.n (id int)":                      {Whole: true, Creates: "pg_temp.n", Temporary: true},
		"explain analyze create table n as select 1":           {Whole: true, Creates: "n"},
		"create view v as select 1":                            {Whole: true, Creates: "v"},
		"create sequence s":                                    {Whole: true, Creates: "s"},
		"create sequence s owned by t.id":                      {Creates: "s"},
		"alter sequence s owned by t.id":                       {},
		"prepare p as delete from t":                           {Whole: true},
		"declare c cursor for select 1":                        {Whole: true},
		"copy t to stdout":                                     {Whole: true},
		"truncate t cascade":                                   {Whole: true},
		"drop table t":                                         {Whole: true},
		"drop table t cascade":                                 {},
		"drop schema s":                                        {},
		"drop owned by r":                                      {},
		"drop trigger g on t":                                  {},
		"drop function f":                                      {},
		"drop type k cascade":                                  {},
		"comment on table t is 'x'":                            {},
		"alter table t add column c int":                       {Whole: true},
		"alter table t drop column c cascade":                  {},
		"alter table all in tablespace a set tablespace b":     {},
		"alter type k add attribute a int":                     {},
		"alter schema s rename to r":                           {},
		"alter table t rename to u":                            {Whole: true},
		"alter trigger g on t rename to h":                     {Whole: true},
		"alter table t set schema s":                           {Whole: true},
		"alter function f() set schema s":                      {},
		"grant select on t to r":                               {Whole: true},
		"grant execute on function f to r":                     {Whole: true},
		"grant select on all tables in schema s to r":          {},
		"alter default privileges grant select on tables to r": {},
		"create schema s":                                      {Whole: true},
		"create schema s create table t ()":                    {},
		"vacuum":                                               {},
		"analyze t":                                            {Whole: true},
		"cluster":                                              {},
		"reindex schema s":                                     {},
		"reindex table t":                                      {Whole: true},
		"create publication p for all tables":                  {},
		"import foreign schema s from server x into y":         {},
		"reassign owned by a to b":                             {},
		"create rule r as on insert to t do nothing":           {Whole: true},
		"create table n () inherits (t)":                       {Whole: true, Creates: "n", Leads: true},
		"create table n partition of t default":                {Whole: true, Creates: "n", Leads: true},
		"create table n (id int references t)":                 {Whole: true, Creates: "n", Leads: true},
		"alter table n add foreign key (id) references t":      {Whole: true, Leads: true},
		"do 'begin end'":                                       {},
		"commit":                                               {Whole: true},
		"":                                                     {},
		"no sql":                                               {},
	} {
		if got := Parse(text)[0].Reach; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

func TestWholeStatementsAreKindsOfStatements(t *testing.T) {
	if !slices.IsSorted(wholeKinds) {
		t.Error("the kinds are not sorted")
	}
	for _, name := range wholeKinds {
		if k, ok := kindOf(name); !ok || k.part {
			t.Errorf("there is no statement %s", name)
		}
	}
}
