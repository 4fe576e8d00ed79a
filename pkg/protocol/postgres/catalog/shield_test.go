package catalog

import (
	"testing"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

func customersShield(tb testing.TB) *Shield {
	tb.Helper()
	c := catalogOf(tb,
		[]string{"c", "16400", "1", "public", "customers", "id", "r"},
		[]string{"c", "16400", "2", "public", "customers", "ssn", "r"},
		[]string{"c", "16401", "1", "public", "orders", "total", "r"},
	)
	set, err := mask.Compile([]mask.Rule{{Name: "r", Columns: []string{"public.customers.ssn"}, With: "redact"}})
	if err != nil {
		tb.Fatal(err)
	}
	return NewShield(set, c)
}

func TestANameBehindADotThatIsNoColumnCountsAsAFunctionOfTheRow(t *testing.T) {
	s := customersShield(t)
	for text, want := range map[string]bool{
		`select c.record_out from customers c`:                         true,
		`select c.zz from customers c`:                                 true,
		`select (c).zz from public.customers c`:                        true,
		`select s.zz from (select * from customers) s`:                 true,
		`select upper(c.id), c.ctid, c.xmin from customers c`:          false,
		`select o.total + 1 from orders o, customers c where c.id = 1`: false,
		`select n.nspname || '' from pg_namespace n`:                   false,
		`select sum(s.n) from (select c.id as n from customers c) s`:   false,
	} {
		if got := s.Reveals(&statement.Parse(text)[0]); got != want {
			t.Errorf("%s: reveals %v, want %v", text, got, want)
		}
	}
}

func TestWhatTheCatalogDoesNotHaveMayBeProtected(t *testing.T) {
	c := catalogOf(t,
		[]string{"c", "16400", "1", "public", "customers", "ssn", "r"},
		[]string{"c", "16401", "1", "public", "orders", "total", "r"},
		[]string{"c", "16402", "1", "public", "sums", "day", "v"},
		[]string{"c", "16403", "1", "a", "numbers", "last_value", "S"},
	)
	s := NewShield(mustCompile(t, mask.Rule{Name: "r", Columns: []string{"public.customers.ssn"}, With: "redact"}), c)
	for text, want := range map[string]bool{
		`select upper(x) from fresh`:                                 true,
		`select upper(total) from other.orders`:                      true,
		`select upper(total) from pg_temp.orders`:                    false,
		`select upper(total) from public.orders`:                     false,
		`select upper(total) from orders`:                            false,
		`select upper(fresh) from orders`:                            false,
		`select upper(fresh) from sums`:                              true,
		`select upper(s.n) from (select fresh as n from sums) s`:     true,
		`select upper(day) from sums`:                                false,
		`select n + 1 from (select count(*) as n from sums) s`:       false,
		`select count + 1 from (select count(*) from sums) s`:        false,
		`select a + b from sums, generate_series(1, 2) as a (b)`:     false,
		`with w (k) as (select day from sums) select k || '' from w`: false,
		`select last_value + 1 from a.numbers`:                       false,
		`select upper(x) from "a.b"`:                                 true,
	} {
		if got := s.Reveals(&statement.Parse(text)[0]); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
