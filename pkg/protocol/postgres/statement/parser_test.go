package statement

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParserAnswersTheSameFromItsCacheAndUnderConcurrency(t *testing.T) {
	p := NewParser(Options{CacheEntries: 4})
	if err := p.Warm(); err != nil {
		t.Fatal(err)
	}
	texts := []string{"SELECT 1", "DROP TABLE t", "SELEC", "", "DELETE FROM t", "SELECT a FROM b", "BEGIN; COMMIT"}
	want := map[string][]Statement{}
	for _, text := range texts {
		want[text] = Parse(text)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				text := texts[i%len(texts)]
				if diff := cmp.Diff(want[text], p.Parse(text)); diff != "" {
					t.Errorf("%q (-want +got):\n%s", text, diff)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCacheStaysWithinItsBounds(t *testing.T) {
	const bytes = 64 << 10
	c := newCache(10, bytes)
	for i := range 1000 {
		text := fmt.Sprint(i)
		c.put(text, unknown(text, "x"))
		if got := len(c.young) + len(c.old); got > 10 {
			t.Fatalf("%d entries", got)
		}
		if c.bytes > bytes/2 {
			t.Fatalf("%d bytes in one generation", c.bytes)
		}
	}
	if _, ok := c.get("999"); !ok {
		t.Error("the newest entry is gone")
	}
	if _, ok := c.get("1"); ok {
		t.Error("the oldest entry is still there")
	}
	large := strings.Repeat("x", bytes)
	c.put(large, unknown(large, "x"))
	if _, ok := c.get(large); ok {
		t.Error("one text took the whole cache")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"SELECT 1; DROP TABLE t", "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", "/* /* */ */ ;",
		"SELECT $a$ x $a$, E'\\'', U&\"a\\0061\", 1.5, $1", "COPY t FROM STDIN", "EXPLAIN (ANALYZE) EXECUTE p",
		"SET a.b = c, 'd', 1", "SELECT CASE WHEN a BETWEEN 1 AND 2 THEN b END FROM t AS x(a) JOIN u USING (b)",
		"CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END", "\x00", "\xff", "'", "/*", "$a$",
		"MERGE INTO t USING s ON a = b WHEN MATCHED THEN DELETE", "SELECT (t).a[1:2].b, t.*, ROW(t.*) FROM t",
	} {
		f.Add(text)
	}
	known := map[string]bool{}
	for _, o := range Operations() {
		known[o.Name] = true
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Parse(text)
		if len(got) == 0 {
			t.Fatal("no statement")
		}
		for i := range got {
			s := &got[i]
			if s.Verb == "" || len(s.Effects) == 0 || !slices.IsSorted(s.Effects) {
				t.Errorf("statement without verb or effects: %+v", s)
			}
			if s.Does(Unknown) != (s.Reason != "") {
				t.Errorf("effects %v, reason %q", s.Effects, s.Reason)
			}
			if s.Reason == errTrap.Error() {
				t.Error("the parser trapped")
			}
			for _, e := range s.Effects {
				if !known[e] {
					t.Errorf("effect %q", e)
				}
			}
			s.MayReveal(func(string) bool { return false })
		}
		if diff := cmp.Diff(got, Parse(text)); diff != "" {
			t.Errorf("not deterministic (-first +second):\n%s", diff)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	texts := map[string]string{
		"short": "SELECT abalance FROM pgbench_accounts WHERE aid = 1",
		"report": `WITH recent AS (SELECT o.id, o.customer_id, sum(l.price * l.amount) AS total FROM orders o
			JOIN lines l ON l.order_id = o.id WHERE o.placed > now() - interval '30 days' AND o.state IN ('paid', 'sent') GROUP BY 1, 2)
			SELECT c.name, lower(c.email), r.total, CASE WHEN r.total > 100 THEN 'big' ELSE 'small' END FROM recent r
			LEFT JOIN customers c ON c.id = r.customer_id WHERE EXISTS (SELECT 1 FROM notes n WHERE n.customer_id = c.id) ORDER BY 3 DESC LIMIT 10`,
		"rows": "INSERT INTO t (a, b) VALUES (1, 'x')" + strings.Repeat(", (1, 'x')", 1000),
	}
	for name, text := range texts {
		b.Run("miss/"+name, func(b *testing.B) {
			Parse(text)
			b.ReportAllocs()
			for b.Loop() {
				Parse(text)
			}
		})
		b.Run("hit/"+name, func(b *testing.B) {
			p := NewParser(Options{})
			p.Parse(text)
			b.ReportAllocs()
			for b.Loop() {
				p.Parse(text)
			}
		})
	}
}

// BenchmarkParseLiterals parses texts that differ in a number only, as those of
// a program do that writes its values into them.
func BenchmarkParseLiterals(b *testing.B) {
	p := NewParser(Options{})
	p.Parse("SELECT 1")
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		p.Parse(fmt.Sprintf("SELECT abalance FROM pgbench_accounts WHERE aid = %d;", i))
	}
}
