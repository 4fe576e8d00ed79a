package postgres_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
)

// copied runs a COPY TO STDOUT and returns its data.
func copied(tb testing.TB, conn *pgx.Conn, sql string) (string, error) {
	tb.Helper()
	var out bytes.Buffer
	_, err := conn.PgConn().CopyTo(testContext(tb), &out, sql)
	return out.String(), err
}

// mustDirect connects to the real server, past the gate, with all rights.
func mustDirect(tb testing.TB) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(testContext(tb), dsn(need(tb), superuser, adminPassword))
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

func TestTheDataOfACopyIsMasked(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	for sql, want := range map[string]string{
		"copy customers to stdout": "1\tAda Lovelace\tada@example.com\t[redacted]\t4111 1111 1111 1111\t12.5\n" +
			"2\tGrace Hopper\tgrace@example.com\t[redacted]\t5500 0000 0000 0004\t99\n3\tAlan Turing\t\\N\t\\N\t\\N\t\\N\n",
		"copy customers (ssn, id) to stdout":                                                  "[redacted]\t1\n[redacted]\t2\n\\N\t3\n",
		"copy customers (name, ssn) to stdout (format csv, header, force_quote *)":            "name,ssn\n\"Ada Lovelace\",\"[redacted]\"\n\"Grace Hopper\",\"[redacted]\"\n\"Alan Turing\",\n",
		"copy customers (ssn) to stdout (header)":                                             "ssn\n[redacted]\n[redacted]\n\\N\n",
		"copy public.customers (id, ssn) to stdout with csv null 'none'":                      "1,[redacted]\n2,[redacted]\n3,none\n",
		"copy customers (id, ssn) to stdout (delimiter '[')":                                  "1[\\[redacted]\n2[\\[redacted]\n3[\\N\n",
		"copy customers (id, ssn) to stdout (format csv, delimiter '[')":                      "1[\"[redacted]\"\n2[\"[redacted]\"\n3[\n",
		"copy customers (id, ssn) to stdout (null '123-45-6789')":                             "1\t[redacted]\n2\t[redacted]\n3\t[redacted]\n",
		"copy (select id, ssn as harmless from customers order by id) to stdout":              "1\t[redacted]\n2\t[redacted]\n3\t\\N\n",
		"copy (select id, ssn || '' from customers order by id) to stdout":                    "1\t[redacted]\n2\t[redacted]\n3\t\\N\n",
		"copy (select id, upper(name) from customers where ssn like '1%') to stdout":          "1\tADA LOVELACE\n",
		"copy (select number from people2 order by 1) to stdout":                              "[redacted]\n[redacted]\n\\N\n",
		"copy (select whole from rows_of limit 1) to stdout":                                  "\\N\n",
		"copy (select c from customers c limit 1) to stdout":                                  "\\N\n",
		"copy (select row_to_json(c) from customers c limit 1) to stdout csv":                 "\n",
		"copy (select array_agg(ssn) from customers) to stdout":                               "\\N\n",
		"copy (select s from people3 order by 1) to stdout":                                   "[redacted]\n[redacted]\n\\N\n",
		"copy (table customers limit 0) to stdout csv header":                                 "id,name,email,ssn,card,balance\n",
		"copy (with x as (select ssn from customers) select ssn from x order by 1) to stdout": "[redacted]\n[redacted]\n\\N\n",
		"copy (select) to stdout":                                                             "\n",
		"copy (select 1 as \"a\nb\", 2) to stdout csv header":                                 "\"a\nb\",?column?\n1,2\n",
		"copy parted_1 to stdout":                                                             "1\t[redacted]\n",
		"copy (select ssn, leak() from customers where id = 1) to stdout":                     "[redacted]\t[redacted]\n",
	} {
		got, err := copied(t, conn, sql)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
	}
}

func TestTheRowsThatAWriteReturnsToACopyAreMasked(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	for sql, want := range map[string]string{
		"copy (update customers set name = name where id = 1 returning ssn as x, id) to stdout":               "[redacted]\t1\n",
		"copy (insert into customers (id, name, ssn) values (9, 'x', 'y') returning ssn || '', id) to stdout": "[redacted]\t9\n",
		"copy (delete from customers where id = 1 returning customers) to stdout csv":                         "\n",
		"copy (delete from customers where id = 2 returning id, ssn) to stdout csv":                           "2,[redacted]\n",
	} {
		mustExec(t, conn, "begin")
		got, err := copied(t, conn, sql)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
		mustExec(t, conn, "rollback")
	}
}

func TestDetectorsLookIntoTheDataOfACopy(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.masks = mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan", "email"}, With: "redact"})
	})
	conn := mustConnect(t, g)
	for sql, want := range map[string]string{
		"copy (select id, email, card from customers order by id limit 1) to stdout":      "1\t[redacted]\t[redacted]\n",
		`copy (select e'a\tb\\ ada@example.com \n') to stdout`:                            "a\\tb\\\\ [redacted] \\n\n",
		`copy (select e'x"y, ada@example.com\n') to stdout csv`:                           "\"x\"\"y, [redacted]\n\"\n",
		`copy (select 4111111111111111::int8, '{"a":"ada@example.com"}'::json) to stdout`: "\\N\t{\"a\":\"[redacted]\"}\n",
		`copy (select array['ada@example.com'], 7) to stdout`:                             "\\N\t7\n",
	} {
		got, err := copied(t, conn, sql)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
	}
}

func TestDetectorsSeeThroughTheBinaryFormatOfACopy(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"}) })
	conn := mustConnect(t, g)
	const null = "\xff\xff\xff\xff"
	for sql, want := range map[string]string{
		"select 4111111111111111::int8, 4111111111111111::numeric, '4111111111111111'::bytea": null + null + null,
		`select '{"a": 4111111111111111}'::jsonb, 7::int8`:                                    null + "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07",
		`select '{"a": "4111111111111111"}'::jsonb`:                                           "\x00\x00\x00\x14\x01" + `{"a": "[redacted]"}`,
	} {
		got, err := copied(t, conn, "copy ("+sql+") to stdout (format binary)")
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		if row := got[19+2 : len(got)-2]; row != want {
			t.Errorf("%s: got %q, want %q", sql, row, want)
		}
	}
}

func TestACopyOutsideOfASimpleQueryIsRefusedWhileMasksApply(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	const alone = "sent alone, as a simple query"
	_, err := conn.PgConn().ExecParams(testContext(t), "copy customers to stdout", nil, nil, nil, nil).Close()
	if e := pgError(t, err, "42501"); !strings.Contains(e.Message, alone) {
		t.Errorf("extended: %s", e.Message)
	}
	_, err = conn.PgConn().Exec(testContext(t), "select 1; copy customers to stdout").ReadAll()
	if e := pgError(t, err, "42501"); !strings.Contains(e.Message, alone) {
		t.Errorf("several: %s", e.Message)
	}
	got := script(t, conn, 2, &pgproto3.Parse{Query: "insert into notes (body) values ('not kept')"}, &pgproto3.Bind{}, &pgproto3.Execute{},
		&pgproto3.Query{String: "copy customers to stdout"}, &pgproto3.Sync{})
	if got != "1 2 C(INSERT 0 1) E42501 ZI ZI" {
		t.Errorf("behind a pipeline without a Sync: %s", got)
	}
	if kept := cells(t, conn, pgx.QueryExecModeSimpleProtocol, "select 1 from notes where body = 'not kept'"); len(kept) > 0 {
		t.Error("what was in front of the refused COPY was committed")
	}
	_, err = copied(t, conn, "copy customers to stdout (encoding 'latin1')")
	if e := pgError(t, err, "42501"); !strings.Contains(e.Message, "encoding") {
		t.Errorf("encoding: %s", e.Message)
	}
}
