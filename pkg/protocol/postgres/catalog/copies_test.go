package catalog

import (
	"testing"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

func TestWhatMayCopyProtectedDataDependsOnTheRelationsThatItReads(t *testing.T) {
	s := customersShield(t)
	for text, want := range map[string]bool{
		`insert into orders select ssn from customers`:                  true,
		`insert into fresh select * from customers`:                     true,
		`create table fresh as select * from public.customers`:          true,
		`create view v as select ssn from customers`:                    false, // the catalog follows it
		`update customers set id = ssn::int`:                            true,
		`insert into orders select c.zz from customers c`:               true,
		`create table x as select * from fresh`:                         true,
		`update fresh set a = ssn`:                                      true,
		`insert into orders select zz from customers_view`:              true,
		`insert into orders select * from orders`:                       false,
		`create table fresh as select * from orders`:                    false,
		`create table fresh as select total as ssn from orders`:         false,
		`insert into fresh values (1, 'x')`:                             false,
		`insert into fresh select id from customers`:                    false,
		`create table fresh as select id from customers`:                false,
		`create table fresh as select ssn from customers`:               true,
		`update fresh set a = b`:                                        true,
		`insert into customers values (1, 'x')`:                         false,
		`select * from customers`:                                       false,
		`create table samples as select most_common_vals from pg_stats`: true,
		`do $$ begin end $$`:                                            true,
	} {
		if got := s.Copies(&statement.Parse(text)[0]); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if !s.Copies(nil) || !s.Copies(&statement.Statement{}) {
		t.Error("what is unknown copies nothing")
	}
}

func TestARelationWithAProtectedColumnIsFoundUnderEachOfItsNames(t *testing.T) {
	s := customersShield(t)
	for _, tc := range []struct {
		tables, schemas []string
		want            bool
	}{
		{[]string{"customers"}, nil, true},
		{[]string{"orders", "public.customers"}, nil, true},
		{[]string{`public."a.b"`}, nil, true},
		{nil, []string{"public"}, true},
		{nil, []string{`"a.b"`}, true},
		{[]string{"orders"}, nil, false},
		{[]string{"other.customers"}, nil, false},
		{[]string{"an_index"}, []string{"other", "pg_catalog"}, false},
		{nil, nil, false},
	} {
		if got := s.Redefines(tc.tables, tc.schemas); got != tc.want {
			t.Errorf("%v %v: %v, want %v", tc.tables, tc.schemas, got, tc.want)
		}
	}
	if nothing := NewShield(s.set, nil); !nothing.Redefines([]string{"orders"}, nil) || !nothing.Redefines(nil, []string{"s"}) {
		t.Error("a database of which nothing is known has nothing to protect")
	}
}

func TestWhatMayBeInferredDependsOnTheRelationsThatAreRead(t *testing.T) {
	s := customersShield(t)
	for text, want := range map[string]bool{
		`select id from customers where ssn = 'x'`:          true,
		`select id from customers c where c.zz`:             true,
		`select id from fresh where a = 'x'`:                true,
		`create table fresh as select ssn from customers`:   true,
		`insert into fresh select id from customers`:        false,
		`create table fresh as select id from customers`:    false,
		`select ssn from customers where id = 1 order by 1`: true,
		`select ssn from customers where id = 1`:            false,
		`select total from orders order by total`:           false,
	} {
		if got := s.Infers(&statement.Parse(text)[0]); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if !s.Infers(nil) || !s.Unsettled(nil) {
		t.Error("what is unknown infers nothing")
	}
}

func TestOnlyWhatCanBeReplacedIsUnsettled(t *testing.T) {
	s := customersShield(t)
	for text, want := range map[string]bool{
		`select id from customers_view`:               true,
		`insert into orders select id from fresh`:     true,
		`insert into orders select id from customers`: false,
		`insert into fresh values (1)`:                false,
	} {
		if got := s.Unsettled(&statement.Parse(text)[0]); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
