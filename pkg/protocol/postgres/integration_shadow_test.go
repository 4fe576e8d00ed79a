package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// shadowed is a table of the agent's, in a schema that is searched behind another
// one in which the agent may create something of the same name.
func shadowed(tb testing.TB) {
	tb.Helper()
	admin := mustDirect(tb)
	drop := "drop schema if exists agent cascade; drop table if exists plain; drop table if exists gatekeeper"
	mustExec(tb, admin, drop)
	mustExec(tb, admin, "create schema agent authorization agent; create table plain (x text); insert into plain values ('harmless'); "+
		"alter table plain owner to agent; create table gatekeeper (k int); insert into gatekeeper values (1); alter table gatekeeper owner to agent")
	tb.Cleanup(func() { mustExec(tb, mustDirect(tb), drop) })
}

func TestAStatementByNameThatIsAnotherOneThanWasDescribedIsMasked(t *testing.T) {
	shadowed(t)
	g := sharing(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "prepare shown as select x from plain order by 1 limit 1")
	mustExec(t, a, "begin")
	if got := script(t, a, 1, &pgproto3.Parse{Query: "execute shown"}, &pgproto3.Bind{DestinationPortal: "p"},
		&pgproto3.Describe{ObjectType: 'P', Name: "p"}, &pgproto3.Sync{}); got != "1 2 T ZT" {
		t.Fatal(got)
	}
	mustExec(t, b, "create view agent.plain as select ssn as x from public.customers")
	mustExec(t, b, "analyze public.plain")
	// To parse something is to learn that the plan is out of date.
	got := script(t, a, 1, &pgproto3.Parse{Query: "select body from notes"}, &pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{})
	if got != "1 [[redacted]] C(SELECT 1) ZT" && got != "1 E42501 ZE" {
		t.Errorf("the agent was shown %s", got)
	}
}

func TestACopyOfAnotherRelationThanWasDescribedIsMasked(t *testing.T) {
	shadowed(t)
	g := sharing(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	a, b, c := mustConnect(t, g), mustConnect(t, g), mustConnect(t, g)
	mustExec(t, c, "begin; lock table gatekeeper in access exclusive mode")
	done := make(chan string, 1)
	go func() {
		got, err := copied(t, a, "copy (select x from plain, gatekeeper order by 1) to stdout")
		if err != nil {
			got = err.Error()
		}
		done <- got
	}()
	awaitBackend(t, "wait_event_type = 'Lock'")
	mustExec(t, b, "create view agent.plain as select ssn as x from public.customers")
	mustExec(t, c, "commit")
	if got := <-done; got != "[redacted]\n[redacted]\n\\N\n" {
		t.Errorf("the agent was shown %q", got)
	}
}
