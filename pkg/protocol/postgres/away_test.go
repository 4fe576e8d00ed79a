package postgres

import (
	"testing"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

func TestProtectedDataDoesNotGoIntoSettingsAndLocks(t *testing.T) {
	x, set := knowing(t)
	for text, want := range map[string]bool{
		`select 1 from customers where set_config('my.x', ssn, false) is not null`:                    true,
		`select set_config('my.x', (select ssn from customers limit 1), false)`:                       true,
		`select set_config('my.x', c::text, false) from customers c`:                                  true,
		`select set_config('my.x', c.zz, false) from customers c`:                                     true,
		`select pg_try_advisory_lock(replace(ssn,'-','')::int) from customers`:                        true,
		`select pg_advisory_lock_shared(1, key2 => ssn::int) from customers`:                          true,
		`select pg_notify('c', s.y) from (select ssn as y from customers) s`:                          true,
		`select lo_from_bytea(0, ssn::bytea) from customers`:                                          true,
		`select pg_logical_emit_message(false, 'x', ssn) from customers`:                              true,
		`select setval('s', ssn::int) from customers`:                                                 true,
		`select 1 where exists (select 1 from customers where set_config('my.x', ssn, true) is null)`: true,
		`prepare p as select set_config('my.x', ssn, false) from customers`:                           true,
		`select set_config('my.x', h, false) from fresh`:                                              true,
		`select set_config('my.x', relname, false) from pg_class`:                                     false,
		`select pg_advisory_xact_lock(id) from customers`:                                             false,
		`select pg_advisory_xact_lock(-7), ssn from customers`:                                        false,
		`select pg_notify('c', $1), ssn from customers`:                                               false,
		`select set_config('my.x', 'y', false), upper(ssn) from customers`:                            false,
		`select set_config('my.x', total, false) from orders`:                                         false,
		`select upper(ssn) from customers`:                                                            false,
	} {
		facts := statement.Parse(text)
		if got := x.sendsAway([]*statement.Statement{&facts[0]}, set); got != want {
			t.Errorf("%s: %v, want %v: %+v", text, got, want, facts[0].Mentions)
		}
	}
}
