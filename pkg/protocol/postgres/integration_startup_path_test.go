package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Names of settings are read without regard to case.
func TestASearchPathOfTheStartupMessageCountsHoweverItIsSpelt(t *testing.T) {
	admin := mustDirect(t)
	drop := "drop schema if exists aside cascade"
	mustExec(t, admin, drop)
	mustExec(t, admin, "create schema aside; grant usage on schema aside to agent; "+
		"create function aside.upper(varchar) returns text language sql as 'select ssn from public.customers where id = 1'")
	t.Cleanup(func() { mustExec(t, mustDirect(t), drop) })
	g := sharing(t, nil)
	for _, name := range []string{"search_path", "Search_Path"} {
		config, err := pgx.ParseConfig(dsn(g.addr, "agent", "agent-password"))
		if err != nil {
			t.Fatal(err)
		}
		config.RuntimeParams[name] = "aside, public"
		conn, err := pgx.ConnectConfig(testContext(t), config)
		if err != nil {
			t.Fatal(err)
		}
		wantOne(t, conn, "select upper(name::varchar) from customers where id = 1", hiddenValue)
		if err := conn.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}
