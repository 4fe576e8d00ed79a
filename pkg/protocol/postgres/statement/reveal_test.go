package statement

import (
	"strings"
	"testing"
)

func ssn(column string) bool { return column == "ssn" }

func TestOnlyOutputsWithoutAnOriginThatDependOnAProtectedColumnMayReveal(t *testing.T) {
	for _, text := range []string{
		`SELECT upper(ssn) FROM t`,
		`SELECT ssn || '' AS x FROM t`,
		`SELECT ssn::text FROM t`,
		`SELECT (t).ssn FROM t`,
		`SELECT substr(t."ssn", 1, 3) FROM t`,
		`SELECT U&"s\0073n" || '' FROM t`,
		`SELECT (SELECT ssn FROM t LIMIT 1)`,
		`SELECT ARRAY(SELECT ssn FROM t)`,
		`SELECT string_agg(ssn, ',') FROM t`,
		`SELECT max(ssn) FILTER (WHERE true) FROM t`,
		`SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY ssn)`,
		`SELECT upper(y) FROM (SELECT ssn AS y FROM t) s`,
		`WITH x AS (SELECT ssn AS y FROM t) SELECT upper(y) FROM x`,
		`WITH x(y) AS (SELECT ssn FROM t) SELECT y FROM x UNION SELECT 'a'`,
		`SELECT upper(b) FROM (SELECT * FROM t) AS s(a, b)`,
		`SELECT upper(b) FROM t AS s(a, b)`,
		`SELECT upper(b) FROM (t JOIN u ON true) AS s(a, b)`,
		`SELECT upper(ssn) FROM (SELECT * FROM t) s`,
		`SELECT ssn FROM t UNION SELECT name FROM u`,
		`SELECT name FROM t UNION SELECT ssn FROM u`,
		`WITH x AS (SELECT ssn FROM t EXCEPT SELECT name FROM u) SELECT * FROM x`,
		`SELECT * FROM (SELECT * FROM t UNION ALL SELECT * FROM t) x`,
		`SELECT ssn FROM t FULL JOIN u USING (ssn)`,
		`SELECT * FROM t NATURAL FULL JOIN u`,
		`SELECT x FROM t, LATERAL (SELECT ssn || '' AS x) s`,
		`SELECT x FROM t, LATERAL (VALUES (ssn)) s(x)`,
		`SELECT x FROM t, unnest(string_to_array(ssn, '-')) x`,
		`SELECT t FROM t`,
		`SELECT c FROM t AS c`,
		`SELECT row_to_json(t) FROM t`,
		`SELECT t.row_to_json FROM t`,
		`SELECT (t).to_jsonb FROM t`,
		`SELECT ROW(t.*) FROM t`,
		`SELECT t::text FROM t`,
		`SELECT count(t.*) FROM t`,
		`SELECT row_to_json(x) FROM (SELECT * FROM t) x`,
		`WITH x AS (SELECT * FROM t) SELECT to_json(x) FROM x`,
		`SELECT ARRAY(SELECT t FROM t)`,
		`UPDATE t SET a = 1 RETURNING ssn || ''`,
		`DELETE FROM t RETURNING t`,
		`WITH u AS (UPDATE t SET a = 1 RETURNING old AS o) SELECT o::text FROM u`,
		`INSERT INTO t VALUES (1) RETURNING row_to_json(new)`,
		`INSERT INTO u VALUES (1) RETURNING (SELECT ssn FROM t)`,
		`WITH d AS (DELETE FROM t RETURNING ssn AS y) SELECT lower(y) FROM d`,
		`SELECT query_to_xml('select ssn from t', true, true, '')`,
		`SELECT purge() FROM t`,
		`SELECT * FROM pg_stats`,
		`COPY t TO STDOUT`,
		`COPY t (id, ssn) TO STDOUT`,
		`COPY (SELECT ssn FROM t) TO STDOUT`,
		`EXPLAIN SELECT 1 FROM t WHERE ssn = '1'`,
		`EXPLAIN SELECT * FROM t`,
		`EXECUTE p`,
		`FETCH ALL FROM c`,
		`DECLARE c CURSOR FOR SELECT upper(ssn) FROM t`,
		`CALL p()`,
		`SELEC`,
	} {
		if s := &Parse(text)[0]; !s.MayReveal(ssn) {
			t.Errorf("%s is certain not to reveal: %+v", text, s.Mentions)
		}
	}
}

func TestOutputsThatCarryTheirOriginDoNotReveal(t *testing.T) {
	for _, text := range []string{
		`SELECT ssn, id FROM t`,
		`SELECT ssn AS x, upper(name) FROM t`,
		`SELECT * FROM t`,
		`SELECT t.*, now() FROM t`,
		`TABLE t`,
		`SELECT upper(name) FROM t WHERE ssn = '1' ORDER BY ssn`,
		`SELECT x FROM (SELECT ssn AS x FROM t) s`,
		`SELECT s.* FROM (SELECT * FROM t) s`,
		`WITH x AS (SELECT ssn FROM t) SELECT ssn FROM x`,
		`SELECT count(*) FROM t WHERE EXISTS (SELECT * FROM u WHERE u.ssn = t.ssn)`,
		`SELECT EXISTS (SELECT ssn FROM t), a + 1 FROM u`,
		`SELECT name || '' FROM t JOIN u ON t.ssn = u.ssn`,
		`SELECT name || '' FROM t JOIN u USING (id)`,
		`SELECT name FROM t UNION SELECT name FROM u`,
		`SELECT i + 1 FROM generate_series(1, 3) AS g(i), t`,
		`SELECT 1 AS ssn`,
		`INSERT INTO t (ssn) VALUES ('1') RETURNING id`,
		`UPDATE t SET ssn = upper(ssn) RETURNING ssn`,
		`COPY t (id) TO STDOUT`,
		`COPY t FROM STDIN`,
		`EXPLAIN SELECT name FROM t`,
		`DECLARE c CURSOR FOR SELECT ssn FROM t`,
		`SET work_mem = 1`,
		`SHOW ALL`,
	} {
		if s := &Parse(text)[0]; s.MayReveal(ssn) {
			t.Errorf("%s may reveal: %+v", text, s.Mentions)
		}
	}
}

func TestFunctionsThatShowDefinitionsAreToldByWhatIsDoneWithThem(t *testing.T) {
	const weighed = "shown weighed"
	for text, want := range map[string]string{
		`SELECT pg_get_viewdef('v')`:                                                   weighed, // computed
		`SELECT x FROM pg_catalog.pg_get_viewdef('v') x`:                               weighed,
		`COPY (SELECT pg_get_functiondef(1)) TO STDOUT`:                                weighed,
		`DECLARE c CURSOR FOR SELECT enum_range(NULL::m)`:                              weighed,
		`EXPLAIN SELECT obj_description(1)`:                                            weighed,
		`SELECT 1 WHERE pg_get_expr(a, b) > ''`:                                        weighed,
		`SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM u WHERE pg_get_ruledef(1) = 'x')`: weighed,
		`INSERT INTO t VALUES (pg_get_viewdef('v'))`:                                   "shown weighed stored",
		`CREATE TABLE t AS SELECT pg_get_viewdef('v') AS x`:                            "shown weighed stored",
		`UPDATE t SET a = 1 WHERE b = pg_get_viewdef('v')`:                             weighed,
		`SELECT set_config('a.b', pg_get_viewdef('v'), true)`:                          "shown weighed stored",
		`CREATE VIEW v AS SELECT pg_get_viewdef('w') AS x`:                             weighed,
		`SELECT pg_get_viewdef FROM t`:                                                 "",
		`SELECT pg_get_userbyid(1), format_type(1, 2)`:                                 "",
	} {
		m := Parse(text)[0].Mentions
		got := ""
		if m.Quotes {
			got = "shown"
		}
		if m.WeighsQuoted {
			got += " weighed"
		}
		if m.StoresQuoted {
			got += " stored"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestOutputsOfAQueryAreToldApart(t *testing.T) {
	for text, want := range map[string]string{ // x for an output that may reveal
		`SELECT upper(ssn), upper(name), 1 FROM t`:                                    "x--",
		`SELECT 1, (SELECT ssn FROM t), (SELECT name FROM t)`:                         "-x-",
		`SELECT name, t, row_to_json(t) FROM t`:                                       "-xx",
		`SELECT t.row_to_json, upper(name) FROM t`:                                    "x-",
		`SELECT rank() OVER (ORDER BY ssn), 1 FROM t`:                                 "x-",
		`SELECT rank() OVER w, 1 FROM t WINDOW w AS (ORDER BY ssn)`:                   "xx",
		`SELECT x, upper(name) FROM t, unnest(string_to_array(ssn, '')) x`:            "xx",
		`SELECT upper(y), upper(name), 1 FROM (SELECT ssn AS y, name FROM t) s`:       "xx-", // y is not told from name there
		`WITH w (y) AS (SELECT ssn FROM t) SELECT upper(name), 1 FROM t, w`:           "xx",
		`SELECT upper(b), 1 FROM t AS s (a, b)`:                                       "x-",
		`SELECT upper(name), 1 FROM t NATURAL JOIN u`:                                 "xx",
		`SELECT *, upper(ssn), upper(name) FROM t`:                                    "xxx",
		`SELECT (t).*, upper(ssn), upper(name) FROM t`:                                "xxx",
		`SELECT upper(ssn), 1 FROM t UNION SELECT upper(name), 1 FROM t`:              "xx",
		`INSERT INTO t VALUES (1) RETURNING upper(ssn), upper(name)`:                  "xx",
		`SELECT setval('s', length(ssn)), lastval() FROM t`:                           "xx",
		`PREPARE p AS SELECT upper(ssn), upper(name) FROM t`:                          "x-",
		`EXPLAIN SELECT upper(ssn), upper(name) FROM t`:                               "xx",
		`SELECT upper(ssn), most_common_vals FROM pg_stats`:                           "xx",
		`SELECT query_to_xml('x', true, true, ''), 1 FROM t`:                          "xx",
		`SELECT upper(name), 1 FROM t WHERE ssn = '1' GROUP BY ssn ORDER BY ssn`:      "--",
		`SELECT EXISTS (SELECT ssn FROM t), upper(name) FROM t`:                       "--",
		`SELECT CASE WHEN a.has THEN a.ssn END, format_type(a.b, 1) FROM t a`:         "x-",
		`SELECT (ARRAY(SELECT ssn FROM t))[1], (SELECT max(name) FROM t), upper('x')`: "x--",
	} {
		fact, got := &Parse(text)[0], ""
		for i := range want {
			if fact.Only(i, len(want)).MayReveal(ssn) {
				got += "x"
			} else {
				got += "-"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if fact.Only(0, len(want)+1) != fact || fact.Only(-1, len(want)) != fact {
			t.Errorf("%s: a number of outputs that is another's", text)
		}
	}
	if (*Statement)(nil).Only(0, 1) != nil {
		t.Error("a nil statement is something")
	}
}

func TestWhatShowsDefinitionsIsAnOutputOfItsOwn(t *testing.T) {
	for text, want := range map[string][]bool{
		`SELECT pg_get_expr(a, b), format_type(c, d) FROM t`:                             {true, false},
		`SELECT format_type(c, d), (SELECT pg_get_expr(a, b) FROM u) FROM t`:             {false, true},
		`SELECT x, upper(name) FROM t, pg_get_viewdef('v') x`:                            {true, true},
		`WITH w AS (SELECT pg_get_viewdef('v') AS d) SELECT upper(name), 1 FROM t, w`:    {true, true},
		`SELECT upper(name), obj_description(1), max(enum_first(a)) OVER () AS x FROM t`: {false, true, true},
	} {
		fact := &Parse(text)[0]
		for i := range want {
			if got := fact.Only(i, len(want)).Mentions.Quotes; got != want[i] {
				t.Errorf("%s: output %d: %v, want %v", text, i, got, want[i])
			}
		}
	}
}

func TestAQueryWithVeryManyOutputsIsLookedAtAsAWhole(t *testing.T) {
	text := "SELECT " + strings.Repeat("upper(ssn), ", 1<<14) + "1 FROM t"
	if outputs := Parse(text)[0].Mentions.Outputs; outputs != nil {
		t.Errorf("%d outputs are kept", len(outputs))
	}
}
