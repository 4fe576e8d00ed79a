package statement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/wasilibs/go-pgquery"
)

// inertTexts have facts that do not depend on their literals; the verb is that of
// fmt for a literal.
var inertTexts = []string{
	"SELECT abalance FROM pgbench_accounts WHERE aid = %v;",
	"select * from t where a=%v and (b <> %v or not c in (%v,%v)) limit %v offset %v",
	"SELECT a FROM t WHERE a BETWEEN %v AND %v ORDER BY a",
	"UPDATE t SET a = a + %v, b = %v WHERE \"Key\" >= %v",
	"DELETE FROM public.t WHERE %v = a",
	"INSERT INTO t (a, b, c) VALUES (%v, %v, now()), (%v, %v, NULL) RETURNING a",
	"INSERT INTO t VALUES (-7, %v, -1)", "UPDATE t SET a = a + -77 WHERE b = %v",
	"SELECT a FROM t FETCH FIRST %v ROWS ONLY", "SELECT setting FROM pg_settings WHERE name = '%v'",
	"\n  select a\tfrom t where a < %v\n",
}

// fixedTexts have literals that may change what is done, or that nobody should
// take apart.
var fixedTexts = []string{
	"SELECT %v", "SELECT a, b FROM t WHERE a = %v ORDER BY 1", "SELECT a FROM t GROUP BY a, %v", "SELECT f(%v)",
	"SELECT set_config('search_path', '%v', false)", "SELECT a FROM t WHERE %v = %v", "SELECT a FROM t WHERE a + %v = a + %v",
	"UPDATE pg_settings SET setting = '%v' WHERE name = '%v'", "SET work_mem = %v", "SELECT a::varchar(%v) FROM t",
	"SELECT a FROM t WHERE a = '%v'::regclass",
	"SELECT a FROM t WHERE a = DATE '%v'", "SELECT a FROM t WHERE a = E'%v'", "SELECT a FROM t WHERE a = $%v", "SELECT a FROM t WHERE a = %v.5",
	"SELECT a FROM t WHERE a LIKE '%v'", "SELECT a FROM t WHERE a = %v -- x", "SELECT a FROM t /* x */ WHERE a = %v",
	"SELECT a FROM t WHERE a = $$%v$$",
	"SELECT a FROM t WHERE a = 'x\\%v'", "SELECT a FROM t WHERE a = 'é%v'", "SELECT a FROM t WHERE a = %v; DELETE FROM t",
	"SELECT a FROM t WHERE a = 'x'\n'%v'",
	"SELECT a FROM t WHERE (SELECT b FROM u WHERE c = %v) = 1", "EXECUTE p(%v)", "COPY (SELECT a FROM t WHERE a = %v) TO STDOUT",
	"SELECT a FROM t WHERE a = '''%v'",
	"EXPLAIN SELECT a FROM t WHERE a = %v", "SELECT a FROM t WHERE a = B'%v'", "SELECT a FROM t WHERE a !=-1 AND b = %v", "SELECT a FROM t WHERE a = b -1 AND b = %v", "SELECT a FROM t WHERE a = --1\n%v",
	"SELECT a FROM t WHERE a = - 5 AND b = %v",
	"SELECT a FROM t WHERE a OPERATOR(x.=) %v",
	"WITH w AS (SELECT a FROM t WHERE a = %v) SELECT * FROM w", "SELECT a FROM t WHERE a = 123456789%v",
}

// values are spellings of literals.
var values = []any{0, 1, 7, 12345, 999999999, "'x'", "'search_path'", "''", "'a b;c'", "'public.customers'"}

func fill(text string, at int) string {
	args := make([]any, strings.Count(text, "%v"))
	for i := range args {
		args[i] = values[(at+3*i)%len(values)]
		if strings.Contains(text, "'%v'") {
			args[i] = strings.Trim(fmt.Sprint(args[i]), "'")
		}
	}
	return fmt.Sprintf(text, args...)
}

func TestFactsOfAFormAreThoseOfEachText(t *testing.T) {
	p := NewParser(Options{})
	for _, text := range slices.Concat(inertTexts, fixedTexts) {
		for i := range 3 * len(values) {
			one := fill(text, i)
			if diff := cmp.Diff(Parse(one), p.Parse(one)); diff != "" {
				t.Errorf("%q (-alone +by its form):\n%s", one, diff)
			}
		}
	}
}

func TestOnlyLiteralsThatChangeNothingAreTakenOut(t *testing.T) {
	for _, tc := range []struct {
		texts []string
		known bool
	}{{inertTexts, true}, {fixedTexts, false}} {
		for _, text := range tc.texts {
			p := NewParser(Options{})
			for i := range 3 * len(values) {
				if _, ok := p.byForm(fill(text, i), nil); (ok != nil) != tc.known {
					t.Errorf("%q: known by its form: %v", fill(text, i), ok)
				}
			}
		}
	}
}

// Each pair has the same key, and the first text would leave its facts to the
// second if one literal of it were taken for inert.
func TestNoTextGetsTheFactsOfAnother(t *testing.T) {
	for _, tc := range [][2]string{
		{"SELECT a, ssn FROM t ORDER BY 3 FETCH FIRST ROW ONLY", "SELECT a, ssn FROM t ORDER BY 2 FETCH FIRST ROW ONLY"},
		{"SELECT a, ssn FROM t ORDER BY 3 FETCH NEXT ROW WITH TIES", "SELECT a, ssn FROM t ORDER BY 2 FETCH NEXT ROW WITH TIES"},
		{"SELECT DISTINCT ON (3) a, ssn FROM t FETCH FIRST ROW ONLY", "SELECT DISTINCT ON (2) a, ssn FROM t FETCH FIRST ROW ONLY"},
		{"SELECT a, ssn FROM t GROUP BY a, 3 FETCH FIRST ROW ONLY", "SELECT a, ssn FROM t GROUP BY a, 2 FETCH FIRST ROW ONLY"},
		{"SELECT a FROM t WHERE a LIKE 'x' FETCH FIRST ROW ONLY", "SELECT a FROM t WHERE a LIKE '%' FETCH FIRST ROW ONLY"},
		{"SELECT a FROM (SELECT a, ssn FROM t ORDER BY 3) x FETCH FIRST ROW ONLY", "SELECT a FROM (SELECT a, ssn FROM t ORDER BY 2) x FETCH FIRST ROW ONLY"},
		{"INSERT INTO u SELECT a, ssn FROM t ORDER BY 3 FETCH FIRST ROWS ONLY", "INSERT INTO u SELECT a, ssn FROM t ORDER BY 2 FETCH FIRST ROWS ONLY"},
		{"SELECT a, ssn FROM t UNION ALL SELECT a, b FROM u ORDER BY 3 FETCH FIRST ROW ONLY", "SELECT a, ssn FROM t UNION ALL SELECT a, b FROM u ORDER BY 2 FETCH FIRST ROW ONLY"},
		{"SELECT a, ssn FROM t ORDER BY 3 LIMIT 1", "SELECT a, ssn FROM t ORDER BY 2 LIMIT 1"},
		{"SELECT set_config(name, setting, false) FROM pg_settings WHERE name = 'work_mem'", "SELECT set_config(name, setting, false) FROM pg_settings WHERE name = 'role'"},
		{"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = t.b WHERE t.b LIKE 'x'", "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = t.b WHERE t.b LIKE '%'"},
		{"UPDATE t SET a = 1 WHERE b LIKE 'x'", "UPDATE t SET a = 1 WHERE b LIKE '%'"},
		{"DELETE FROM t WHERE a = 1 OR b LIKE 'x'", "DELETE FROM t WHERE a = 1 OR b LIKE '%'"},
		{"DELETE FROM t WHERE a = 1 OR 1 = 2", "DELETE FROM t WHERE a = 1 OR 1 = 1"},
		{"DELETE FROM t WHERE a - 1 = a - 2", "DELETE FROM t WHERE a - 1 = a - 1"},
		{"SELECT a, ssn FROM t WHERE a IN (SELECT b FROM u ORDER BY 2 LIMIT 1)", "SELECT a, ssn FROM t WHERE a IN (SELECT b FROM u ORDER BY 1 LIMIT 1)"},
		{"VALUES (1, 2) ORDER BY 3 FETCH FIRST ROW ONLY", "VALUES (1, 2) ORDER BY 2 FETCH FIRST ROW ONLY"},
		{"SELECT a, ssn FROM t WHERE a = - 5 ORDER BY 3", "SELECT a, ssn FROM t WHERE a = - 5 ORDER BY 2"},
		{"SELECT set_config('work_mem', a, true) FROM t FETCH FIRST ROW ONLY", "SELECT set_config('role', a, true) FROM t FETCH FIRST ROW ONLY"},
		{"SELECT a, ssn FROM t WHERE a = 1 AND a IN (2, 3) ORDER BY 4, b OFFSET 0 FETCH FIRST ROW ONLY", "SELECT a, ssn FROM t WHERE a = 1 AND a IN (2, 3) ORDER BY 2, b OFFSET 0 FETCH FIRST ROW ONLY"},
	} {
		var one, other form
		if !one.read(tc[0]) || !other.read(tc[1]) || string(one.key()) != string(other.key()) {
			t.Errorf("%q and %q have not the same key", tc[0], tc[1])
		}
		p := NewParser(Options{})
		for _, text := range tc {
			if diff := cmp.Diff(Parse(text), p.Parse(text)); diff != "" {
				t.Errorf("%q (-alone +behind %q):\n%s", text, tc[0], diff)
			}
		}
	}
}

// A form is the text with parameters in the place of integers and strings, for the
// upstream's own scanner, too.
func FuzzFormHasTheTokensOfItsText(f *testing.F) {
	for i, text := range slices.Concat(inertTexts, fixedTexts) {
		f.Add(fill(text, i))
	}
	f.Fuzz(func(t *testing.T, text string) {
		var fm form
		if len(text) > maxForm || !fm.read(text) {
			return
		}
		ours, err := pg_query.Scan(string(fm.text))
		theirs, textErr := pg_query.Scan(text)
		if (err == nil) != (textErr == nil) {
			t.Fatalf("%q: %v; its form %q: %v", text, textErr, fm.text, err)
		}
		if err == nil {
			compareTokens(t, text, &fm, theirs.GetTokens(), ours.GetTokens())
		}
	})
}

func compareTokens(t *testing.T, text string, fm *form, theirs, ours []*pg.ScanToken) {
	t.Helper()
	if len(ours)+strings.Count(string(fm.kinds), "n") != len(theirs) {
		t.Fatalf("%q has %d tokens, its form %q has %d", text, len(theirs), fm.text, len(ours))
	}
	kinds := map[pg.Token]byte{pg.Token_ICONST: literalInteger, pg.Token_SCONST: literalString}
	var got []byte
	for _, mine := range ours {
		its := theirs[0]
		theirs = theirs[1:]
		if mine.GetToken() == pg.Token_PARAM {
			kind := kinds[its.GetToken()]
			if text[its.GetStart():its.GetEnd()] == "-" && theirs[0].GetToken() == pg.Token_ICONST {
				kind, theirs = literalNegative, theirs[1:]
			}
			got = append(got, kind)
			continue
		}
		a, b := text[its.GetStart():its.GetEnd()], string(fm.text[mine.GetStart():mine.GetEnd()])
		if mine.GetToken() != its.GetToken() || a != b {
			t.Fatalf("%q: token %q became %q in %q", text, a, b, fm.text)
		}
	}
	if string(got) != string(fm.kinds) {
		t.Fatalf("%q: literals %q, form %q has %q", text, got, fm.text, fm.kinds)
	}
}

func BenchmarkForm(b *testing.B) {
	p := NewParser(Options{})
	texts := make([]string, 1000)
	for i := range texts {
		texts[i] = fmt.Sprintf("SELECT abalance FROM pgbench_accounts WHERE aid = %d;", 100000+i)
		p.Parse(texts[i])
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		p.Parse(texts[i%len(texts)])
		i++
	}
}
