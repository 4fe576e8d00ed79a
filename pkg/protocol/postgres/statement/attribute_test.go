package statement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestANameBehindADotIsAnAttributeUnlessItsSubqueryHasThatOutput(t *testing.T) {
	for text, want := range map[string][]Attribute{
		`SELECT c.record_out FROM t c`:                                      {{"t", "record_out"}},
		`SELECT (c).zz, (t.*).yy FROM t, t c`:                               {{"", "yy"}, {"", "zz"}},
		`SELECT s.n FROM (SELECT id AS n FROM t) s`:                         nil,
		`WITH w AS (SELECT id AS n FROM t) SELECT x.n, x.m FROM w x`:        {{"", "m"}},
		`SELECT s.zz FROM (SELECT * FROM t) s, (SELECT 1 AS zz) r`:          {{"", "zz"}},
		`SELECT s.zz FROM t s WHERE EXISTS (SELECT 1 FROM (SELECT 1 zz) s)`: {{"", "zz"}, {"t", "zz"}},
		`SELECT t.zz FROM t, (WITH t AS (SELECT 1 AS zz) SELECT 1) s`:       {{"", "zz"}},
		`SELECT e.k FROM json_each('{}') AS e(k, v)`:                        nil,
		`EXPLAIN SELECT c.zz FROM t c`:                                      {{"t", "zz"}},
		`SELECT a.zz, s.u.yy FROM s.t a, s.u`:                               {{"s.u", "yy"}, {"s.t", "zz"}},
		`SELECT a.zz FROM t a UNION SELECT a.zz FROM u a`:                   {{"t", "zz"}, {"u", "zz"}},
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
