package postgres_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headgate/headgate/pkg/mask"
)

func TestAConstantIsAValueOfTheColumnsType(t *testing.T) {
	need(t)
	for i, tc := range []struct{ typ, value, constant, want string }{
		{"bool", "true", "false", "false"},
		{"int2", "7", "0", "0"},
		{"int4", "700", "-12", "-12"},
		{"int8", "7000", "12345678901", "12345678901"},
		{"oid", "7", "42", "42"},
		{"float4", "1.5", "0.25", "0.25"},
		{"float8", "1.5", "-1e100", "-1e+100"},
		{"numeric", "1.5", "-123456789", "-123456789"},
		{"numeric(10,2)", "1.5", "0", "0.00"},
		{"date", "'2020-02-02'", "1970-01-01", "1970-01-01"},
		{"timestamp", "'2020-02-02'", "1970-01-01 01:02:03", "1970-01-01 01:02:03"},
		{"timestamptz", "'2020-02-02 00:00:00+00'", "1970-01-01", "1970-01-01 00:00:00+00"},
		{"uuid", "'00000000-0000-0000-0000-000000000001'", "FFFFFFFF-0000-0000-0000-000000000000", "ffffffff-0000-0000-0000-000000000000"},
		{"json", `'{"a":1}'`, `{"x":null}`, `{"x":null}`},
		{"jsonb", `'{"a":1}'`, `[]`, `[]`},
		{"bytea", `'\x01'`, `none`, `\x6e6f6e65`},
		{"text", "'secret'", "none", "none"},
		{"int4", "7", "none", "NULL"},
		{"int2", "7", "70000", "NULL"},
		{"bool", "true", "maybe", "NULL"},
		{"date", "'2020-02-02'", "soon", "NULL"},
		{"int4[]", "'{1,2}'", "1", "NULL"},
		{"inet", "'::1'", "::2", "NULL"},
	} {
		t.Run(tc.typ+" "+tc.constant, func(t *testing.T) {
			table := fmt.Sprintf("constants_%d", i)
			if _, err := shared.server.Exec(testDatabase, "create table "+table+" (v "+tc.typ+"); grant select on "+table+
				" to agent; insert into "+table+" values ("+tc.value+")"); err != nil {
				t.Fatal(err)
			}
			g := newGate(t, func(g *gate) {
				g.masks = mustMask(t, mask.Rule{Name: "m", Columns: []string{"public." + table + ".v"}, With: "constant", Constant: tc.constant})
			})
			conn, err := pgconn.Connect(t.Context(), dsn(g.addr, "agent", "agent-password")+"&timezone=UTC")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			for _, format := range []int16{0, 1} {
				r := conn.ExecParams(t.Context(), "select v from "+table, nil, nil, nil, []int16{format}).Read()
				if r.Err != nil {
					t.Fatal(r.Err)
				}
				// The server reads the value again: it refuses what is none of the type.
				back := conn.ExecParams(t.Context(), "select $1::"+tc.typ+"::text", r.Rows[0], nil, []int16{format}, nil).Read()
				if back.Err != nil {
					t.Fatalf("format %d: %v", format, back.Err)
				}
				got := "NULL"
				if value := back.Rows[0][0]; value != nil {
					got = string(value)
				}
				if got != tc.want {
					t.Errorf("format %d: %s, want %s", format, got, tc.want)
				}
			}
		})
	}
}
