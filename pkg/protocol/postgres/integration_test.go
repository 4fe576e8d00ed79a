package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headgate/headgate/pkg/mask"
)

func mustConnect(tb testing.TB, g *gate) *pgx.Conn {
	tb.Helper()
	ctx := testContext(tb)
	conn, err := pgx.Connect(ctx, dsn(g.addr, "agent", "agent-password"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return conn
}

func mustExec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(testContext(tb), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// cells runs sql and returns all of its cells as text; NULL as "NULL".
func cells(tb testing.TB, conn *pgx.Conn, mode pgx.QueryExecMode, sql string) [][]string {
	tb.Helper()
	rows, err := conn.Query(testContext(tb), sql, mode)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	var all [][]string
	for rows.Next() {
		var line []string
		for _, raw := range rows.RawValues() {
			if raw == nil {
				line = append(line, "NULL")
			} else {
				line = append(line, string(raw))
			}
		}
		all = append(all, line)
	}
	if err := rows.Err(); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return all
}

var modes = map[string]pgx.QueryExecMode{
	"simple":   pgx.QueryExecModeSimpleProtocol,
	"exec":     pgx.QueryExecModeExec,
	"describe": pgx.QueryExecModeDescribeExec,
	"cached":   pgx.QueryExecModeCacheStatement,
}

func TestEveryModeOfADriverWorks(t *testing.T) {
	g := newGate(t, nil)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			for range 3 {
				got := cells(t, conn, mode, "select name, ssn from customers order by id")
				want := [][]string{{"Ada Lovelace", "123-45-6789"}, {"Grace Hopper", "987-65-4321"}, {"Alan Turing", "NULL"}}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("rows (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func ssnRule() mask.Rule {
	// What may be stored elsewhere is a matter of tests of its own.
	return mask.Rule{Name: "ssn", Columns: []string{"public.*.ssn"}, With: "redact", AllowCopies: true}
}

func TestProtectedColumnsAreMaskedHoweverTheyAreAskedFor(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	queries := map[string]bool{ // whether the name may be shown beside it
		"select name, ssn from customers":                                                            true,
		"select name, ssn as x from customers":                                                       true,
		"select * from customers":                                                                    true,
		"select ssn || '' from customers":                                                            false,
		"select c from customers c":                                                                  false,
		"select row_to_json(c) from customers c":                                                     false,
		"select to_jsonb(c) from customers c":                                                        false,
		"select number from people":                                                                  true,
		"select number from people2":                                                                 true,
		"select whole from rows_of":                                                                  true,
		"select s from people3":                                                                      true,
		"with x as (select ssn from customers) select ssn from x":                                    true,
		"select ssn from (select ssn from customers) y":                                              true,
		"select ssn from customers union all select name from customers":                             false,
		"select ssn from customers union select ssn from customers":                                  false,
		"update customers set name = name returning ssn":                                             true,
		"select array_agg(ssn) from customers":                                                       false,
		"select string_agg(ssn, ',') from customers":                                                 false,
		"select (select ssn from customers where id = 1)":                                            false,
		"select ssn from parted":                                                                     true,
		"select ssn from parted_1":                                                                   true,
		"select leak()":                                                                              false,
		"select query_to_xml('select ssn from customers', false, false, '')":                         false,
		"select most_common_vals, histogram_bounds from pg_stats where attname = 'ssn'":              true,
		"select x.a from (select c.*::text as a from customers c) x":                                 false,
		"select d || '' from customers as t(a, b, c, d, e, f)":                                       false,
		"select number || '' from people":                                                            false,
		"select p.number || '' from people2 p":                                                       false,
		"select ''||s from people3":                                                                  false,
		"select (c).ssn from (select c from customers c) y":                                          false,
		"select (y.c).ssn || 'x' from (select c from customers c) y":                                 false,
		"select x.ssn from customers c, lateral (select c.ssn) x":                                    true,
		"select v from customers c, unnest(array[c.ssn]) v":                                          true,
		"select e.value from customers c, jsonb_each_text(to_jsonb(c)) e":                            true,
		"select e from customers c, jsonb_each_text(to_jsonb(c)) e":                                  true,
		"values ((select ssn from customers where id = 1))":                                          true,
		"explain (costs off) select ssn from customers where ssn = '123-45-6789'":                    true,
		"table customers":                                                                            true,
		"select coalesce(ssn, 'none'), case when true then ssn end, max(ssn) over () from customers": false,
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			for sql := range queries {
				for range 2 {
					rows, err := conn.Query(testContext(t), sql, mode)
					if err != nil {
						t.Fatalf("%s: %v", sql, err)
					}
					n := 0
					for rows.Next() {
						n++
						for _, raw := range rows.RawValues() {
							if strings.Contains(string(raw), "123-45-6789") || strings.Contains(string(raw), "987-65-4321") {
								t.Errorf("%s: %q reached the agent", sql, raw)
							}
						}
					}
					rows.Close()
					if err := rows.Err(); err != nil && !strings.Contains(sql, "*::text") {
						t.Errorf("%s: %v", sql, err)
					}
					if n == 0 && !strings.Contains(sql, "pg_stats") && !strings.Contains(sql, "people3") && !strings.Contains(sql, "*::text") {
						t.Errorf("%s: no rows", sql)
					}
				}
			}
		})
	}
}

func TestWhatIsNotProtectedIsShown(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			for sql, want := range map[string][][]string{
				"select name, ssn from customers where id = 1":   {{"Ada Lovelace", "[redacted]"}},
				"select name from names_only where id = 2":       {{"Grace Hopper"}},
				"select count(*)::text from customers":           {{"3"}},
				"select upper(name) from customers where id = 1": {{"ADA LOVELACE"}},
				"select ssn from customers where id = 3":         {{"NULL"}},
				"show server_encoding":                           {{"UTF8"}},
			} {
				got := cells(t, conn, mode, sql)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", sql, diff)
				}
			}
		})
	}
}

func count(tb testing.TB, body string) int {
	tb.Helper()
	ctx := testContext(tb)
	conn, err := pgx.Connect(ctx, dsn(need(tb), superuser, adminPassword))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	var n int
	if err := conn.QueryRow(ctx, "select count(*) from notes where body = $1", body).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestABlockedParseRollsBackThePipelineInFrontOfIt(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("drop") })
	conn := mustConnect(t, g)
	batch := &pgconn.Batch{}
	batch.ExecParams("insert into notes (body) values ('case B')", nil, nil, nil, nil)
	batch.ExecParams("drop table notes", nil, nil, nil, nil)
	batch.ExecParams("insert into notes (body) values ('case B')", nil, nil, nil, nil)
	_, err := conn.PgConn().ExecBatch(testContext(t), batch).ReadAll()
	e := pgError(t, err, "42501")
	if !strings.Contains(e.Message, "no-drop") || !strings.Contains(e.Hint, "op-") || e.Position != 0 {
		t.Errorf("refusal is %+v", e)
	}
	if n := count(t, "case B"); n != 0 {
		t.Errorf("%d rows were committed", n)
	}
	mustExec(t, conn, "select 1")
}

func TestABlockedExecuteRollsBackThePipelineInFrontOfIt(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	ctx := testContext(t)
	if _, err := conn.PgConn().Prepare(ctx, "gone", "delete from notes", nil); err != nil {
		t.Fatal(err)
	}
	g.set(func() { g.decide = deny("delete") })
	batch := &pgconn.Batch{}
	batch.ExecParams("insert into notes (body) values ('case C')", nil, nil, nil, nil)
	batch.ExecPrepared("gone", nil, nil, nil)
	_, err := conn.PgConn().ExecBatch(ctx, batch).ReadAll()
	wantCode(t, err, "42501")
	if n := count(t, "case C"); n != 0 {
		t.Errorf("%d rows were committed", n)
	}
	mustExec(t, conn, "select 1")
}

func TestABlockedQueryAbortsTheTransactionAsAnErrorDoes(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("drop") })
	conn := mustConnect(t, g)
	ctx := testContext(t)
	simple := pgx.QueryExecModeSimpleProtocol
	mustExec(t, conn, "begin", simple)
	mustExec(t, conn, "insert into notes (body) values ('case D')", simple)
	_, err := conn.Exec(ctx, "drop table notes", simple)
	wantCode(t, err, "42501")
	if s := conn.PgConn().TxStatus(); s != 'E' {
		t.Errorf("transaction status is %c, want E", s)
	}
	_, err = conn.Exec(ctx, "select 1", simple)
	wantCode(t, err, "25P02")
	if tag, err := conn.Exec(ctx, "commit", simple); err != nil || tag.String() != "ROLLBACK" {
		t.Errorf("commit says %q, %v", tag, err)
	}
	if n := count(t, "case D"); n != 0 {
		t.Errorf("%d rows were committed", n)
	}
}

func TestASavepointSurvivesABlockedStatement(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("drop") })
	conn := mustConnect(t, g)
	mustExec(t, conn, "begin")
	mustExec(t, conn, "insert into notes (body) values ('case F')")
	mustExec(t, conn, "savepoint s")
	_, err := conn.Exec(testContext(t), "drop table notes")
	wantCode(t, err, "42501")
	mustExec(t, conn, "rollback to s")
	mustExec(t, conn, "commit")
	if n := count(t, "case F"); n != 1 {
		t.Errorf("%d rows were committed, want 1", n)
	}
}

func TestCopyDataBehindABlockedCopyIsIgnored(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("copy_in") })
	conn := mustConnect(t, g)
	ctx := testContext(t)
	_, err := conn.PgConn().CopyFrom(ctx, strings.NewReader("1\tx\n"), "copy notes from stdin")
	wantCode(t, err, "42501")
	mustExec(t, conn, "select 1")
	f := conn.PgConn().Frontend()
	f.Send(copyDataOf("stray"))
	f.Send(copyDoneOf())
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "select 1")
}
