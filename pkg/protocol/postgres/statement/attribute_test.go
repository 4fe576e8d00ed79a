package statement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestANameBehindADotIsAnAttributeUnlessItsSubqueryHasThatOutput(t *testing.T) {
	for text, want := range map[string][]Attribute{
		`SELECT c.record_out FROM t c`:                                                          {{"t", "record_out", true}},
		`SELECT (c).zz, (t.*).yy FROM t, t c`:                                                   {{"", "yy", false}, {"", "zz", false}},
		`SELECT s.n FROM (SELECT id AS n FROM t) s`:                                             nil,
		`WITH w AS (SELECT id AS n FROM t) SELECT x.n, x.m FROM w x`:                            {{"", "m", true}},
		`SELECT s.zz FROM (SELECT * FROM t) s, (SELECT 1 AS zz) r`:                              {{"", "zz", true}},
		`SELECT s.zz FROM t s WHERE EXISTS (SELECT 1 FROM (SELECT 1 zz) s)`:                     {{"", "zz", true}, {"t", "zz", true}},
		`SELECT t.zz FROM t, (WITH t AS (SELECT 1 AS zz) SELECT 1) s`:                           {{"", "zz", true}},
		`SELECT e.k FROM json_each('{}') AS e(k, v)`:                                            nil,
		`EXPLAIN SELECT c.zz FROM t c`:                                                          {{"t", "zz", true}},
		`SELECT a.zz, s.u.yy FROM s.t a, s.u`:                                                   {{"s.u", "yy", false}, {"s.t", "zz", true}},
		`SELECT a.zz FROM t a UNION SELECT a.zz FROM u a`:                                       {{"t", "zz", true}, {"u", "zz", true}},
		`SELECT x.zz FROM (SELECT * FROM t) x JOIN f(1) g ON true`:                              {{"", "zz", true}},
		`SELECT g.zz FROM (SELECT * FROM t) x JOIN f(1) g ON true`:                              {{"", "zz", false}},
		`SELECT f.zz FROM f(1), (SELECT 1 FROM t f) x`:                                          {{"", "zz", false}, {"t", "zz", false}},
		`SELECT t.zz FROM f(1), t`:                                                              {{"t", "zz", true}},
		`SELECT t.zz FROM COALESCE(1), t`:                                                       {{"", "zz", false}, {"t", "zz", false}},
		`SELECT t.zz FROM ROWS FROM (a.t(1), g(1)), t`:                                          {{"", "zz", false}, {"t", "zz", false}},
		`SELECT x.zz FROM f(1) x, (SELECT 1 FROM t x) y`:                                        {{"", "zz", false}, {"t", "zz", false}},
		`SELECT x.zz FROM t x(a)`:                                                               {{"", "zz", true}},
		`SELECT j.zz FROM (t JOIN u ON true) j`:                                                 {{"", "zz", true}},
		`SELECT q.zz FROM t`:                                                                    {{"", "zz", false}},
		`CREATE FUNCTION x(t text) RETURNS text BEGIN ATOMIC SELECT t.zz; SELECT 1 FROM t; END`: {{"", "zz", false}, {"t", "zz", false}},
	} {
		if diff := cmp.Diff(want, Parse(text)[0].Mentions.Attributes); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestEveryFunctionOfAnyRowShowsTheRow(t *testing.T) {
	for _, f := range rowFunctions {
		for _, text := range []string{`SELECT c.` + f + ` FROM t c`, `SELECT (c).` + f + ` FROM t c`, `SELECT (c.*).` + f + ` FROM t c`} {
			if s := &Parse(text)[0]; !s.MayReveal(ssn) {
				t.Errorf("%s is certain not to reveal", text)
			}
		}
	}
	if !isRowFunction("record_out") || !isRowFunction("hash_record") {
		t.Error("the functions of a record are not known")
	}
}
