package postgres_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
)

// invoicesSchema has a table that a rule is about, and what leads to it.
const invoicesSchema = `
drop schema if exists agent cascade; drop table if exists invoices, orders, payers cascade;
create table payers (id int primary key);
create table invoices (id int, payer int references payers on delete cascade, total int) partition by range (id);
create table invoices_1 partition of invoices for values from (0) to (100);
create table invoices_2 partition of invoices for values from (100) to (200);
create table orders (id int, total int);
create table noted (id int);
create function note() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger noting before update on noted for each row execute function note();
insert into payers values (1), (2); insert into invoices values (1, 1, 10), (2, 1, 20), (101, 1, 30); insert into orders values (1, 10), (2, 20);
create view due as select id, total from invoices where total > 5;
create view due_2 as select * from due;
create materialized view kept_due as select * from invoices;
create schema agent authorization agent;
grant all on payers, invoices, invoices_1, invoices_2, orders, noted, due, due_2, kept_due to agent;
alter table orders owner to agent; alter table invoices owner to agent; alter table invoices_1 owner to agent;
`

// invoices is a gate whose policy is the text.
func invoices(tb testing.TB, text string) (*gate, *pgx.Conn) {
	tb.Helper()
	need(tb)
	if out, err := shared.server.Exec(testDatabase, invoicesSchema); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	tb.Cleanup(func() {
		mustExec(tb, mustDirect(tb), "drop schema if exists agent cascade; drop table if exists invoices, old_invoices, orders, payers, noted cascade; drop function if exists note cascade")
	})
	g := ruled(tb, text)
	return g, mustConnect(tb, g)
}

// ruled is a gate with a compiled policy and no masks.
func ruled(tb testing.TB, text string) *gate {
	tb.Helper()
	target := netip.MustParseAddrPort("10.0.3.7:5432")
	file, err := policy.Parse("policy.yaml", []byte("version: 1\nresources: [{name: db, protocol: postgres, hosts: ['10.0.3.7:5432']}]\n"+text))
	if err != nil {
		tb.Fatal(err)
	}
	engine, err := policy.Options{
		Generation: 1, Facts: map[string]policy.FactType{postgres.Name: postgres.New(postgres.Options{}).Facts()},
	}.Compile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return sharing(tb, func(g *gate) {
		g.masks = nil
		g.asks = func(facts []string) bool { return engine.Asks(&policy.Request{Target: target}, facts) }
		g.decide = func(op *policy.Operation) *protocol.Denial {
			req := &policy.Request{Target: target, Operation: *op, Time: time.Now()}
			d := engine.Decide(req)
			if d.Verdict == policy.Allow {
				return nil
			}
			return protocol.NewDenial("", d, engine.Cause(req, &d))
		}
	})
}

const noInvoices = `
rules:
  - {name: work, effect: allow, resources: [db]}
  - {name: no-invoices, effect: deny, resources: [db], operations: [select, insert, update, delete, truncate, ddl, explain], when: "sql.tables.exists(t, t == 'public.invoices')"}
`

// outcome says what became of a statement: "rule", "unknown", "done", or the
// server's code.
func outcome(err error) string {
	switch {
	case err == nil:
		return "done"
	case strings.Contains(err.Error(), `denied by rule "no-`), strings.Contains(err.Error(), `denied by rule "where"`):
		return "rule"
	case strings.Contains(err.Error(), "denied (error): evaluate condition: sql."):
		return "unknown"
	default:
		return err.Error()
	}
}

// tried carries out a statement, again where a catalog could not be loaded so soon.
func tried(tb testing.TB, g *gate, conn *pgx.Conn, sql, want string) (got string) {
	tb.Helper()
	for range 4 {
		_, err := conn.Exec(testContext(tb), sql, pgx.QueryExecModeSimpleProtocol)
		if got = outcome(err); got == want || got != "unknown" {
			return got
		}
		g.pass(15 * time.Second)
	}
	return got
}

func TestARuleAboutATableHoldsHoweverTheTableIsReached(t *testing.T) {
	g, conn := invoices(t, noInvoices)
	for _, tc := range []struct{ sql, want string }{
		{"select * from invoices", "rule"},
		{"select * from public.invoices", "rule"},
		{`select * from "public"."invoices"`, "rule"},
		{"select * from postgres.public.INVOICES", "rule"},
		{"table only public.invoices", "rule"},
		{`select * from U&"\0069nvoices"`, "rule"},
		{"merge into orders o using due d on d.id = o.id when matched then delete", "rule"},
		{"select invoices from payers invoices", "done"},
		{"delete from invoices_1", "rule"},             // a part of it
		{"select * from due", "rule"},                  // a view
		{"select (select max(id) from due_2)", "rule"}, // one over that
		{"update due set total = 1 where id = 1", "rule"},
		{"select * from kept_due", "rule"},
		{"refresh materialized view kept_due", "rule"},
		{"delete from payers where id = 1", "rule"}, // it cascades
		{"truncate payers cascade", "rule"},
		{"select * from payers", "done"},
		{"with invoices as (select 1 as id) select * from invoices", "done"},
		{"with invoices as (select 1 as id) delete from invoices", "rule"},
		{"with gone as (delete from public.invoices returning id) select 1", "rule"},
		{"explain select * from invoices", "rule"},
		{"explain analyze delete from invoices", "rule"},
		{"copy invoices_1 to stdout", "rule"},
		{"copy (select * from due) to stdout", "rule"},
		{"prepare p as select * from invoices", "rule"},
		{"declare c cursor for select * from invoices", "rule"},
		{"create view public.more as select * from invoices", "rule"},
		{"create table public.child () inherits (orders)", "done"},
		{"select * from child", "done"},
		{"drop table child", "done"},
		{"create table agent.sly partition of invoices default", "rule"},
		{"alter table invoices rename to old_invoices", "rule"},
		{"comment on table invoices is 'x'", "unknown"},
		{"drop schema public cascade", "unknown"},
		{"drop owned by agent", "unknown"},
		{"drop trigger noting on noted", "unknown"},
		{"select query_to_xml('table invoices', true, true, '')", "unknown"},
		{"select * from table_to_xml('invoices', true, true, '')", "unknown"},
		{"select leak()", "unknown"},
		{"select * from nowhere", "unknown"},
		{"update noted set id = 1", "unknown"}, // a trigger
		{"select * from noted", "done"},
		{"select * from orders", "done"},
		{"update orders set total = 1 where id = 1", "done"},
		{"select relname from pg_class where relname = 'invoices'", "done"},
		{"set search_path = agent, public", "done"},
		{"select * from invoices", "rule"},
		{"create temp table invoices as select * from invoices", "rule"},
		{"select * into temp invoices from invoices", "rule"},
		{"create temp view invoices as select * from invoices", "rule"},
		{"create temp table invoices as select 1 as id", "done"},
		{"select * from pg_temp.invoices", "done"},
		{"select * from invoices", "rule"}, // who knows
		{"drop table pg_temp.invoices", "done"},
	} {
		if got := tried(t, g, conn, tc.sql, tc.want); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.sql, got, tc.want)
		}
	}
}

func TestATableThatHasGotAnotherNameIsFoundUnderIt(t *testing.T) {
	g, conn := invoices(t, noInvoices)
	admin := mustConnect(t, sharing(t, func(o *gate) { o.masks, o.protocol = nil, g.protocol }))
	tryOut := func(sql, want string) {
		t.Helper()
		if got := tried(t, g, conn, sql, want); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	tryOut("prepare p as select * from orders", "done")
	tryOut("execute p", "done")
	// In one message, and in one transaction: nobody knows what a name stands for.
	tryOut("alter table orders rename to bills; select * from bills", "unknown")
	tryOut("begin", "done")
	tryOut("create view agent.sly as select * from orders", "done")
	tryOut("select * from agent.sly", "unknown")
	tryOut("rollback", "done")
	tryOut("create view agent.sly as select * from orders", "done")
	tryOut("select * from agent.sly", "done")
	tryOut("drop view agent.sly; create view agent.sly as select * from orders; select * from agent.sly", "unknown")
	tryOut("drop view agent.sly; create table agent.sly () inherits (orders); select * from agent.sly", "unknown")
	tryOut("begin; drop view agent.sly", "done")
	tryOut("create table agent.sly () inherits (orders)", "done")
	tryOut("select * from orders", "unknown")
	tryOut("rollback", "done")
	// Another session puts the table behind names that are known already.
	mustExec(t, admin, "create or replace view agent.sly as select id, total from public.invoices")
	tryOut("select * from agent.sly", "rule")
	mustExec(t, admin, "create table agent.part partition of public.invoices default")
	tryOut("select * from agent.part", "rule")
	// Nobody saw this one.
	mustExec(t, mustDirect(t), "create table agent.unseen (id int); grant select on agent.unseen to agent")
	tryOut("select * from agent.unseen", "done")
	// A rule is about names: another one is no business of it.
	mustExec(t, admin, "alter table invoices rename to old_invoices")
	tryOut("select * from invoices", "unknown")
	tryOut("select * from old_invoices", "done")
	tryOut("execute p", "done")
}

func TestExtendedStatementsAndCursorsAreHeldToTheRule(t *testing.T) {
	g, conn := invoices(t, noInvoices)
	admin := mustConnect(t, sharing(t, func(o *gate) { o.masks, o.protocol = nil, g.protocol }))
	if _, err := conn.Exec(testContext(t), "select * from due where id = $1", 1); outcome(err) != "rule" {
		t.Error(err)
	}
	got := script(t, conn, 1, &pgproto3.Parse{Name: "s", Query: "select id from agent.later"}, &pgproto3.Sync{})
	if !strings.Contains(got, "E42501") {
		t.Errorf("the statement over nothing was answered with %s", got)
	}
	mustExec(t, admin, "create view agent.later as select id from public.orders")
	if got := script(t, conn, 1, &pgproto3.Parse{Name: "s", Query: "select id from agent.later"}, &pgproto3.Sync{}); got != "1 ZI" {
		t.Fatal(got)
	}
	mustExec(t, admin, "create or replace view agent.later as select id from public.invoices")
	got = script(t, conn, 1, &pgproto3.Bind{PreparedStatement: "s"}, &pgproto3.Execute{}, &pgproto3.Sync{})
	if !strings.Contains(got, "E42501") {
		t.Errorf("what was prepared before shows %s", got)
	}
}

func TestARuleAboutWhereNeedsNoCatalog(t *testing.T) {
	g, conn := invoices(t, `
rules:
  - {name: work, effect: allow, resources: [db]}
  - {name: where, effect: deny, resources: [db], operations: [update, delete], when: "!sql.has_where"}
`)
	for _, tc := range []struct{ sql, want string }{
		{"delete from orders", "rule"},
		{"delete from orders where true", "rule"},
		{"delete from orders where id = 9", "done"},
		{"prepare p as delete from orders where id = 9", "done"},
		{"execute p", "done"},
		{"prepare q as update orders set id = 1", "rule"},
		{"explain analyze update orders set id = 1", "rule"},
		{"with x as (delete from orders returning id) select * from x where id = 1", "rule"},
		{"select * from orders", "done"},
	} {
		_, err := conn.Exec(testContext(t), tc.sql, pgx.QueryExecModeSimpleProtocol)
		if got := outcome(err); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.sql, got, tc.want)
		}
	}
	if _, catalogs := g.asked(); catalogs != 0 {
		t.Errorf("the catalog was loaded %d times", catalogs)
	}
}

func TestARefusalSaysWhatIsNotKnownAndWhatToDo(t *testing.T) {
	_, conn := invoices(t, strings.ReplaceAll(noInvoices, "sql.tables", "sql.named"))
	if _, err := conn.Exec(testContext(t), "update noted set id = 1"); err != nil {
		t.Errorf("a trigger counts for sql.named: %v", err)
	}
	_, err := conn.Exec(testContext(t), "select * from nowhere")
	if e := pgError(t, err, "42501"); !strings.Contains(e.Message, "does not have the relation nowhere; write schema.table") {
		t.Errorf("the agent is told %q", e.Message)
	}
}
