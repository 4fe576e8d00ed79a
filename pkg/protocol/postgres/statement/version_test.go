package statement

import "testing"

func TestWhatVersionsAfter15AddedMayBeAUsersFunction(t *testing.T) {
	for text, want := range map[string]bool{
		`SELECT json_scalar(ssn) FROM t`:                 true,
		`SELECT json(ssn) FROM t`:                        true,
		`SELECT json_serialize(ssn) FROM t`:              true,
		`SELECT json_object()`:                           true,
		`SELECT json_array()`:                            true,
		`SELECT json_exists(a, '$') FROM t`:              true,
		`SELECT gamma(1)`:                                true,
		`SELECT uuidv7()`:                                true,
		`SELECT any_value(a) FROM t`:                     true,
		`SELECT pg_catalog.gamma(1)`:                     true,
		`SELECT json_object('{a,b}')`:                    false,
		`SELECT json_build_object('a', b) FROM t`:        false,
		`SELECT lower(a), count(*), array_agg(a) FROM t`: false,
		`SELECT xmlelement(name a, b) FROM t`:            false,
	} {
		s := Parse(text)[0]
		if got := s.Does(UserFunction) && s.Does(Opaque); got != want || s.Does(Unknown) {
			t.Errorf("%s: %v", text, s.Effects)
		}
	}
}

func TestTheGrammarThatVersion18AddedIsUnknown(t *testing.T) {
	for _, text := range []string{
		`UPDATE t SET a = 1 RETURNING WITH (OLD AS o) o.a`,
		`CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL)`,
		`CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 1))`,
		`ALTER TABLE t ADD CHECK (a > 1) NOT ENFORCED`,
		`CREATE TABLE t (a int4range, PRIMARY KEY (a WITHOUT OVERLAPS))`,
		`ALTER TABLE t ADD FOREIGN KEY (a, PERIOD b) REFERENCES c (a, PERIOD b)`,
		`ALTER TABLE t ADD CONSTRAINT x NOT NULL a`,
		`ALTER TABLE t ALTER CONSTRAINT x NO INHERIT`,
		`VACUUM ONLY t`,
		`ANALYZE ONLY t`,
	} {
		if got := effectsOf(text); got != "unknown" {
			t.Errorf("%s: %s", text, got)
		}
	}
}
