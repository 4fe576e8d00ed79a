package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// leakSchema holds functions and a trigger that tell what they see.
const leakSchema = `
create or replace function zz(c customers) returns text language sql as 'select c.ssn';
create or replace function "json_scalar"(c text) returns text language sql as 'select ssn from customers where id = 1';
create or replace function gamma(c int) returns text language sql as 'select ssn from customers where id = 1';
create or replace function tell() returns trigger language plpgsql as $$
 declare s text; begin select ssn into s from customers where id = 1;
 raise exception using errcode = '42000', message = s, table = s, hint = s; end $$;
create table if not exists told (id int);
create or replace trigger tells before insert on told for each row execute function tell();
grant all on told to agent;`

func TestNoWayAroundTheMaskOfAColumn(t *testing.T) {
	need(t)
	if out, err := shared.server.Exec(testDatabase, leakSchema); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, keptRule()) })
	conn := mustConnect(t, g)
	for sql, code := range map[string]string{
		"select c.record_out::text from customers c where id = 1":                                            "",
		"select c.record_out from customers c where id = 1":                                                  "",
		"select (c).record_out from customers c where id = 1":                                                "",
		"select (customers.*).record_out from customers where id=1":                                          "",
		"select c.hash_record from customers c where id = 1":                                                 "",
		"select c.zz from customers c where id = 1":                                                          "",
		"select s.zz from (select c.zz from customers c) s limit 1":                                          "",
		"select json_scalar('x')":                                                                            "",
		"select gamma(1)":                                                                                    "",
		"select ssn::regclass from customers where id = 1":                                                   "42P01",
		"select ('\"'||ssn||'\"')::regclass from customers":                                                  "42P01",
		"select 1 from customers where ('\"'||ssn||'\"')::regrole>0":                                         "42704",
		"select current_setting('x.y'||ssn) from customers":                                                  "42704",
		"select chr(2000000000 + substr(ssn,1,3)::int) from customers where id = 1":                          "54000",
		"select get_byte('a'::bytea, replace(ssn,'-','')::int) from customers where id = 1":                  "2202E",
		"select make_date(2020,1,replace(ssn,'-','')::int) from customers where id = 1":                      "22008",
		"select has_column_privilege('customers', ssn, 'select') from customers where id = 1":                "42703",
		"select to_tsquery('a b '||ssn) from customers where id = 1":                                         "42601",
		"select date_part(ssn, now()) from customers where id = 1":                                           "22023",
		"insert into told values (1)":                                                                        "42000",
		"select 1 from customers where id=1 and set_config('my.x', ssn, false) is not null":                  "42501",
		"select pg_try_advisory_lock(replace(ssn,'-','')::int) from customers where id = 1":                  "42501",
		"select set_config('my.x', (select string_agg(s.y, '') from (select ssn y from customers) s), true)": "42501",
	} {
		rows, err := conn.Query(testContext(t), sql, pgx.QueryExecModeSimpleProtocol)
		var told strings.Builder
		for err == nil && rows.Next() {
			for _, raw := range rows.RawValues() {
				told.Write(raw)
			}
		}
		if err == nil {
			err = rows.Err()
		}
		var e *pgconn.PgError
		if errors.As(err, &e) {
			told.WriteString(strings.Join([]string{e.Message, e.Detail, e.Hint, e.Where, e.TableName, e.InternalQuery}, "|"))
		} else if err != nil {
			t.Fatalf("%s: %v", sql, err)
		} else {
			e = &pgconn.PgError{}
		}
		if e.Code != code {
			t.Errorf("%s: SQLSTATE %q, want %q: %s", sql, e.Code, code, told.String())
		}
		for _, secret := range []string{secretNumber, "123456789", "2000000123", "987-65"} {
			if strings.Contains(told.String(), secret) {
				t.Errorf("%s: the agent was told %s", sql, told.String())
			}
		}
		if strings.Contains(sql, "hash_record") && told.Len() > 0 {
			t.Errorf("%s: the agent was told %s", sql, told.String())
		}
	}
}
