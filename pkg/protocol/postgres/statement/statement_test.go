package statement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pg "github.com/pganalyze/pg_query_go/v6"
)

// effectsOf joins the effects of every statement: "select; ddl drop".
func effectsOf(text string) string {
	var all []string
	for _, s := range Parse(text) {
		all = append(all, strings.Join(s.Effects, " "))
	}
	return strings.Join(all, "; ")
}

func TestEffectsNameEverythingThatAStatementDoes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		// Plain work needs one word.
		{`SELECT lower(name), count(*) FROM t`, "select"},
		{`SELECT * FROM a LEFT JOIN b USING (id) WHERE a.x BETWEEN 1 AND 2 ORDER BY 1 LIMIT 5`, "select"},
		{`SELECT extract(year FROM now()), position('a' IN b), trim(b), CAST(b AS int), coalesce(a, 1), a IN (1, 2), b SIMILAR TO 'x', b AT TIME ZONE 'utc', b LIKE 'x' FROM t`, "select"},
		{`SELECT n.nspname FROM pg_catalog.pg_class c, pg_namespace n WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default`, "select"},
		{`SELECT (information_schema._pg_expandarray(i.indkey)).n FROM pg_index i`, "select"},
		{`TABLE t`, "select"},
		{`VALUES (1), (2)`, "select"},
		{`INSERT INTO t VALUES (1, now())`, "insert"},
		{`INSERT INTO t DEFAULT VALUES`, "insert"},
		{`UPDATE t SET a = 1 WHERE id = 2`, "update"},
		{`DELETE FROM t WHERE id = 2`, "delete"},

		// Ways around a filter that reads text.
		{`DROP/**/TABLE t`, "ddl drop"},
		{"/* x */ -- c\nDELETE FROM t", "delete"},
		{`/* a /* nested */ SELECT 1 */ DROP TABLE t`, "ddl drop"},
		{`SELECT 1; DROP TABLE t`, "select; ddl drop"},
		{`WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d`, "delete select"},
		{`SELECT * FROM (WITH i AS (INSERT INTO t SELECT 1) SELECT 1) x`, "insert select"},
		{`DELETE FROM t /* where */`, "delete"},
		{`SELECT E'\'; DROP TABLE x; --'`, "select"},
		{`SELECT '\'; DROP TABLE x; --'`, "select; ddl drop"},
		{`SELECT $a$ '; $a$; TRUNCATE t`, "select; truncate"},
		{`SELECT $$; DROP TABLE t; $$`, "select"},
		{`DELETE FROM U&"d\0061t\+000061"`, "delete"},
		{`SELECT U&'d\0061t'; DELETE FROM t`, "select; delete"},
		{`/*!50000 DROP TABLE x*/`, "empty"},
		{`DO $$ BEGIN EXECUTE 'drop ' || 'table t'; END $$`, "do opaque"},
		{`CALL p(1)`, "call opaque"},
		{`SELECT purge()`, "opaque select user_function"},
		{`SELECT public.lower('x')`, "opaque select user_function"},
		{`SELECT 1 FROM t WHERE "purge"()`, "opaque select user_function"},
		{`SELECT a OPERATOR(s.+) b FROM t`, "opaque select user_function"},
		{`SELECT a @@@@ b FROM t`, "opaque select user_function"},
		{`SELECT * FROM t ORDER BY a USING OPERATOR(s.<)`, "opaque select user_function"},
		{`SELECT * FROM t TABLESAMPLE own(1)`, "opaque select user_function"},
		{`SELECT query_to_xml('delete from t', true, true, '')`, "opaque select"},
		{`PREPARE p AS DELETE FROM t`, "delete prepare"},
		{`EXECUTE p(purge())`, "execute opaque user_function"},
		{`EXPLAIN ANALYZE DELETE FROM t`, "delete explain"},
		{`EXPLAIN (ANALYZE) DELETE FROM t`, "delete explain"},
		{`EXPLAIN (ANALYZE off, ANALYZE 1) DELETE FROM t`, "delete explain"},
		{`EXPLAIN (ANALYZE false) DELETE FROM t`, "explain"},
		{`EXPLAIN SELECT purge()`, "explain opaque user_function"},
		{`EXPLAIN EXECUTE p`, "execute explain"},
		{`COPY (DELETE FROM t RETURNING *) TO STDOUT`, "copy_out delete select"},
		{`COPY t TO STDOUT`, "copy_out select"},
		{`COPY t FROM STDIN`, "copy_in insert"},
		{`COPY t TO PROGRAM 'sh'`, "copy_program select"},
		{`COPY t FROM PROGRAM 'sh'`, "copy_program insert"},
		{`COPY t FROM '/etc/passwd'`, "copy_file insert"},
		{`SELECT * INTO x FROM t`, "ddl select"},
		{`CREATE TABLE x AS SELECT * FROM t`, "ddl select"},
		{`CREATE TABLE x AS EXECUTE p`, "ddl execute select"},
		{`DECLARE c CURSOR FOR SELECT purge()`, "declare opaque select user_function"},
		{`SELECT * FROM t FOR UPDATE`, "lock select"},
		{`MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)`, "delete insert merge select"},
		{`INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1 RETURNING id`, "insert select update"},
		{`UPDATE t SET a = u.a FROM u`, "select update"},
		{`UPDATE t SET a = (SELECT ssn FROM u)`, "select update"},
		{`DELETE FROM t USING u`, "delete select"},

		// Definitions and rights.
		{`DROP DATABASE prod`, "ddl drop drop_database"},
		{`ALTER TABLE t DROP COLUMN c`, "ddl drop"},
		{`ALTER TABLE t OWNER TO me`, "dcl ddl"},
		{`ALTER TABLE t DISABLE ROW LEVEL SECURITY`, "dcl ddl"},
		{`DROP POLICY p ON t`, "dcl ddl drop"},
		{`DROP ROLE r`, "dcl drop"},
		{`ALTER ROLE a RENAME TO b`, "dcl ddl"},
		{`GRANT SELECT ON t TO r`, "dcl"},
		{`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r`, "dcl"},
		{`CREATE SCHEMA s CREATE TABLE t (a int) GRANT SELECT ON t TO r`, "dcl ddl"},
		{`CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM u`, "code ddl"},
		{`CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`, "code ddl"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM t; SELECT 1; END`, "code ddl"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x'`, "code ddl system"},
		{`CREATE CAST (a AS b) WITH FUNCTION f(a)`, "code ddl"},
		{`CREATE OPERATOR + (LEFTARG = a, FUNCTION = f)`, "code ddl"},
		{`CREATE AGGREGATE a (int) (SFUNC = f, STYPE = int)`, "code ddl"},
		{`CREATE COLLATION c FROM "C"`, "ddl"},
		{`ALTER FUNCTION f RENAME TO g`, "code ddl"},
		{`CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION f()`, "code ddl"},
		{`CREATE VIEW v AS SELECT purge()`, "ddl"},
		{`ALTER TABLE t ADD c int DEFAULT purge()`, "ddl opaque user_function"},
		{`CREATE EXTENSION dblink`, "ddl opaque"},
		{`CREATE SUBSCRIPTION s CONNECTION 'host=evil' PUBLICATION p`, "ddl system"},
		{`CREATE FOREIGN TABLE t (a int) SERVER s`, "ddl system"},
		{`TRUNCATE t`, "truncate"},

		// Functions that do more than compute.
		{`SELECT pg_read_file('/etc/passwd')`, "opaque select system"},
		{`SELECT * FROM pg_ls_dir('.')`, "select system"},
		{`SELECT lo_export(1, '/tmp/x')`, "select system"},
		{`SELECT pg_terminate_backend(1)`, "select system"},
		{`SELECT x.dblink_exec('', 'drop table t')`, "opaque select system user_function"},
		{`SELECT nextval('s'), pg_advisory_lock(1), pg_notify('a', 'b')`, "lock notify select sequence"},
		{`LOAD 'x'`, "system"},
		{`ALTER SYSTEM SET work_mem = 1`, "set system"},

		// The session.
		{`BEGIN; SAVEPOINT a; ROLLBACK TO a; COMMIT`, "transaction; transaction; transaction; transaction"},
		{`SET TRANSACTION READ WRITE`, "transaction"},
		{`SET ROLE admin`, "set_role"},
		{`SET SESSION AUTHORIZATION admin`, "set_role"},
		{`RESET ROLE`, "set_role"},
		{`SET role TO admin`, "set_role"},
		{`SELECT set_config('Role', 'admin', false)`, "select set_role"},
		{`SET work_mem = '1MB'`, "set"},
		{`RESET ALL`, "set"},
		{`SHOW ALL`, "show"},
		{`DISCARD ALL`, "discard"},
		{`SET session_replication_role = replica`, "set_unsafe"},
		{`VACUUM FULL t`, "maintenance"},
		{`LISTEN a; UNLISTEN a; NOTIFY a`, "listen; listen; notify"},
		{`LOCK TABLE t`, "lock"},
		{`FETCH 1 FROM c; CLOSE c; DEALLOCATE p`, "fetch; fetch; prepare"},
		{`;`, "empty"},
		{"", "empty"},
		{" \t\r\n; -- x\n/* /* y */ z */", "empty"},
	} {
		if got := effectsOf(c.text); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestWhatChangesTheMeaningOfTextIsUnknown(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`SET standard_conforming_strings = off`, "unknown"},
		{`SET LOCAL "Standard_Conforming_Strings" = 0`, "unknown"},
		{`SET standard_conforming_strings = on`, "set"},
		{`SET standard_conforming_strings = 'true'`, "set"},
		{`RESET standard_conforming_strings`, "set"},
		{`SET NAMES 'sjis'`, "unknown"},
		{`SET client_encoding = 'UTF-8'`, "set"},
		{`SET client_encoding TO unicode`, "set"},
		{`SET client_encoding = sql_ascii`, "unknown"},
		{`ALTER ROLE me SET client_encoding = big5`, "dcl unknown"},
		{`ALTER DATABASE d SET standard_conforming_strings = off`, "ddl unknown"},
		{`SET search_path = a, public`, "set"},
		{`SET search_path = public, "pg_catalog"`, "unknown"},
		{`SELECT set_config('search_path', '', false)`, "select set"},
		{`SELECT set_config('search_path', 'evil, pg_catalog', false)`, "select unknown"},
		{`SELECT set_config('search_path', x, false) FROM t`, "select unknown"},
		{`SELECT set_config('standard_' || 'conforming_strings', 'off', false)`, "select unknown"},
		{`SELECT set_config($1, 'off', false)`, "select unknown"},
		{`SELECT set_config(name, 'view', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'`, "select set_unsafe"},
		{`SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'search_path'`, "select set"},
		{`SELECT set_config(name, 'evil, pg_catalog', false) FROM pg_settings WHERE name = 'search_path'`, "select unknown"},
		{`SELECT set_config(name, '', false) FROM pg_settings WHERE name <> 'search_path'`, "select unknown"},
		{`SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'search_path' OR true`, "select unknown"},
		{`SELECT set_config(name, '', false) FROM pg_settings, t WHERE name = 'search_path'`, "select unknown"},
		{`SELECT set_config(name, '', false) FROM pg_settings AS s (a, name) WHERE name = 'search_path'`, "select unknown"},
		{`SELECT set_config(name, '', false) FROM t WHERE name = 'search_path'`, "select unknown"},
		{`SELECT set_config(x, '', false) FROM pg_settings WHERE name = 'search_path'`, "select unknown"},
		{`SELECT (SELECT set_config(name, '', false) FROM t) FROM pg_settings WHERE name = 'search_path'`, "select unknown"},
		{`SELECT 1 FROM pg_settings WHERE name = set_config(name, '', false)`, "select unknown"},
		{`SELECT pg_catalog.set_config('app.user', $1, true)`, "select set"},
		{`UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'`, "unknown update"},
		{`SET escape_string_warning = off`, "set"},
	} {
		if got := effectsOf(c.text); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestTextThatIsNotUnderstoodIsOneUnknownStatement(t *testing.T) {
	for name, text := range map[string]string{
		"syntax error":            `SELEC 1`,
		"second statement broken": `SELECT 1; SELEC 1`,
		"unterminated comment":    `/* SELECT 1`,
		"half-open nested":        `/* /* */`,
		"unterminated string":     `SELECT 'x`,
		"unterminated dollar":     `SELECT $a$ x $b$`,
		"NUL":                     "SELECT 1\x00; DROP TABLE t",
		"NUL alone":               "\x00",
		"invalid UTF-8":           "SELECT '\xff'",
		"space of another script": "\u00a0",
		"oversize":                "/*" + strings.Repeat("x", 9<<20) + "*/ DROP TABLE t",
		"vertical tab":            "\v",
		"oversize blank":          strings.Repeat(" ", 2<<20),
		"too many tokens":         "SELECT 1" + strings.Repeat(",1", maxTokens+1),
		"too many statements":     strings.Repeat("BEGIN;", maxStatements+1),
	} {
		got := Parse(text)
		if len(got) != 1 || got[0].Verb != Unknown || !slices.Equal(got[0].Effects, []string{Unknown}) || got[0].Reason == "" {
			t.Errorf("%s: %.200v", name, got)
		}
		if len(got[0].Text) > DefaultMaxText {
			t.Errorf("%s keeps %d bytes of text", name, len(got[0].Text))
		}
	}
	if got := Parse("/*" + strings.Repeat("x", 9<<20) + "*/ DROP TABLE t")[0].Reason; got != "oversize" {
		t.Errorf("reason %q", got)
	}
}

func TestZeroValueDenies(t *testing.T) {
	var s Statement
	var none *Statement
	var p *Parser
	nothing := func(string) bool { return false }
	if !s.Does(Drop) || !none.Does(Drop) || !s.MayReveal(nothing) || !none.MayReveal(nothing) || !s.MayCopy(nothing) {
		t.Error("a zero Statement is harmless")
	}
	for _, p := range []*Parser{p, {}} {
		if got := p.Parse("SELECT 1"); len(got) != 1 || got[0].Verb != Unknown {
			t.Errorf("a zero Parser understood: %+v", got)
		}
	}
	if p.Warm() == nil {
		t.Error("a zero Parser is warm")
	}
	if got := analyze(nil); !got.Does(Unknown) {
		t.Errorf("no node: %+v", got)
	}
}

func TestObjectsAreNamedAsWrittenAndScopedByWith(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`SELECT * FROM Public.Invoices i, "Mixed", "a.b"`, `table "a.b" r, table Mixed r, table public.invoices r`},
		{`WITH invoices AS (SELECT * FROM invoices) SELECT * FROM invoices`, "table invoices r"},
		{`WITH invoices AS (SELECT 1) SELECT * FROM invoices`, ""},
		{`WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a`, "table b r"},
		{`WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a`, ""},
		{`SELECT * FROM invoices WHERE EXISTS (WITH invoices AS (SELECT 1) SELECT 1 FROM invoices)`, "table invoices r"},
		{`WITH invoices AS (SELECT 1) SELECT * FROM public.invoices`, "table public.invoices r"},
		{`WITH t AS (SELECT 1) DELETE FROM t`, "table t w"},
		{`INSERT INTO t SELECT * FROM u`, "table t w, table u r"},
		{`UPDATE t SET a = 1 FROM t x`, "table t w"},
		{`COPY a.t (b) TO STDOUT`, "table a.t r"},
		{`COPY a.t FROM STDIN`, "table a.t w"},
		{`TRUNCATE a, b`, "table a w, table b w"},
		{`DROP TABLE a.b`, "table a.b w"},
		{`DROP DATABASE prod`, "database prod w"},
		{`DROP SCHEMA s`, "schema s w"},
		{`DROP FUNCTION s.f(int)`, "function s.f w"},
		{`ALTER TABLE t RENAME TO u`, "table t w"},
		{`CREATE VIEW v AS SELECT * FROM t`, "table t r, table v w"},
		{`CREATE INDEX ON t (a)`, "table t w"},
		{`CREATE SEQUENCE s`, "table s w"},
		{`GRANT SELECT ON t TO r`, "role r r, table t w"},
		{`EXPLAIN DELETE FROM t`, "table t r"},
		{`EXPLAIN ANALYZE DELETE FROM t`, "table t w"},
		{`PREPARE p AS DELETE FROM t`, "table t w"},
		{`SELECT a.f(1)`, "function a.f r"},
		{`SET Work_Mem = 1`, "setting work_mem w, setting_value work_mem=1 w"},
		{`SET search_path = a, "B"`, "setting search_path w, setting_value search_path=a, B w"},
		{`SET work_mem TO DEFAULT`, "setting work_mem w"},
		{`SELECT set_config('a.b', $1, true)`, "function set_config r, setting a.b w"},
		{`SELECT set_config('Role', 'admin', true)`, "function set_config r, role admin r, setting role w, setting_value role=admin w"},
		{`SET ROLE admin`, "role admin r, setting role w, setting_value role=admin w"},
		{`SET ROLE NONE`, "setting role w, setting_value role=none w"},
		{`SET SESSION AUTHORIZATION "Boss"`, "role Boss r, setting session_authorization w, setting_value session_authorization=Boss w"},
		{`GRANT admin TO me, PUBLIC`, "role admin w, role me r, role public r"},
		{`ALTER ROLE me SUPERUSER`, "role me w"},
		{`ALTER ROLE me IN DATABASE d SET work_mem = 1`, "database d w, role me w, setting work_mem w, setting_value work_mem=1 w"},
		{`DROP ROLE a, b`, "role a w, role b w"},
		{`COPY t TO '/tmp/X y'`, "file /tmp/X y w, table t r"},
		{`COPY t FROM '/etc/passwd'`, "file /etc/passwd r, table t w"},
		{`COPY t FROM PROGRAM 'curl x'`, "program curl x w, table t w"},
		{`SELECT a::mood, b::int, c::public.citext, d::text[], e::mood[] FROM t`, "table t r, type mood r, type public.citext r"},
		{`CREATE TABLE t (a serial, b numeric(1,2), c point, d mood, e timestamptz)`, "table t w, type mood r"},
		{`SELECT 1 FROM t FOR NO KEY UPDATE`, "lock_mode for no key update r, table t r"},
		{`LOCK TABLE t`, "lock_mode access exclusive r, table t r"},
		{`LOCK TABLE t IN ROW SHARE MODE`, "lock_mode row share r, table t r"},
	} {
		var got []string
		for _, o := range Parse(c.text)[0].Objects {
			access := "r"
			if o.Write {
				access = "w"
			}
			got = append(got, o.Kind+" "+o.Name+" "+access)
		}
		if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, diff)
		}
	}
}

func TestHasWhereNeedsAWhereThatLooksAtAColumn(t *testing.T) {
	for text, want := range map[string]bool{
		`DELETE FROM t`:                                                        false,
		`DELETE FROM t WHERE true`:                                             false,
		`DELETE FROM t WHERE 1 = 1`:                                            false,
		`DELETE FROM t WHERE (SELECT a FROM u)`:                                false,
		`DELETE FROM t WHERE id = $1`:                                          true,
		`DELETE FROM t WHERE id = id`:                                          false,
		`DELETE FROM t WHERE id <= id AND true`:                                false,
		`DELETE FROM t WHERE t.id IN (1, t.id)`:                                false,
		`DELETE FROM t WHERE id BETWEEN id AND id`:                             false,
		`DELETE FROM t WHERE id BETWEEN id AND 5`:                              true,
		`DELETE FROM t WHERE id IS NOT DISTINCT FROM id`:                       false,
		`DELETE FROM t WHERE NOT (id <> id)`:                                   false,
		`DELETE FROM t WHERE NOT (id IS DISTINCT FROM id)`:                     false,
		`DELETE FROM t WHERE NOT false`:                                        false,
		`DELETE FROM t WHERE id <> id`:                                         true,
		`DELETE FROM t WHERE id = 1 OR true`:                                   false,
		`DELETE FROM t WHERE id = 1 OR 1 = 1`:                                  false,
		`DELETE FROM t WHERE id = 1 OR false`:                                  true,
		`DELETE FROM t WHERE id = 1 OR NOT (a = 1 AND false)`:                  false,
		`DELETE FROM t WHERE NOT (id = 1 OR a = 2)`:                            true,
		`DELETE FROM t WHERE NOT (id = 1 AND false)`:                           false,
		`DELETE FROM t WHERE (id = 1 OR id IS NOT NULL OR true) AND 1 = 1`:     false,
		`DELETE FROM t WHERE (id = id) IS TRUE`:                                false,
		`DELETE FROM t WHERE (id = id) IS NOT FALSE`:                           false,
		`DELETE FROM t WHERE (id <> id) IS FALSE`:                              false,
		`DELETE FROM t WHERE (id = 1)::bool`:                                   true,
		`DELETE FROM t WHERE name LIKE '%'`:                                    false,
		`DELETE FROM t WHERE name ILIKE '%%'`:                                  false,
		`DELETE FROM t WHERE name LIKE 'a%'`:                                   true,
		`DELETE FROM t WHERE ctid IS NOT NULL`:                                 false,
		`DELETE FROM t WHERE a IS NOT NULL`:                                    true,
		`DELETE FROM t WHERE lower(a) = lower(a)`:                              false,
		`DELETE FROM t WHERE (a, b) = (a, b)`:                                  false,
		`DELETE FROM t WHERE a IN (SELECT a FROM u)`:                           true,
		`DELETE FROM t WHERE 1 IN (1, 2)`:                                      false,
		`UPDATE t SET a = 1 WHERE id = 1 AND id = id`:                          true,
		`DELETE FROM t WHERE CURRENT OF c`:                                     true,
		`UPDATE t SET a = 1`:                                                   false,
		`UPDATE t SET a = 1 WHERE id = 1`:                                      true,
		`EXPLAIN ANALYZE DELETE FROM t`:                                        false,
		`PREPARE p AS DELETE FROM t WHERE id = $1`:                             true,
		`SELECT * FROM t WHERE a`:                                              true,
		`SELECT * FROM t`:                                                      false,
		`WITH d AS (DELETE FROM t) SELECT * FROM u WHERE id = 1`:               false,
		`WITH d AS (DELETE FROM t WHERE id = 1) DELETE FROM u`:                 false,
		`WITH d AS (DELETE FROM t WHERE id = 1) DELETE FROM u WHERE u.id = 2`:  true,
		`WITH d AS (DELETE FROM t WHERE id = 1 RETURNING id) SELECT id FROM d`: true,
		`COPY (UPDATE t SET a = 1 RETURNING a) TO STDOUT`:                      false,
	} {
		if got := Parse(text)[0].HasWhere; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestNamesForTheSessionAreReported(t *testing.T) {
	type names struct {
		Prepares, Executes, Deallocates, Declares, Fetches, Closes, Transaction string
		DeallocatesAll, ClosesAll                                               bool
	}
	for text, want := range map[string]names{
		`PREPARE p AS SELECT 1`:          {Prepares: "p"},
		`EXECUTE "P"`:                    {Executes: "P"},
		`CREATE TABLE x AS EXECUTE p`:    {Executes: "p"},
		`EXPLAIN ANALYZE EXECUTE p`:      {Executes: "p"},
		`EXPLAIN EXECUTE p`:              {Executes: "p"},
		`DEALLOCATE p`:                   {Deallocates: "p"},
		`DEALLOCATE ALL`:                 {DeallocatesAll: true},
		`DISCARD ALL`:                    {DeallocatesAll: true, ClosesAll: true},
		`DISCARD PLANS`:                  {},
		`DECLARE c CURSOR FOR SELECT 1`:  {Declares: "c"},
		`MOVE c`:                         {Fetches: "c"},
		`CLOSE c`:                        {Closes: "c"},
		`CLOSE ALL`:                      {ClosesAll: true},
		`START TRANSACTION`:              {Transaction: "begin"},
		`END`:                            {Transaction: "commit"},
		`ABORT`:                          {Transaction: "rollback"},
		`ROLLBACK TO a`:                  {Transaction: "rollback_to"},
		`PREPARE TRANSACTION 'x'`:        {Transaction: "prepare"},
		`SELECT 'PREPARE p AS SELECT 1'`: {},
	} {
		s := Parse(text)[0]
		got := names{s.Prepares, s.Executes, s.Deallocates, s.Declares, s.Fetches, s.Closes, s.Transaction, s.DeallocatesAll, s.ClosesAll}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	s := Parse(`PREPARE p AS DELETE FROM t`)[0]
	if s.Inner == nil || s.Inner.Verb != Delete {
		t.Errorf("inner statement of PREPARE: %+v", s.Inner)
	}
}

func TestAStatementWithTooManyNamesIsUnknown(t *testing.T) {
	var b strings.Builder
	for i := range maxObjects + 1 {
		fmt.Fprintf(&b, ", t%d", i)
	}
	for text, want := range map[string]string{
		"DROP TABLE t" + b.String():                                 "unknown",
		"SELECT 1; DROP TABLE a" + b.String()[:100]:                 "select; ddl drop",
		"COPY t TO '/" + strings.Repeat("x", maxPath) + "'":         "copy_file select unknown",
		"SET a.b = '" + strings.Repeat("x", maxValue) + "'":         "set",
		"PREPARE p AS SELECT 1 FROM a" + b.String():                 "prepare unknown",
		"EXPLAIN ANALYZE SELECT 1 FROM a CROSS JOIN b" + b.String(): "explain unknown",
	} {
		if got := effectsOf(text); got != want {
			t.Errorf("%.50s: %s, want %s", text, got, want)
		}
	}
}

func TestTextOfAStatementIsItsPartOfTheWhole(t *testing.T) {
	var got []string
	for _, s := range Parse(" SELECT 'ä;' ;\n/* ; */ DROP TABLE t ; ") {
		got = append(got, s.Text)
	}
	if diff := cmp.Diff([]string{"SELECT 'ä;'", "/* ; */ DROP TABLE t"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// refused are nodes that end in Stmt and have no place in a statement that
// PostgreSQL's grammar yields. They are unknown wherever they stand.
var refused = []string{"PLAssignStmt", "RawStmt", "SetOperationStmt"}

func TestEveryStatementOfTheGrammarIsInATableOrRefused(t *testing.T) {
	fields := (&pg.Node{}).ProtoReflect().Descriptor().Fields()
	found := map[string]bool{}
	for i := range fields.Len() {
		if fields.Get(i).Message() == nil {
			continue
		}
		name := string(fields.Get(i).Message().Name())
		if !strings.HasSuffix(name, "Stmt") {
			continue
		}
		found[name] = true
		if _, ok := kindOf(name); ok == slices.Contains(refused, name) {
			t.Errorf("%s: in a table %v, refused %v", name, ok, !ok)
		}
	}
	for _, table := range []map[string]kind{runKinds, definitionKinds} {
		for name := range table {
			if !found[name] {
				t.Errorf("%s is in a table and not in the grammar", name)
			}
		}
	}
	for _, node := range []*pg.Node{
		{Node: &pg.Node_PlassignStmt{PlassignStmt: &pg.PLAssignStmt{}}},
		{Node: &pg.Node_ReturnStmt{ReturnStmt: &pg.ReturnStmt{}}},
		{Node: &pg.Node_Query{Query: &pg.Query{}}},
		{Node: &pg.Node_Integer{Integer: &pg.Integer{}}},
	} {
		if s := analyze(node); s.Verb != Unknown || !s.Does(Unknown) || s.Reason == "" {
			t.Errorf("%T: %+v", node.GetNode(), s)
		}
	}
}
