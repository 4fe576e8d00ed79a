package statement

import "testing"

func TestADefinitionKeepsWhatItLeavesAsItWas(t *testing.T) {
	for text, want := range map[string][2]bool{
		"create table t (a int)":                                             {true, true},
		"create temp table t (like x including all)":                         {true, true},
		"create table t () inherits (p)":                                     {true, true},
		"create table t as select * from x":                                  {true, true},
		"select * into t from x":                                             {true, true},
		"alter table t add column a int default 7, add check (a > 0)":        {true, true},
		"alter table t drop column a":                                        {false, false},
		"create sequence s":                                                  {true, true},
		"create index on t (a)":                                              {true, false},
		"drop view v cascade":                                                {true, false},
		"drop table t":                                                       {true, false},
		"comment on table t is 'x'":                                          {true, false},
		"refresh materialized view m":                                        {true, false},
		"alter table t add column a text generated always as (b) stored":     {false, false},
		"alter table t rename column a to b":                                 {false, false},
		"alter table t rename to u":                                          {false, false},
		"alter table t inherit p":                                            {false, false},
		"alter table t attach partition p default":                           {false, false},
		"alter table t add column a int, enable row level security":          {false, false},
		"alter table t alter column a type text":                             {false, false},
		"alter view v add column a int":                                      {false, false},
		"create view v as select 1":                                          {false, false},
		"create materialized view v as select 1":                             {false, false},
		`create rule "_RETURN" as on select to t do instead select * from x`: {false, false},
		"create function f() returns int language sql as 'select 1'":         {false, false},
		"drop function f":                                                    {false, false},
		"drop schema s cascade":                                              {false, false},
		"create schema s create view v as select 1":                          {false, false},
		"explain analyze create table t as select 1":                         {false, false},
		"select 1": {false, false},
		"not sql":  {false, false},
	} {
		s := Parse(text)[0]
		if got := [2]bool{s.Keeps, s.Adds}; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
