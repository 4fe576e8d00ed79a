package statement

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// gauge is the schema that generated statements work on. The protected column is
// ssn of t; v and m show it under another name. Nothing here has a trigger, a
// rule or a foreign key: what those do is no part of the facts.
const gauge = `
CREATE TABLE t (id int PRIMARY KEY, ssn text, name text, note text);
CREATE TABLE u (id int, note text, n int);
CREATE SCHEMA s;
CREATE TABLE s."Mi.xed" (id int, "b.c" text);
CREATE TABLE p (id int, note text) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2);
CREATE TABLE p2 PARTITION OF p DEFAULT;
CREATE TABLE par (id int, note text);
CREATE TABLE kid () INHERITS (par);
CREATE VIEW v AS SELECT id, ssn AS x, name FROM t;
CREATE SEQUENCE q;
CREATE TYPE mood AS ENUM ('ok', 'sad');
CREATE FUNCTION f_read() RETURNS int LANGUAGE sql AS 'SELECT count(*)::int FROM t';
CREATE FUNCTION f_write() RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO u VALUES (9, ''f'', 9); RETURN 1; END';
CREATE PROCEDURE p_write() LANGUAGE plpgsql AS 'BEGIN DELETE FROM u; END';
CREATE FUNCTION public.lower(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM u; RETURN 1; END';
CREATE OPERATOR public.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
INSERT INTO t SELECT i, substr(md5(i || '%s'), 1, 6), 'n' || i %% 3, 'x' || i FROM generate_series(1, 8) i;
INSERT INTO u SELECT i, 'u' || i, i FROM generate_series(1, 5) i;
INSERT INTO s."Mi.xed" VALUES (1, 'a'), (2, 'b');
INSERT INTO p SELECT i, 'p' || i FROM generate_series(1, 4) i;
INSERT INTO par VALUES (1, 'a'), (2, 'b');
INSERT INTO kid VALUES (3, 'c');
CREATE MATERIALIZED VIEW m AS SELECT id, ssn AS x FROM t;
SELECT lo_create(4242);
`

// generator makes statements, most of which a server accepts, from a seed.
type generator struct {
	*rand.Rand
	dir   string // where COPY may write
	depth int
}

func newGenerator(seed uint64, dir string) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 7)), dir: dir}
}

func (g *generator) pick(choices ...string) string { return choices[g.IntN(len(choices))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// maybe returns text with that chance, and nothing otherwise.
func (g *generator) maybe(percent int, text func() string) string {
	if g.chance(percent) {
		return text()
	}
	return ""
}

// gap separates two words, sometimes by what looks like a statement.
func (g *generator) gap() string {
	if g.chance(85) {
		return " "
	}
	return g.pick("\n", "\t", " /* x */ ", " /* /* ; DROP TABLE t; */ ' */ ", " -- ; DELETE FROM t '\n", "/**/")
}

// join puts words together.
func (g *generator) join(words ...string) string {
	var b strings.Builder
	for _, w := range words {
		if w == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(g.gap())
		}
		b.WriteString(w)
	}
	return b.String()
}

// text returns one to three statements.
func (g *generator) text() string {
	n := 1 + max(0, g.IntN(6)-3)
	parts := make([]string, n)
	for i := range parts {
		parts[i] = g.statement()
	}
	return g.pick("", ";", "/* ; */") + strings.Join(parts, g.pick(";", " ; ", ";;\n")) + g.pick("", ";", "; -- x", ";/* x */;")
}

func (g *generator) statement() string {
	switch n := g.IntN(100); {
	case n < 38:
		return g.query()
	case n < 66:
		return g.write()
	case n < 76:
		return g.copy()
	case n < 88:
		return g.session()
	default:
		return g.define()
	}
}

func (g *generator) query() string {
	if g.chance(15) {
		return g.join("EXPLAIN", g.pick("", "ANALYZE", "(ANALYZE)", "(ANALYZE off)", "(COSTS off)"), g.dml())
	}
	return g.join(g.with(), g.selects())
}

func (g *generator) dml() string {
	if g.chance(50) {
		return g.join(g.with(), g.selects())
	}
	return g.write()
}

// with returns a WITH clause, whose queries may write.
func (g *generator) with() string {
	if g.depth > 0 || g.chance(65) {
		return ""
	}
	g.depth++
	defer func() { g.depth-- }()
	cte := g.pick("w", "t", "u")
	body := g.selects()
	if g.chance(50) {
		body = g.rows() + " RETURNING id, note"
	}
	return "WITH " + cte + g.pick("", "(id, note)") + " AS (" + body + ")"
}

func (g *generator) selects() string {
	if g.depth > 2 {
		return "SELECT 1 AS id, 'x' AS note"
	}
	g.depth++
	defer func() { g.depth-- }()
	switch n := g.IntN(100); {
	case n < 8:
		return "TABLE " + g.pick("t", "u", "v", "public.u", "p", "m")
	case n < 14:
		return "VALUES (1, " + g.word() + "), (2, " + g.word() + ")"
	case n < 24:
		a, b := g.pick("id, ssn", "id, name", "id, note"), g.pick("id, ssn", "id, name", "id, note")
		return g.join("SELECT", a, "FROM t", g.pick("UNION", "UNION ALL", "EXCEPT", "INTERSECT"), "SELECT", b, "FROM t",
			g.pick("", "ORDER BY 1", "ORDER BY 2"))
	case n < 34:
		return g.join("SELECT", g.pick("x", "*", "i, x", "upper(x)", "DISTINCT *", "count(s.*)", "DISTINCT x", "i, x AS i"), "FROM", g.pick("(SELECT id AS i, ssn AS x FROM t) s",
			"(SELECT id, name FROM t) AS s(i, x)", "(SELECT * FROM t) AS s(i, x)", "t AS s(i, x)", "(SELECT id AS i, name AS x FROM t WHERE id < 3) s"),
			g.pick("", "WHERE x LIKE '%1%'", "WHERE i > 2", "ORDER BY x", "ORDER BY i", "ORDER BY 1", "ORDER BY 2 DESC", "ORDER BY s"))
	}
	from, condition := g.from()
	return g.join("SELECT", g.pick("", "", "", "DISTINCT", "DISTINCT ON (1)"), g.columns(), "FROM", from, "WHERE", condition,
		g.maybe(10, func() string { return g.pick("ORDER BY 1", "ORDER BY 1 DESC", "ORDER BY note", "LIMIT 3", "OFFSET 1") }),
		g.maybe(8, func() string { return g.pick("FOR UPDATE", "FOR SHARE") }))
}

// from returns an item of FROM and a condition. Each has columns id and note.
func (g *generator) from() (from, condition string) {
	switch g.IntN(12) {
	case 0:
		return "u", g.condition()
	case 1:
		return "public.t", g.condition()
	case 2:
		return "u JOIN t USING (id, note)", "true"
	case 3:
		return "u NATURAL JOIN t", "true"
	case 4:
		return "(" + g.selectIDs() + ") z", g.condition()
	case 5:
		return "par", g.condition()
	case 6:
		return "ONLY par", g.condition()
	case 7:
		return "p", g.condition()
	case 8:
		return "v, LATERAL (SELECT v.x AS note) l", "v.id > 2"
	case 9:
		return "t TABLESAMPLE system (100)", g.condition()
	}
	return "t", g.condition()
}

func (g *generator) selectIDs() string {
	return g.pick("SELECT id, note FROM t", "SELECT id, ssn AS note FROM t", "SELECT id, note FROM u", "SELECT id, x AS note FROM v",
		"SELECT id, note FROM t WHERE ssn < 'a'", "SELECT id, note FROM t ORDER BY ssn LIMIT 2", "SELECT DISTINCT id, note FROM t",
		"SELECT max(id) AS id, max(note) AS note FROM t GROUP BY name", "SELECT max(id) AS id, max(note) AS note FROM t GROUP BY ssn > '8'")
}

func (g *generator) columns() string {
	return g.pick("*", "id", "id, note", "note AS x, id", "count(*)", "id, "+g.call(), g.word(), g.word()+", id", "id + 1 AS id, note",
		"(SELECT max(ssn) FROM t)", "EXISTS (SELECT ssn FROM t WHERE t.id = 3)", "CASE WHEN id = 1 THEN note END")
}

func (g *generator) condition() string {
	return g.pick("true", "id = 1", "id IN (1, 2)", "note LIKE 'x%'", "id IN (SELECT id FROM t WHERE ssn > '5')",
		"EXISTS (SELECT 1 FROM u WHERE u.id = 2)", "id = (SELECT max(id) FROM u)", "id < 4 AND NOT id = 2", "note > "+g.word(),
		"id = "+g.call(), "id OPERATOR(pg_catalog.=) 2", "id OPERATOR(public.===) 2", "(id, note) > (1, 'a')")
}

// word returns an expression of type text.
func (g *generator) word() string {
	return g.pick("'a'", "'; DROP TABLE t; --'", `E'it\'s; DELETE FROM t'`, "$$; $$", "$a$ $$ ' $a$", `U&'d\0061t'`, "upper('x')",
		"concat('a', 1)", "'a' || 'b'", "(SELECT min(note) FROM u)", "(SELECT min(ssn) FROM t)", "current_setting('my.a', true)",
		"set_config('my.a', 'z', "+g.pick("true", "false")+")", "set_config('my.a', (SELECT max(ssn) FROM t), false)", "'ok'::mood::text")
}

// call returns a call of type int.
func (g *generator) call() string {
	return g.pick("length('abc')", "f_read()", "public.f_read()", "f_write()", "nextval('q')::int", "pg_catalog.abs(-2)", "public.lower(3)",
		"pg_try_advisory_lock(7)::int", "(SELECT count(*)::int FROM u)", "lo_put(4242, 0, 'x')::text::int", "pg_advisory_lock(length(note))::text::int",
		"coalesce(1, 2)", "currval('q')::int", "setval('q', 5)::int")
}

func (g *generator) write() string { return g.join(g.with(), g.rows()+g.maybe(30, g.returning)) }

func (g *generator) returning() string {
	return " RETURNING " + g.pick("*", "id", "id + 1", "note", "(SELECT count(*) FROM t)")
}

// rows returns a write to a table with columns id and note.
func (g *generator) rows() string {
	target := g.pick("u", "t", "public.u", "par", "p", "v", `s."Mi.xed"`, "kid")
	note := "note"
	switch target {
	case "v":
		note = "name"
	case `s."Mi.xed"`:
		note = `"b.c"`
	}
	if note != "note" && g.depth > 0 {
		target, note = "u", "note"
	}
	value := g.pick(g.word(), g.word(), note, "NULL", "DEFAULT")
	switch g.IntN(10) {
	case 0, 1:
		return g.join("INSERT INTO", target, "(id, "+note+")", "VALUES (", fmt.Sprint(90+g.IntN(9)), ",", g.word(), ")",
			g.maybe(10, func() string { return "ON CONFLICT DO NOTHING" }))
	case 2, 3:
		return g.join("INSERT INTO", target, "(id, "+note+")", g.selectIDs(), g.maybe(10, func() string { return "ON CONFLICT DO NOTHING" }))
	case 4:
		return g.join("INSERT INTO t AS z (id, note, ssn) VALUES (1, 'b', 'c') ON CONFLICT (id) DO UPDATE SET",
			g.pick("note = excluded.note", "note = excluded.ssn", "ssn = excluded.ssn", "note = z.ssn"))
	case 5:
		return g.join("DELETE FROM", target, g.pick("", "WHERE id = 2", "WHERE id = (SELECT min(id) FROM t WHERE ssn > '7')"))
	case 6:
		return g.join("DELETE FROM", g.pick("u", "par"), "AS z USING t WHERE t.id = z.id AND", g.pick("t.name = 'n1'", "t.ssn > '5'"))
	case 7:
		return g.join("UPDATE u SET note =", g.pick("t.note", "t.ssn", "t.name || 'a'", "'k'"), "FROM t WHERE t.id = u.id",
			g.pick("", "AND t.ssn > '7'"))
	case 8:
		return g.join("UPDATE t SET", g.pick("ssn = ssn || 'a'", "note = ssn", "ssn = 'q'", "(note, name) = (SELECT ssn, 'a')",
			"note = (SELECT max(z.ssn) FROM t z)", "note = name"), g.pick("", "WHERE id < 4", "WHERE ssn > '5'"))
	}
	if value == note {
		value = note + " || 'a'"
	}
	return g.join("UPDATE", target, "SET", note, "=", value, g.pick("", "WHERE id = 1", "WHERE true", "WHERE id > 1"))
}

func (g *generator) copy() string {
	switch g.IntN(6) {
	case 0:
		return g.join("COPY", g.pick("u (id, note)", "t (id, ssn)", "p"), "FROM STDIN")
	case 1:
		return g.join("COPY (", g.dml(), ") TO STDOUT")
	case 2:
		return g.join("COPY", g.pick("t", "u", "t (id, note)"), "TO '"+g.dir+"/out'")
	case 3:
		return g.join("COPY (SELECT", g.pick("ssn", "id"), "FROM t) TO PROGRAM 'cat > "+g.dir+"/out'")
	case 4:
		return g.join("MERGE INTO u USING", g.pick("t", "(SELECT id, ssn AS note FROM t) AS t"), "ON t.id = u.id WHEN MATCHED",
			g.pick("", "AND t.note > 'x3'"), "THEN", g.pick("DELETE", "UPDATE SET note = t.note", "DO NOTHING"),
			g.pick("", "WHEN NOT MATCHED THEN INSERT (id, note) VALUES (t.id, t.note)"))
	}
	return g.join("COPY", g.pick("t", "u", "s.\"Mi.xed\"", "p1", "t (ssn)"), "TO STDOUT")
}

func (g *generator) session() string {
	return g.pick("SET work_mem = '2MB'", "SET LOCAL my.b = 'x'", "RESET work_mem", "SHOW work_mem", "SET ROLE pg_monitor", "RESET ROLE",
		"SAVEPOINT a", "SAVEPOINT a; ROLLBACK TO a", "LOCK TABLE u IN SHARE MODE", "LISTEN c", "UNLISTEN *", "NOTIFY c, 'x'",
		"DO $$ BEGIN DELETE FROM u; END $$", "DO 'BEGIN PERFORM 1; END'", "CALL p_write()", "DISCARD PLANS", "SET CONSTRAINTS ALL DEFERRED",
		"PREPARE z AS "+g.dml()+"; EXECUTE z; DEALLOCATE z", "PREPARE z(int) AS SELECT $1; EXECUTE z("+g.call()+"); DEALLOCATE z",
		"DECLARE k CURSOR FOR "+g.selectIDs()+"; FETCH ALL FROM k; CLOSE k", "DECLARE k CURSOR WITH HOLD FOR SELECT ssn FROM t; MOVE k; CLOSE k",
		"SELECT pg_notify('c', 'x')", "SELECT lo_unlink(4242)", "COMMIT", "ROLLBACK", "SET TRANSACTION READ ONLY")
}

func (g *generator) define() string {
	return g.pick("CREATE TABLE n1 AS "+g.selectIDs(), "SELECT id, "+g.pick("ssn", "name")+" INTO n2 FROM t"+g.pick("", " UNION SELECT id, ssn FROM t"), "CREATE TABLE n3 (LIKE t INCLUDING ALL)",
		"CREATE VIEW n4 AS "+g.selectIDs(), "CREATE MATERIALIZED VIEW n5 AS "+g.selectIDs(), "REFRESH MATERIALIZED VIEW m", "DROP TABLE u",
		"DROP VIEW v", "TRUNCATE u", "TRUNCATE par", "TRUNCATE u, s.\"Mi.xed\" RESTART IDENTITY", "ALTER TABLE u ADD COLUMN z text DEFAULT 'a'",
		"ALTER TABLE t ADD COLUMN z text GENERATED ALWAYS AS ("+g.pick("ssn", "name")+") STORED", "ALTER TABLE t RENAME ssn TO z",
		"ALTER TABLE u DROP COLUMN n", "ALTER TABLE t ALTER note TYPE varchar USING "+g.pick("note", "ssn"), "ALTER TABLE u RENAME TO z",
		"CREATE INDEX ON u (id)", "CREATE UNIQUE INDEX ON t ("+g.pick("ssn", "name", "id")+")", "CREATE SEQUENCE n6", "DROP SEQUENCE q",
		"CREATE FUNCTION n7() RETURNS int LANGUAGE sql AS 'DELETE FROM u; SELECT 1'", "COMMENT ON TABLE u IS 'DROP TABLE t'",
		"GRANT SELECT ON u TO PUBLIC", "CREATE ROLE n8", "REVOKE ALL ON t FROM PUBLIC", "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
		"CREATE SCHEMA n9 CREATE TABLE n14 (b int)", "CREATE TYPE n10 AS (a int)", "ALTER TYPE mood ADD VALUE 'new'", "CREATE TEMP TABLE n11 AS TABLE u",
		"CREATE RULE r AS ON UPDATE TO u DO ALSO DELETE FROM par", "CREATE POLICY y ON t USING (id > 0)", "ALTER TABLE p DETACH PARTITION p1",
		"ALTER TABLE u SET SCHEMA s", "CREATE PUBLICATION n12 FOR TABLE u", "ALTER ROLE app SET work_mem = '3MB'", "ANALYZE u",
		"ALTER TABLE u ADD CHECK (n > "+g.call()+")", "CREATE STATISTICS n13 ON id, note FROM u", "DROP FUNCTION f_read", "ALTER VIEW v RENAME TO z",
		"UPDATE pg_class SET relname = relname WHERE relname = 'u'", "INSERT INTO pg_description VALUES (1, 1, 1, 'x')")
}
