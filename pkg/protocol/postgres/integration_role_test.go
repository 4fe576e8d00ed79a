package postgres_test

import "testing"

// The schema "$user" of the search path is that of the role that acts.
func TestCodeThatARoleFindsIsSeen(t *testing.T) {
	admin := mustDirect(t)
	drop := "drop schema if exists bob cascade; drop role if exists bob"
	mustExec(t, admin, drop)
	mustExec(t, admin, "create role bob; grant bob to agent; create schema bob authorization bob; grant usage on schema bob to agent; "+
		"grant select on customers to bob; create function bob.upper(varchar) returns text language sql as 'select ssn from public.customers where id = 1'")
	t.Cleanup(func() {
		mustExec(t, mustDirect(t), "revoke all on customers from bob; "+drop)
	})
	g := sharing(t, nil)
	conn := mustConnect(t, g)
	wantOne(t, conn, "select upper(name::varchar) from customers where id = 1", "ADA LOVELACE")
	for _, set := range []string{"set role bob", "select set_config('role', 'bob', false)"} {
		mustExec(t, conn, set)
		wantOne(t, conn, "select upper(name::varchar) from customers where id = 1", hiddenValue)
		mustExec(t, conn, "reset role")
	}
}
