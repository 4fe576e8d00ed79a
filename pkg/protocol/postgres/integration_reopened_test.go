package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Rolling back to a savepoint closes the cursors that were opened behind it, and
// code may open another one of the same name.
func TestACursorThatARollbackHasClosedIsForgotten(t *testing.T) {
	admin := mustDirect(t)
	mustExec(t, admin, "create function reopened() returns refcursor language plpgsql as $$ declare c refcursor := 'c'; "+
		"begin open c for select ssn || '' from public.customers order by id; return c; end $$")
	t.Cleanup(func() { mustExec(t, mustDirect(t), "drop function reopened") })
	g := newGate(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	for name, closing := range map[string][2]string{
		"rollback to":      {"savepoint s", "rollback to s"},
		"commit and chain": {"select 1", "commit and chain"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			mustExec(t, conn, "begin")
			mustExec(t, conn, closing[0])
			mustExec(t, conn, "declare c cursor for select 'harmless'")
			mustExec(t, conn, closing[1])
			mustExec(t, conn, "select reopened()")
			if got := script(t, conn, 1, &pgproto3.Execute{Portal: "c", MaxRows: 1}, &pgproto3.Sync{}); got != "[[redacted]] s ZT" {
				t.Errorf("the agent was shown %s", got)
			}
			wantOne(t, conn, "fetch 1 from c", hiddenValue)
			mustExec(t, conn, "rollback; begin")
			mustExec(t, conn, closing[0])
			if got := script(t, conn, 1, &pgproto3.Parse{Query: "select name from customers order by id"}, &pgproto3.Bind{DestinationPortal: "c"},
				&pgproto3.Describe{ObjectType: 'P', Name: "c"}, &pgproto3.Execute{Portal: "c", MaxRows: 1}, &pgproto3.Sync{}); got != "1 2 T [Ada Lovelace] s ZT" {
				t.Fatal(got)
			}
			mustExec(t, conn, closing[1])
			mustExec(t, conn, "select reopened()")
			if got := script(t, conn, 1, &pgproto3.Execute{Portal: "c", MaxRows: 1}, &pgproto3.Sync{}); got != "[[redacted]] s ZT" {
				t.Errorf("the agent was shown %s", got)
			}
			mustExec(t, conn, "rollback")
		})
	}
}
