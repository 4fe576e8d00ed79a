package statement

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// rawConn speaks the simple protocol, so that a text may hold any statements.
type rawConn struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
}

// answer is everything that the server said to a text.
type answer struct {
	results []*resultSet
	code    string // of the error, if there was one
	message string
	status  byte
}

type column struct{ table, number string }

type resultSet struct {
	columns []column
	rows    [][]string
	copied  string
	tag     string
}

func (a *answer) tags() []string {
	var tags []string
	for _, r := range a.results {
		if r.tag != "" {
			tags = append(tags, r.tag)
		}
	}
	return tags
}

func dialRaw(t *testing.T, c *pgtest.Cluster, database string) *rawConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dsn := fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s sslmode=disable options='-c statement_timeout=5s -c jit=off'",
		c.Port, pgtest.Admin, pgtest.AdminPassword, database)
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	h, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	r := &rawConn{conn: h.Conn, frontend: h.Frontend}
	t.Cleanup(r.close)
	return r
}

func (r *rawConn) close() { _ = r.conn.Close() } // it ends with the test anyway

// exec runs a text and answers what it asks for.
func (r *rawConn) exec(t *testing.T, text string) *answer {
	t.Helper()
	if err := r.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r.frontend.Send(&pgproto3.Query{String: text})
	a, current := &answer{}, &resultSet{}
	for {
		if err := r.frontend.Flush(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		m, err := r.frontend.Receive()
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
			current.describe(m)
		case *pgproto3.DataRow:
			current.add(m)
		case *pgproto3.CopyInResponse:
			r.frontend.Send(&pgproto3.CopyData{Data: []byte("77\tseven\n")})
			r.frontend.Send(&pgproto3.CopyDone{})
		case *pgproto3.CopyData:
			current.copied += string(m.Data)
		case *pgproto3.CommandComplete:
			current.tag = string(m.CommandTag)
			a.results = append(a.results, current)
			current = &resultSet{}
		case *pgproto3.ErrorResponse:
			a.code, a.message = m.Code, m.Message
		case *pgproto3.ReadyForQuery:
			a.status = m.TxStatus
			return a
		}
	}
}

func (s *resultSet) describe(m *pgproto3.RowDescription) {
	for _, f := range m.Fields {
		s.columns = append(s.columns, column{strconv.Itoa(int(f.TableOID)), strconv.Itoa(int(f.TableAttributeNumber))})
	}
}

func (s *resultSet) add(m *pgproto3.DataRow) {
	row := make([]string, len(m.Values))
	for i, v := range m.Values {
		row[i] = string(v)
	}
	s.rows = append(s.rows, row)
}

// query returns the rows of a query that has to work.
func (r *rawConn) query(t *testing.T, text string) [][]string {
	t.Helper()
	a := r.exec(t, text)
	if a.code != "" {
		t.Fatalf("%s: %s", text, a.message)
	}
	return a.results[0].rows
}

// stateFunctions hash what a statement may change. They see everything, whoever
// asks, and name relations by OID. The rows of t count without the protected
// column under "open".
const stateFunctions = `
CREATE SCHEMA gauge;
GRANT USAGE ON SCHEMA gauge TO PUBLIC;
CREATE FUNCTION gauge.state() RETURNS TABLE (k text, h text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $f$
DECLARE r record; shown text;
BEGIN
  FOR r IN SELECT c.oid, c.relkind, c.oid::regclass::text AS name, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND c.oid >= 16384 AND n.nspname !~ '^pg_toast' AND n.nspname <> 'gauge' LOOP
    IF r.relkind = 'S' THEN
      RETURN QUERY EXECUTE format('SELECT %L, last_value::text || is_called FROM %s', 'sequence:' || r.oid, r.name);
      CONTINUE;
    END IF;
    IF r.relkind = 'm' AND NOT (SELECT relispopulated FROM pg_class WHERE oid = r.oid) THEN CONTINUE; END IF;
    RETURN QUERY EXECUTE format('WITH x AS MATERIALIZED (SELECT zz::text AS a, (to_jsonb(zz) - ''ssn'')::text AS b FROM ONLY %s zz)
      SELECT %L, coalesce(string_agg(a, chr(10) ORDER BY a), '''') FROM x UNION ALL SELECT %L, coalesce(string_agg(b, chr(10) ORDER BY b), '''') FROM x', r.name,
      'data:' || r.oid, CASE r.relkind WHEN 'm' THEN 'view:' ELSE 'open:' END || CASE WHEN r.relname ~ '^n' THEN r.relname ELSE r.oid::text END);
  END LOOP;
  RETURN QUERY
    SELECT 'catalog:pg_class', md5(coalesce(string_agg((to_jsonb(x) - '{relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_class x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_attribute', md5(coalesce(string_agg((to_jsonb(x) - '{attcacheoff}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_attribute x WHERE attrelid >= 16384 UNION ALL
    SELECT 'catalog:pg_proc', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_proc x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_type', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_type x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_namespace', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_namespace x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_trigger', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_trigger x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_rewrite', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_rewrite x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_policy', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_policy x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_constraint', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_constraint x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_enum', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_enum x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_operator', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_operator x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_cast', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_cast x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_publication', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_publication x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_statistic_ext', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_statistic_ext x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_attrdef', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_attrdef x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_default_acl', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_default_acl x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_event_trigger', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_event_trigger x WHERE oid >= 16384 UNION ALL
    SELECT 'catalog:pg_index', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_index x WHERE indexrelid >= 16384 UNION ALL
    SELECT 'catalog:pg_description', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_description x WHERE objoid >= 16384 UNION ALL
    SELECT 'catalog:pg_inherits', md5(coalesce(string_agg((to_jsonb(x) - '{}'::text[])::text, ',' ORDER BY to_jsonb(x)::text), '')) FROM pg_inherits x WHERE inhrelid >= 16384;
  RETURN QUERY SELECT 'catalog:rows', (SELECT count(*) FROM pg_description) || '/' || (SELECT count(*) FROM pg_class WHERE oid < 16384);
  RETURN QUERY SELECT 'roles', md5(string_agg(x::text, ',' ORDER BY x.rolname)) FROM pg_authid x;
  RETURN QUERY SELECT 'roles:members', md5(coalesce(string_agg(x::text, ',' ORDER BY x::text), '')) FROM pg_auth_members x;
  RETURN QUERY SELECT 'roles:settings', md5(coalesce(string_agg(x::text, ',' ORDER BY x::text), '')) FROM pg_db_role_setting x WHERE setdatabase = 0;
  RETURN QUERY SELECT 'locks', md5(coalesce(string_agg(l.objid::text || l.mode, ',' ORDER BY l.objid), '')) FROM pg_locks l WHERE l.locktype = 'advisory';
  RETURN QUERY SELECT 'objects', md5(coalesce(string_agg(x::text, ',' ORDER BY x::text), '')) FROM pg_largeobject x;
  RETURN QUERY SELECT 'objects:meta', md5(coalesce(string_agg(x::text, ',' ORDER BY x::text), '')) FROM pg_largeobject_metadata x;
END $f$;
`

const stateQuery = `SELECT * FROM gauge.state() UNION ALL
SELECT 'settings', pg_catalog.string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_catalog.pg_settings
  WHERE name !~ '^transaction_|^in_hot|^role$|^session_auth' UNION ALL
SELECT 'settings:my', coalesce(pg_catalog.current_setting('my.a', true), '') || '/' || coalesce(pg_catalog.current_setting('my.b', true), '') UNION ALL
SELECT 'user', current_user || '/' || session_user UNION ALL
SELECT 'prepared', coalesce((SELECT pg_catalog.string_agg(name || statement, ',') FROM pg_catalog.pg_prepared_statements), '') UNION ALL
SELECT 'cursors', coalesce((SELECT pg_catalog.string_agg(name, ',') FROM pg_catalog.pg_cursors WHERE name <> ''), '') UNION ALL
SELECT 'listening', coalesce((SELECT pg_catalog.string_agg(c, ',') FROM pg_catalog.pg_listening_channels() c), '')`
