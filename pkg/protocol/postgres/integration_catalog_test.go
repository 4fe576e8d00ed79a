package postgres_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres"
)

// agentSecret is the credential that is injected.
func agentSecret() *credential.Credential {
	return &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
}

// sharing makes a gate whose sessions share a catalog.
func sharing(tb testing.TB, change func(*gate)) *gate {
	tb.Helper()
	return newGate(tb, func(g *gate) {
		g.masks, g.secret = mustMask(tb, ssnRule()), agentSecret()
		var passed atomic.Int64
		began := time.Now()
		g.pass = func(d time.Duration) { passed.Add(int64(d)) }
		g.protocol.SetClock(func() time.Time { return began.Add(time.Duration(passed.Load())) })
		if change != nil {
			change(g)
		}
	})
}

// asked returns how often the target was dialled, and how often it was asked for
// its catalog.
func (g *gate) asked() (dials, catalogs int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dials, strings.Count(g.sent.String(), "BEGIN READ ONLY; ") + strings.Count(g.sent.String(), "\x00"+postgres.CatalogQuery)
}

// one returns the only cell of the only row.
func one(tb testing.TB, conn *pgx.Conn, sql string) string {
	tb.Helper()
	all := cells(tb, conn, pgx.QueryExecModeSimpleProtocol, sql)
	if len(all) != 1 || len(all[0]) != 1 {
		tb.Fatalf("%s: %v, want one cell", sql, all)
	}
	return all[0][0]
}

// wantOne fails unless the statement shows that.
func wantOne(tb testing.TB, conn *pgx.Conn, sql, want string) {
	tb.Helper()
	if got := one(tb, conn, sql); got != want {
		tb.Errorf("%s: %s, want %s", sql, got, want)
	}
}

const hiddenValue = "[redacted]"

func TestASecondSessionLoadsNothing(t *testing.T) {
	g := sharing(t, nil)
	first := mustConnect(t, g)
	wantOne(t, first, "select ssn from customers where id = 1", hiddenValue)
	if dials, catalogs := g.asked(); dials != 2 || catalogs != 1 {
		t.Fatalf("the first session dialled %d times and asked for the catalog %d times, want 2 and 1", dials, catalogs)
	}
	for i := range 5 {
		conn := mustConnect(t, g)
		wantOne(t, conn, "select ssn from customers where id = 1", hiddenValue)
		wantOne(t, conn, "select number from people2 limit 1", hiddenValue)
		wantOne(t, conn, "select name from customers where id = 1", "Ada Lovelace")
		wantOne(t, conn, "select upper(name) from customers where id = 1", "ADA LOVELACE")
		if dials, catalogs := g.asked(); dials != 3+i || catalogs != 1 {
			t.Fatalf("session %d: %d dials and %d catalogs", i+2, dials, catalogs)
		}
	}
	out, err := shared.server.Exec(testDatabase, "select count(*) from pg_stat_activity where application_name = 'headgate'")
	if err != nil || !strings.Contains(out, "0") {
		t.Errorf("connections of our own are left: %s %v", out, err)
	}
}

func TestADefinitionCountsInAllSessionsAtOnce(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view moving as select id, name as number from customers")
	wantOne(t, b, "select number from moving where id = 1", "Ada Lovelace")
	wantOne(t, b, "select upper(number) from moving where id = 1", "ADA LOVELACE")
	for _, tc := range []struct{ define, ask, want string }{
		{"create or replace view moving as select id, ssn as number from customers", "select number from moving where id = 1", hiddenValue},
		{"select 1", "select upper(number) from moving where id = 1", hiddenValue},
		{"alter view moving rename column number to figure", "select upper(figure) from moving where id = 1", hiddenValue},
		{"alter view moving rename column figure to number", "select number from moving where id = 1", hiddenValue},
		{"create or replace view moving as select id, name as number from customers", "select number from moving where id = 1", "Ada Lovelace"},
		{"create table child_of () inherits (parent_of)", "select count(*)::text from customers", "3"},
		{"insert into child_of values (7, '123-45-6789')", "select ssn from child_of", hiddenValue},
		{"select 1", "select upper(ssn) from child_of", hiddenValue},
	} {
		if tc.define == "create table child_of () inherits (parent_of)" {
			mustExec(t, a, "create table if not exists parent_of (id int, ssn text)")
		}
		mustExec(t, a, tc.define)
		g.pass(time.Second)
		if got := one(t, b, tc.ask); got != tc.want {
			t.Errorf("behind %q, %s: %s, want %s", tc.define, tc.ask, got, tc.want)
		}
	}
	mustExec(t, a, "drop view moving; drop table child_of; drop table parent_of")
}

func TestADefinitionInATransactionCountsForOthersWhenItMayBeCommitted(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view shifting as select id, name as number from customers")
	wantOne(t, b, "select number from shifting where id = 1", "Ada Lovelace")
	for _, end := range []string{"rollback", "commit"} {
		_, before := g.asked()
		mustExec(t, a, "begin")
		mustExec(t, a, "create or replace view shifting as select id, ssn as number from customers")
		wantOne(t, a, "select number from shifting where id = 1", hiddenValue)
		wantOne(t, a, "select upper(name) from customers where id = 1", "[redacted]") // its own transaction is in doubt
		wantOne(t, b, "select upper(name) from customers where id = 1", "ADA LOVELACE")
		if _, after := g.asked(); after != before {
			t.Errorf("the catalog was loaded %d times for what nobody can see", after-before)
		}
		mustExec(t, a, end)
		g.pass(time.Second)
		want := map[string]string{"rollback": "Ada Lovelace", "commit": hiddenValue}[end]
		wantOne(t, b, "select number from shifting where id = 1", want)
		wantOne(t, b, "select upper(name) from customers where id = 1", "ADA LOVELACE")
		wantOne(t, a, "select number from shifting where id = 1", want)
	}
	mustExec(t, a, "drop view shifting")
}

func TestADefinitionBehindABeginInOneMessageIsUncommittedToo(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view joined as select id, name as number from customers")
	wantOne(t, b, "select number from joined where id = 1", "Ada Lovelace")
	g.pass(time.Second)
	mustExec(t, a, "begin; create or replace view joined as select id, ssn as number from customers", pgx.QueryExecModeSimpleProtocol)
	wantOne(t, b, "select upper(name) from customers where id = 1", "ADA LOVELACE")
	wantOne(t, a, "select number from joined where id = 1", hiddenValue)
	wantOne(t, a, "select upper(name) from customers where id = 1", hiddenValue)
	g.set(func() { g.allowDial = func(int) error { return errors.New("the target is away") } })
	mustExec(t, a, "select 1; commit", pgx.QueryExecModeSimpleProtocol)
	wantOne(t, b, "select number from joined where id = 1", hiddenValue)
	wantOne(t, b, "select upper(number) from joined where id = 1", hiddenValue)
	mustExec(t, a, "drop view joined")
}

func TestACatalogIsLoadedWhileTheAgentIsInATransaction(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view turning as select id, name as number from customers")
	mustExec(t, b, "begin isolation level repeatable read")
	wantOne(t, b, "select upper(name) from customers where id = 1", "ADA LOVELACE")
	mustExec(t, a, "create or replace view turning as select id, ssn as number from customers")
	wantOne(t, b, "select number from turning where id = 1", hiddenValue)
	wantOne(t, b, "select upper(name) from customers where id = 1", "ADA LOVELACE")
	mustExec(t, b, "create temp table own (x text)")
	mustExec(t, b, "insert into own values ('y')")
	wantOne(t, b, "select x from own", hiddenValue)
	wantOne(t, b, "select upper(name) from customers where id = 1", "ADA LOVELACE")
	mustExec(t, b, "commit")
	wantOne(t, b, "select x from own", "y")
	mustExec(t, a, "drop view turning")
}

func TestWhileNoCatalogCanBeLoadedEverythingInDoubtIsProtected(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view stuck as select id, name as number from customers")
	wantOne(t, b, "select number from stuck where id = 1", "Ada Lovelace")
	g.set(func() { g.allowDial = func(int) error { return errors.New("the target is away") } })
	mustExec(t, a, "create or replace view stuck as select id, ssn as number from customers")
	for _, conn := range []*pgx.Conn{a, b} {
		wantOne(t, conn, "select number from stuck where id = 1", hiddenValue)
		wantOne(t, conn, "select upper(name) from customers where id = 1", hiddenValue)
		wantOne(t, conn, "select name from customers where id = 1", "Ada Lovelace")
		wantOne(t, conn, "select ssn from customers where id = 1", hiddenValue)
	}
	g.set(func() { g.dial = nil })
	mustExec(t, a, "drop view stuck")
}

func TestASessionDoesNotStartWithoutACatalog(t *testing.T) {
	g := sharing(t, func(g *gate) {
		g.allowDial = func(n int) error {
			if n == 2 {
				return errors.New("the target is away")
			}
			return nil
		}
	})
	_, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", "agent-password"))
	if err == nil || !strings.Contains(err.Error(), "it can't be found out what has to be masked here") {
		t.Errorf("a session started with %v", err)
	}
}

func TestWhereTheAgentLogsInItselfOthersDefinitionsCountToo(t *testing.T) {
	g := sharing(t, nil)
	a := mustConnect(t, g)
	mustExec(t, a, "create or replace view passing as select id, name as number from customers")
	g.set(func() { g.secret = nil })
	b := mustConnect(t, g)
	wantOne(t, b, "select number from passing where id = 1", "Ada Lovelace")
	mustExec(t, a, "create or replace view passing as select id, ssn as number from customers")
	dials, _ := g.asked()
	wantOne(t, b, "select number from passing where id = 1", hiddenValue)
	mustExec(t, b, "create or replace view passing as select id, name as number from customers")
	wantOne(t, b, "select number from passing where id = 1", "Ada Lovelace")
	if after, _ := g.asked(); after != dials {
		t.Errorf("%d dials by a session without a credential of ours", after-dials)
	}
	wantOne(t, a, "select number from passing where id = 1", "Ada Lovelace")
	mustExec(t, a, "drop view passing")
}

func TestDatabasesOfOneServerAndServersOfOneNameAreKeptApart(t *testing.T) {
	need(t)
	for _, sql := range []string{"create database beside", "grant all on database beside to agent"} {
		if out, err := shared.server.Exec(testDatabase, sql); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// The object ids are other ones than in the first database.
	if out, err := shared.server.Exec("beside", "create table filler (a int); create table customers (ssn text, name text); "+
		"insert into customers values ('123-45-6789', 'Ada'); grant all on customers to agent"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g := sharing(t, nil)
	wantOne(t, mustConnect(t, g), "select ssn from customers where id = 1", hiddenValue)
	beside, err := pgx.Connect(testContext(t), strings.Replace(dsn(g.addr, "agent", "agent-password"), "/"+testDatabase+"?", "/beside?", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close(context.Background())
	wantOne(t, beside, "select ssn from customers", hiddenValue)
	wantOne(t, beside, "select name from customers", "Ada")
	if _, catalogs := g.asked(); catalogs != 2 {
		t.Errorf("%d catalogs of two databases", catalogs)
	}
	elsewhere := sharing(t, func(other *gate) { other.protocol, other.origin = g.protocol, "192.0.2.1:5432" })
	wantOne(t, mustConnect(t, elsewhere), "select name from customers where id = 1", "Ada Lovelace")
	if _, catalogs := elsewhere.asked(); catalogs != 1 {
		t.Errorf("%d catalogs of another target", catalogs)
	}
}

func TestADefinitionThatAnAgentLeavesRunningIsWaitedFor(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view later as select id, name as number from customers")
	wantOne(t, b, "select number from later where id = 1", "Ada Lovelace")
	raw, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	front := pgproto3.NewFrontend(raw, raw)
	front.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersionNumber, Parameters: map[string]string{"user": "agent", "database": testDatabase}})
	front.Send(&pgproto3.Query{String: "select pg_advisory_xact_lock(4711); create or replace view later as select id, ssn as number from customers"})
	mustExec(t, a, "select pg_advisory_lock(4711)")
	if err := front.Flush(); err != nil {
		t.Fatal(err)
	}
	awaitBackend(t, "wait_event = 'advisory'")
	if err := raw.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	wantOne(t, b, "select upper(name) from customers where id = 1", hiddenValue) // in doubt as long as it may come
	mustExec(t, a, "select pg_advisory_unlock(4711)")
	for range 1000 {
		if got := one(t, b, "select number from later where id = 1"); got != hiddenValue {
			if out, err := shared.server.Exec(testDatabase, "select pg_get_viewdef('later')"); err != nil || strings.Contains(out, "ssn") {
				t.Fatalf("it shows %s: %s %v", got, out, err)
			}
		}
		if one(t, b, "select upper(name) from customers where id = 1") == "ADA LOVELACE" {
			wantOne(t, b, "select number from later where id = 1", hiddenValue)
			mustExec(t, a, "drop view later")
			return
		}
	}
	t.Error("it stays in doubt")
}

// awaitBackend waits until a session of the agent's is in that state.
func awaitBackend(tb testing.TB, where string) {
	tb.Helper()
	for range 200 {
		out, err := shared.server.Exec(testDatabase, "select 'found' from pg_stat_activity where usename = 'agent' and "+where)
		if err != nil {
			tb.Fatalf("%v: %s", err, out)
		}
		if strings.Contains(out, "found") {
			return
		}
	}
	tb.Fatal("no session came to be in that state")
}

func TestACursorShowsWhatWasThereWhenItWasOpened(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create or replace view held as select id, ssn as number from customers")
	mustExec(t, b, "begin")
	mustExec(t, b, "declare c cursor with hold for select number from held")
	mustExec(t, b, "commit")
	mustExec(t, a, "create or replace view held as select id, name as number from customers")
	wantOne(t, b, "select number from held where id = 1", "Ada Lovelace")
	wantOne(t, b, "fetch 1 from c", hiddenValue)
	mustExec(t, b, "close c")
	mustExec(t, a, "drop view held")
}

// BenchmarkStart starts sessions one by one.
func BenchmarkStart(b *testing.B) {
	start := func(b *testing.B, addr string) {
		for b.Loop() {
			conn, err := pgx.Connect(b.Context(), dsn(addr, "agent", "agent-password"))
			if err != nil {
				b.Fatal(err)
			}
			if err := conn.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("direct", func(b *testing.B) { start(b, need(b)) })
	b.Run("no masks", func(b *testing.B) {
		start(b, newGate(b, func(g *gate) { g.secret = agentSecret() }).addr)
	})
	b.Run("masks of columns", func(b *testing.B) { start(b, sharing(b, nil).addr) })
	b.Run("masks of columns, own login", func(b *testing.B) {
		start(b, sharing(b, func(g *gate) { g.secret = nil }).addr)
	})
}

func TestWhatOnlyAddsPutsNobodyElseInDoubt(t *testing.T) {
	g := sharing(t, nil)
	a, b := mustConnect(t, g), mustConnect(t, g)
	g.set(func() { g.allowDial = func(int) error { return errors.New("the target is away") } })
	for _, sql := range []string{
		"create table grown (x text)", "alter table grown add column y text", "create index on grown (x)",
		"create temp table once as select 1 as n", "comment on table grown is 'x'", "drop table grown",
	} {
		mustExec(t, a, sql)
		wantOne(t, b, "select number from people2 limit 1", hiddenValue)
		wantOne(t, b, "select name from names_only where id = 1", "Ada Lovelace")
		wantOne(t, b, "select upper(name) from names_only where id = 1", "ADA LOVELACE")
		wantOne(t, a, "select upper(name) from names_only where id = 1", "ADA LOVELACE")
	}
	wantOne(t, a, "select n::text from once", hiddenValue) // nobody knows what it is made of
}

func TestTheFirstLookAtWhatAnAgentAddedShowsIt(t *testing.T) {
	for name, secret := range map[string]*credential.Credential{"shared": agentSecret(), "alone": nil} {
		t.Run(name, func(t *testing.T) {
			g := sharing(t, func(g *gate) { g.secret = secret })
			conn := mustConnect(t, g)
			mustExec(t, conn, "create temp table mine (x text)")
			mustExec(t, conn, "insert into mine values ('y')")
			wantOne(t, conn, "select x from mine", "y")
			mustExec(t, conn, "alter table mine add column z text default 'w'")
			wantOne(t, conn, "select upper(z) from mine", "W")
			wantOne(t, conn, "select count(*)::text from mine", "1")
		})
	}
}

func TestAnOutsidersViewIsProtectedUntilItIsKnown(t *testing.T) {
	g := sharing(t, nil)
	conn := mustConnect(t, g)
	wantOne(t, conn, "select name from names_only where id = 1", "Ada Lovelace")
	outsider := func(sql string) {
		if out, err := shared.server.Exec(testDatabase, sql); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	outsider("create view outside as select id, ssn as number, name from customers; grant select on outside to agent")
	defer outsider("drop view outside")
	wantOne(t, conn, "select upper(number) from outside where id = 1", hiddenValue)
	wantOne(t, conn, "select number from outside where id = 1", hiddenValue)
	wantOne(t, conn, "select upper(name) from outside where id = 1", hiddenValue) // one that shows a protected column is protected whole
	outsider("create or replace view names_only as select id, name, ssn as third from customers")
	defer outsider("drop view names_only; create view names_only as select id, name from customers; grant all on names_only to agent")
	wantOne(t, conn, "select upper(third) from names_only where id = 1", hiddenValue)
	wantOne(t, conn, "select third from names_only where id = 1", hiddenValue)
	outsider("create or replace view names_only as select id, ssn as name, ssn as third from customers")
	g.pass(2*time.Minute + time.Second)
	wantOne(t, conn, "select name from names_only where id = 1", hiddenValue)
}
