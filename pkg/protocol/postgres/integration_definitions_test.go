package postgres_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// definitionsSchema has relations that run code of users by themselves.
const definitionsSchema = `
drop schema if exists hidden cascade;
create schema hidden authorization agent;
set search_path = hidden;
create table done (n int);
create function act() returns int language plpgsql as $$ begin insert into hidden.done values (1); return 1; end $$;
create function act(int) returns int immutable language plpgsql as $$ begin return $1; end $$;
create function fire() returns trigger language plpgsql as $$ begin insert into hidden.done values (1); return new; end $$;
create table by_default (id int, v int default act());
create table by_trigger (id int, ssn text);
insert into by_trigger values (1, '123-45-6789');
create trigger early before update on by_trigger for each row execute function fire();
create table by_truncate (id int primary key);
create trigger late after truncate on by_truncate for each statement execute function fire();
create table parent (id int primary key);
create table by_key (parent int references parent on delete set null);
create trigger early before update on by_key for each row execute function fire();
create table by_index (id int);
create index on by_index (act(id));
create table by_statistics_of (id int);
create statistics by_statistics on id, act(id) from by_statistics_of;
create table by_policy (id int);
insert into by_policy values (1), (2);
alter table by_policy enable row level security;
create policy p on by_policy for select using (act(id) > 0);
create policy q on by_policy for insert with check (true);
create table by_update (id int);
alter table by_update enable row level security;
create policy p on by_update for select using (true);
create policy q on by_update for update using (act(id) > 0);
create table off (id int);
create policy p on off using (act(id) > 0);
create view shown as select act() as v;
create materialized view kept as select act(1) as v;
create table plain (id int default 1, ssn text, check (id > 0));
create view plainly as select id, abs(id) as size from plain;
create table "a.b" (id int default act());
grant usage on schema hidden to agent;
grant all on all tables in schema hidden to agent;
alter table by_index owner to agent;
alter table by_trigger owner to agent;
alter table by_statistics_of owner to agent;
alter materialized view kept owner to agent;
reset search_path;
`

// definitions prepares the schema, and has sessions look there first.
func definitions(tb testing.TB, change func(*gate)) (*gate, *pgx.Conn) {
	tb.Helper()
	need(tb)
	if out, err := shared.server.Exec(testDatabase, definitionsSchema); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	tb.Cleanup(func() { mustExec(tb, mustDirect(tb), "drop schema hidden cascade") })
	g := sharing(tb, change)
	conn := mustConnect(tb, g)
	mustExec(tb, conn, "set search_path = hidden, public")
	return g, conn
}

// last returns the last operation that the policy was asked about.
func (g *gate) last() policy.Operation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.operations[len(g.operations)-1]
}

func TestCodeThatTheDatabaseRunsByItselfIsInTheFacts(t *testing.T) {
	g, conn := definitions(t, nil)
	for _, tc := range []struct{ sql, by string }{
		{"insert into by_default (id) values (1)", "a default of hidden.by_default"},
		{"insert into hidden.by_default default values", "a default of hidden.by_default"},
		{"explain analyze insert into by_default (id) values (1)", "a default of hidden.by_default"},
		{"explain insert into by_default (id) values (1)", "a default of hidden.by_default"}, // the planner computes one that is immutable
		{"select v from by_default", ""},
		{"update by_trigger set id = 2", "a trigger of hidden.by_trigger"},
		{"insert into by_trigger values (3, '')", ""},
		{"delete from by_trigger where id = 3", ""},
		{"truncate by_truncate", "a trigger of hidden.by_truncate"},
		{"insert into by_truncate values (1)", ""},
		{"delete from parent", "a trigger of hidden.by_key"},
		{"update parent set id = 2", ""},
		{"insert into by_index values (1)", "an index of hidden.by_index"},
		{"select * from by_index where id = 1", ""},
		{"alter table by_index add column note text", "an index of hidden.by_index"},
		{"analyze by_statistics_of", "statistics of hidden.by_statistics_of"},
		{"select id from by_policy", "a policy of hidden.by_policy"},
		{"insert into by_policy values (3)", ""},
		{"select id from by_update", ""},
		{"select id from by_update for update", "a policy of hidden.by_update"},
		{"select id from off", ""},
		{"select * from shown", "the query of hidden.shown"},
		{"select (select v from hidden.shown)", "the query of hidden.shown"},
		{"insert into plain (id) select v from shown", "the query of hidden.shown"},
		{"create view over as select * from shown", "the query of hidden.shown"},
		{"select v from over", "the query of hidden.shown"},
		{"drop view over", ""},
		{"refresh materialized view kept", "the query of hidden.kept"},
		{"select * from kept", ""},
		{"insert into plain default values", ""},
		{"select * from plainly", ""},
		{"update plainly set id = 3", ""},
		{`insert into "a.b" default values`, "a default of hidden.a.b"},
		{`insert into hidden."a.b" (id) values (default)`, "a default of hidden.a.b"},
		{"alter table by_trigger alter column id set default 4", ""},
		{"prepare p as select * from shown", "the query of hidden.shown"},
		{"execute p", "the query of hidden.shown"},
		{"with x as (select 1 as shown) select shown from x", ""},
	} {
		if _, err := conn.Exec(testContext(t), tc.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Errorf("%s: %v", tc.sql, err)
		}
		op, want := g.last(), tc.by != ""
		if slices.Contains(op.Effects, statement.UserFunction) != want || slices.Contains(op.Effects, statement.Opaque) != want {
			t.Errorf("%s: effects %q", tc.sql, op.Effects)
		}
		if !strings.HasPrefix(op.Reason, tc.by) || op.Reason != "" && !want {
			t.Errorf("%s: the reason is %q, want %s", tc.sql, op.Reason, tc.by)
		}
	}
}

func TestARefusalNamesTheDefinitionThatRunsTheCode(t *testing.T) {
	g, conn := definitions(t, nil)
	g.set(func() {
		g.decide = func(op *policy.Operation) *protocol.Denial {
			d := deny(statement.UserFunction)(op)
			if d != nil {
				d.Detail = op.Reason // as the gateway does
			}
			return d
		}
	})
	_, err := conn.Exec(testContext(t), "insert into by_default (id) values (1)")
	const want = "a default of hidden.by_default runs code of users by itself: it needs user_function and opaque to be allowed here, or to be dropped"
	if e := pgError(t, err, "42501"); !strings.Contains(e.Detail, want) || !strings.Contains(e.Message, `"no-user_function"`) {
		t.Errorf("%s: %s, want %s", e.Message, e.Detail, want)
	}
	if got := one(t, conn, "select count(*)::text from done"); got != "0" {
		t.Errorf("the function ran %s times", got)
	}
}

// Masks, and what they forbid, do not depend on what else the database runs.
func TestCodeOfTheDatabaseMakesAMaskNoStricter(t *testing.T) {
	_, conn := definitions(t, func(g *gate) {
		rule := keptRule()
		rule.Columns, rule.DenyPredicates = []string{"hidden.*.ssn"}, true
		g.masks = mustMask(t, rule)
	})
	for _, tc := range []struct{ sql, want string }{
		{"update by_trigger set id = id + 1 where id = 1 returning (id + 1)::text", "3"},
		{"update by_trigger set id = 1 returning ssn", hiddenValue},
		{"insert into by_default (id) select 5 from by_trigger returning (id + v)::text", "6"},
		{"select count(*)::text from by_policy", "2"},
		{"insert into by_trigger values (7, 'x') returning upper(id::text)", "7"},
	} {
		wantOne(t, conn, tc.sql, tc.want)
	}
}

// What an agent creates in a schema that is searched first is not found in place of
// what is built in.
func TestTheCatalogIsReadWithoutRegardToTheSearchPath(t *testing.T) {
	need(t)
	conn := mustDirect(t)
	mustExec(t, conn, "drop schema if exists hidden cascade")
	t.Cleanup(func() { mustExec(t, mustDirect(t), "drop schema if exists hidden cascade") })
	mustExec(t, conn, definitionsSchema)
	want := cells(t, conn, pgx.QueryExecModeSimpleProtocol, postgres.CatalogQuery)
	mustExec(t, conn, "begin")
	mustExec(t, conn, `create schema shadows; do $$ declare o record; begin
		for o in select oid, oprname, oprleft::regtype as l, oprright::regtype as r, oprresult::regtype as t from pg_operator
			where oprname in ('=', '<>', '>', '>=', '&', '~', '||') and oprleft in ('oid'::regtype, '"char"'::regtype, 'text'::regtype, 'name'::regtype,
				'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype) loop
			execute format('create function shadows.f%s(%s, %s) returns %s language plpgsql as %L', o.oid, o.l, o.r, o.t, 'begin raise exception ''a shadow''; end');
			execute format('create operator shadows.%s (leftarg = %s, rightarg = %s, function = shadows.f%s)', o.oprname, o.l, o.r, o.oid);
		end loop;
		for o in select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind = 'r' loop
			execute format('create view shadows.%I as select 1 / 0 as x', o.relname);
		end loop;
		for o in select typname from pg_type where typname in ('oid', 'text', 'int4', 'int8', 'int2', 'char', 'name') and typnamespace = 'pg_catalog'::regnamespace loop
			execute format('create domain shadows.%I as pg_catalog.bool', o.typname);
		end loop;
	end $$`)
	mustExec(t, conn, "create function shadows.concat(text, text) returns text language plpgsql as 'begin raise exception ''a shadow''; end'")
	mustExec(t, conn, "create function shadows.pg_function_is_visible(pg_catalog.oid) returns bool language plpgsql as 'begin raise exception ''a shadow''; end'")
	defer mustExec(t, conn, "rollback")
	known := make(map[string]bool)
	mustExec(t, conn, "set local search_path = shadows, pg_catalog")
	for _, row := range cells(t, conn, pgx.QueryExecModeSimpleProtocol, postgres.CatalogQuery) {
		known[strings.Join(row, " ")] = true
	}
	for _, row := range want {
		switch row[0] {
		case "u", "o", "t", "p": // what is found without a schema
		default:
			if !known[strings.Join(row, " ")] {
				t.Errorf("%q is not found", row)
			}
		}
	}
}

// refusing makes a gate without masks, whose policy refuses code of users by name.
func refusing(g *gate) {
	g.masks = nil
	g.refuses = func(effects ...string) bool { return slices.Contains(effects, statement.UserFunction) }
	g.decide = deny(statement.UserFunction, policy.Unknown)
}

func TestARuleThatRefusesCodeOfUsersNeedsNoMask(t *testing.T) {
	for name, change := range map[string]func(*gate){
		"shared": refusing,
		"alone":  func(g *gate) { refusing(g); g.secret = nil },
	} {
		t.Run(name, func(t *testing.T) {
			g, conn := definitions(t, change)
			for _, sql := range []string{"insert into by_default (id) values (1)", "select * from shown", "select (b).fire from by_index b"} {
				_, err := conn.Exec(testContext(t), sql)
				wantCode(t, err, "42501")
			}
			wantOne(t, conn, "select ssn from by_trigger", "123-45-6789")
			wantOne(t, conn, "insert into plain default values returning (id + 1)::text", "2")
			wantOne(t, conn, "select count(*)::text from done", "0")
			if _, catalogs := g.asked(); catalogs == 0 {
				t.Error("the catalog was not read")
			}
		})
	}
}

func TestWithoutMasksAndSuchARuleTheCatalogIsNotRead(t *testing.T) {
	g, conn := definitions(t, func(g *gate) { g.masks = nil })
	mustExec(t, conn, "insert into by_default (id) values (1)")
	if dials, catalogs := g.asked(); dials != 1 || catalogs != 0 {
		t.Errorf("%d dials, %d catalogs", dials, catalogs)
	}
}

func TestWhatMayRunCodeIsUnknownWithoutACatalog(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *pgx.Conn{
		"shared": func(t *testing.T) *pgx.Conn {
			return mustConnect(t, sharing(t, func(g *gate) {
				refusing(g)
				g.allowDial = func(n int) error {
					if n > 1 {
						return errors.New("no room for another session")
					}
					return nil
				}
			}))
		},
		"alone": func(t *testing.T) *pgx.Conn {
			g := sharing(t, func(g *gate) { refusing(g); g.secret = nil })
			conn, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", "agent-password")+"&statement_timeout=1")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := conn.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := start(t)
			mustExec(t, conn, "set statement_timeout = 0")
			mustExec(t, conn, "begin")
			mustExec(t, conn, "rollback")
			wantOne(t, conn, "select 1::text", "1")
			_, err := conn.Exec(testContext(t), "select id from customers")
			wantCode(t, err, "42501")
			_, err = conn.Exec(testContext(t), "select lower('X')")
			wantCode(t, err, "42501")
		})
	}
}
