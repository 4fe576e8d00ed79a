package statement

import (
	"strings"
	"testing"
)

func TestRedefinesNamesWhatIsNoLongerWhatItWas(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`ALTER TABLE s.t RENAME TO u`, "s.t"},
		{`ALTER TABLE t RENAME ssn TO x`, "t"},
		{`ALTER VIEW v RENAME TO w`, "v"},
		{`ALTER VIEW v RENAME COLUMN a TO b`, "v"},
		{`ALTER MATERIALIZED VIEW v RENAME TO w`, "v"},
		{`ALTER INDEX t RENAME TO u`, "t"},
		{`ALTER SEQUENCE t RENAME TO u`, "t"},
		{`ALTER FOREIGN TABLE t RENAME ssn TO x`, "t"},
		{`ALTER TABLE t RENAME CONSTRAINT a TO b`, ""},
		{`ALTER SCHEMA s RENAME TO z`, "schema s"},
		{`ALTER SCHEMA s OWNER TO r`, "schema s"},
		{`ALTER TABLE t SET SCHEMA s`, "t"},
		{`ALTER VIEW t SET SCHEMA s`, "t"},
		{`ALTER TABLE t ALTER ssn TYPE varchar`, "t"},
		{`ALTER TABLE t ADD x text GENERATED ALWAYS AS (upper(ssn)) STORED`, "t"},
		{`ALTER TABLE t ALTER x SET EXPRESSION AS (ssn)`, "t"},
		{`ALTER TABLE t ALTER x DROP EXPRESSION`, "t"},
		{`ALTER TABLE t ADD x text`, ""},
		{`ALTER TABLE t ADD x text DEFAULT now()`, ""},
		{`ALTER TABLE t ADD x int DEFAULT nextval('q')`, ""},
		{`ALTER TABLE t ADD x int DEFAULT f()`, "t"},
		{`ALTER TABLE t ALTER x SET DEFAULT set_config('a', 'b', false)`, "t"},
		{`ALTER TABLE t ADD CHECK (set_config('a.b', ssn, false) <> '')`, "t"},
		{`ALTER TABLE t ADD CHECK (ssn <> '')`, ""},
		{`ALTER TABLE t ADD CONSTRAINT p PRIMARY KEY (id)`, ""},
		{`ALTER TABLE t DROP COLUMN ssn`, ""},
		{`ALTER TABLE t INHERIT p`, "p t"},
		{`ALTER TABLE t NO INHERIT p`, "p t"},
		{`ALTER TABLE p ATTACH PARTITION t DEFAULT`, "p t"},
		{`ALTER TABLE p DETACH PARTITION t`, "p t"},
		{`ALTER TABLE t OF y`, "t"},
		{`ALTER TABLE t NOT OF`, "t"},
		{`ALTER TABLE t OWNER TO r`, "t"},
		{`ALTER TABLE t ENABLE ROW LEVEL SECURITY`, "t"},
		{`ALTER TABLE t DISABLE TRIGGER ALL`, "t"},
		{`ALTER TABLE t DISABLE RULE r`, "t"},
		{`ALTER TABLE t REPLICA IDENTITY FULL`, "t"},
		{`ALTER FOREIGN TABLE t ALTER note OPTIONS (SET column_name 'ssn')`, "t"},
		{`ALTER TABLE t SET (fillfactor = 50), ALTER x SET STATISTICS 5, SET TABLESPACE z`, ""},
		{`ALTER VIEW v ALTER a SET DEFAULT 1`, "v"},
		{`ALTER VIEW v SET (security_invoker = on)`, "v"},
		{`CREATE RULE r AS ON UPDATE TO t DO ALSO INSERT INTO u VALUES (NEW.ssn)`, "t"},
		{`DROP RULE r ON s.t`, "s.t"},
		{`CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`, "t"},
		{`DROP TRIGGER g ON t`, "t"},
		{`CREATE POLICY p ON t USING (true)`, "t"},
		{`ALTER POLICY p ON t USING (false)`, "t"},
		{`DROP POLICY p ON t`, "t"},
		{`ALTER POLICY p ON t RENAME TO q`, "t"},
		{`CREATE TABLE n (ssn text, x text GENERATED ALWAYS AS (ssn) STORED)`, "n"},
		{`CREATE TABLE n (a int) INHERITS (t)`, ""},
		{`CREATE TABLE n PARTITION OF t DEFAULT`, ""},
		{`CREATE TABLE n (LIKE t INCLUDING ALL)`, ""},
		{`CREATE VIEW v AS SELECT ssn FROM t`, ""},
		{`CREATE OR REPLACE VIEW v AS SELECT ssn FROM t`, ""},
		{`CREATE MATERIALIZED VIEW v AS SELECT ssn FROM t`, ""},
		{`CREATE INDEX ON t (upper(ssn))`, ""},
		{`CREATE STATISTICS q ON ssn, id FROM t`, ""},
		{`DROP TABLE t`, ""},
		{`DROP SCHEMA s CASCADE`, ""},
		{`COMMENT ON TABLE t IS 'x'`, ""},
		{`GRANT SELECT ON t TO r`, ""},
		{`CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ssn FROM s.t'`, "s.t"},
		{`CREATE FUNCTION f() RETURNS text LANGUAGE SQL AS $$ WITH d AS (DELETE FROM t RETURNING *) SELECT 'x'; TABLE u $$`, "t u"},
		{`CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT ssn FROM t; END`, "t"},
		{`CREATE FUNCTION f() RETURNS text RETURN (SELECT ssn FROM t)`, "t"},
		{`CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'ALTER TABLE t RENAME TO u'`, "t"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT g()'`, "?"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELEC'`, "?"},
		{`CREATE FUNCTION f() RETURNS xml LANGUAGE sql AS $$SELECT query_to_xml('TABLE t', true, true, '')$$`, "?"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$DO 'x'$$`, "?"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'`, "?"},
		{`CREATE PROCEDURE f() LANGUAGE plpgsql AS 'BEGIN END'`, "?"},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'lower'`, "?"},
		{`CREATE FUNCTION f() RETURNS int AS 'SELECT 1'`, "?"},
		{`ALTER FUNCTION f RENAME TO lower`, "?"},
		{`CREATE CAST (varchar AS int) WITH FUNCTION f (varchar) AS IMPLICIT`, "?"},
		{`CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = f)`, "?"},
		{`CREATE AGGREGATE a (text) (SFUNC = f, STYPE = text)`, "?"},
		{`CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()`, "?"},
		{`CREATE EXTENSION x`, "?"},
		{`ALTER TYPE y RENAME ATTRIBUTE ssn TO x CASCADE`, "?"},
		{`ALTER TYPE y ADD ATTRIBUTE x text CASCADE`, "?"},
		{`REASSIGN OWNED BY a TO b`, "?"},
		{`DROP OWNED BY a`, "?"},
		{`UPDATE pg_attribute SET attname = 'x' WHERE attname = 'ssn'`, "?"},
		{`DELETE FROM pg_catalog.pg_depend WHERE true`, "?"},
		{`DO $$ $$`, "?"},
		{`CALL p()`, "?"},
		{`EXECUTE p`, "?"},
		{`CREATE PUBLICATION p FOR ALL TABLES`, "?"},
		{`CREATE PUBLICATION p FOR TABLES IN SCHEMA s`, "?"},
		{`ALTER PUBLICATION p ADD TABLES IN SCHEMA CURRENT_SCHEMA`, "?"},
		{`CREATE PUBLICATION p FOR TABLE t`, ""}, // a copy, if t has anything
		{`SELECT query_to_xml('x', true, true, '')`, "?"},
		{`SELECT f()`, ""},
		{`UPDATE t SET ssn = 'x'`, ""},
		{`SELEC`, "?"},
	} {
		s := &Parse(c.text)[0]
		tables, schemas := s.Redefines()
		got := strings.Join(tables, " ")
		for _, name := range schemas {
			got += "schema " + name
		}
		if s.MayRedefine() {
			got += "?"
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.text, got, c.want)
		}
	}
	if tables, schemas := (*Statement)(nil).Redefines(); tables != nil || schemas != nil || !(*Statement)(nil).MayRedefine() {
		t.Error("nothing is known of a nil Statement, and it redefines nothing")
	}
}

func TestRowsOfTheSystemsCatalogAreWrittenAsADefinition(t *testing.T) {
	for text, want := range map[string]string{
		`UPDATE pg_authid SET rolsuper = true`:            "dcl ddl system update",
		`INSERT INTO pg_catalog.pg_class SELECT * FROM t`: "dcl ddl insert select system",
		`WITH d AS (DELETE FROM pg_proc) SELECT 1`:        "dcl ddl delete select system",
		`COPY pg_attribute FROM STDIN`:                    "copy_in dcl ddl insert system",
		`COPY pg_attribute TO STDOUT`:                     "copy_out select",
		`SELECT * FROM pg_class`:                          "select",
		`UPDATE public.pg_x SET a = 1`:                    "update",
	} {
		if got := effectsOf(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
