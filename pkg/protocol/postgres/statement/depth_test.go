package statement

import (
	"strings"
	"testing"
	"time"
)

// deepTexts builds texts whose syntax tree is n deep in one construct.
var deepTexts = []struct {
	name              string
	before, open, mid string
	end               string
}{
	{"operator", "SELECT 1", "", "", "+1"},
	{"prefix", "SELECT ", "NOT ", "true", ""},
	{"cast", "SELECT 1", "", "", "::int"},
	{"function", "SELECT ", "f(", "1", ")"},
	{"subquery", "SELECT ", "(SELECT ", "1", ")"},
	{"subquery in from", "SELECT * FROM ", "(SELECT * FROM ", "t", ")"},
	{"union", "SELECT 1", "", "", " UNION SELECT 1"},
	{"union in brackets", "", "(SELECT 1 UNION ", "SELECT 1", ")"},
	{"join", "SELECT * FROM t", "", "", " JOIN u USING (a)"},
	{"join on", "SELECT * FROM t", "", "", " JOIN u ON a AND b"},
	{"case", "SELECT ", "CASE WHEN ", "true", " THEN 1 END"},
	{"case else", "SELECT ", "CASE WHEN a AND b THEN 1 ELSE ", "true", " END"},
	{"exists", "SELECT 1 WHERE ", "EXISTS (SELECT 1 WHERE ", "true", ")"},
	{"with", "", "WITH x AS (", "SELECT 1", ") SELECT 1"},
	{"array", "SELECT ARRAY", "[", "1", "]"},
	{"parentheses", "SELECT ", "(", "1", ")"},
	{"booleans", "SELECT ", "(a AND ", "b", ")"},
	{"negated booleans", "SELECT ", "a AND NOT (", "b", ")"},
	{"xml", "SELECT ", "xmlelement(name a, ", "b", ")"},
	{"json", "SELECT ", "json_object('a': ", "b", ")"},
	{"row", "SELECT ", "ROW(", "b", ")"},
	{"postfix", "SELECT 1", "", "", " IS NULL"},
	{"between", "SELECT 1", "", "", " BETWEEN 1 AND 2 IS TRUE"},
	{"window", "SELECT ", "f(x) OVER (ORDER BY ", "1", ")"},
	{"json default", "SELECT ", "json_value(a, '$' DEFAULT ", "1", " ON ERROR)"},
	{"json query", "SELECT ", "json_array(SELECT ", "1", ")"},
	{"json columns", "SELECT * FROM json_table(a, '$' COLUMNS (", "NESTED PATH '$' COLUMNS (", "x int", ")"},
	{"lateral", "SELECT * FROM ", "LATERAL (SELECT (SELECT 1 FROM ", "t", ")) x"},
}

func nest(i, n int) string {
	c := deepTexts[i]
	text := c.before + strings.Repeat(c.open, n) + c.mid + strings.Repeat(c.end, n)
	if c.name == "json columns" {
		text += "))"
	}
	return text
}

func TestNestingUpToTheLimitIsParsedWithoutATrap(t *testing.T) {
	for i, c := range deepTexts {
		t.Run(c.name, func(t *testing.T) {
			n := 1
			for n < maxDepth && scan(nest(i, n+1)).depth <= maxDepth {
				n++
			}
			got := Parse(nest(i, n))
			if got[0].Reason == errTrap.Error() {
				t.Errorf("%d levels: %s", n, got[0].Reason)
			}
			t.Log(n, got[0].Verb, got[0].Reason)
		})
	}
}

func TestNestingBeyondTheLimitIsUnknown(t *testing.T) {
	for _, n := range []int{maxDepth + 1, 10_000, 100_000} {
		for i, c := range deepTexts {
			got := Parse(nest(i, n))
			if len(got) != 1 || !got[0].Does(Unknown) {
				t.Errorf("%s, %d levels: %+v", c.name, n, got[0].Effects)
			}
		}
	}
}

func TestFactsOfATextAtTheLimitTakeNoLongerThanItsParsing(t *testing.T) {
	wide := "a" + strings.Repeat(", a", 90)
	for name, text := range map[string]string{
		"distinct in distinct": "SELECT " + strings.Repeat("DISTINCT (SELECT ", 150) + "a FROM t" + strings.Repeat(") FROM t", 150),
		"numbers in numbers": "SELECT " + strings.Repeat("(SELECT ", 100) + "a FROM t" +
			strings.Repeat(" GROUP BY 1 ORDER BY 1)", 100),
		"exists in exists": "INSERT INTO u SELECT 1 FROM t WHERE pg_notify('a', b) IS NULL AND " +
			strings.Repeat("EXISTS (SELECT pg_notify('a', b) FROM t WHERE ", 100) + "true" + strings.Repeat(")", 100),
		"wide unions":         "SELECT " + wide + " FROM t" + strings.Repeat(" UNION SELECT "+wide+" FROM t", 200),
		"wide unions in with": "WITH x AS (SELECT " + wide + " FROM t" + strings.Repeat(" UNION ALL SELECT "+wide+" FROM t", 200) + ") SELECT 1",
		"numbers":             "SELECT a" + strings.Repeat(",a", 15_000) + " FROM t GROUP BY 15000" + strings.Repeat(",15000", 15_000),
		"alias upon alias":    "SELECT a AS b" + strings.Repeat(", a AS b, b AS a", 8000) + " FROM t ORDER BY a",
		"with upon with":      "WITH a AS (SELECT b AS c FROM t)" + strings.Repeat(", a AS (SELECT c AS b, b AS c FROM a)", 3000) + " SELECT 1 FROM a ORDER BY b",
		"bodies":              strings.Repeat("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';", 2000),
		"not alike":           "SELECT a+1+1+1 IN (a+1+1+1" + strings.Repeat(", a+1+1+1", 3000) + ") FROM t",
		"alike":               "DELETE FROM t WHERE a+1+1+1 IN (a+1+1+1" + strings.Repeat(", a+1+1+1", 3000) + ")",
	} {
		sh := scan(text)
		if _, err := parseTree(text, sh); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		begin := time.Now()
		if _, err := parseTree(text, sh); err != nil {
			t.Fatal(err)
		}
		parsing := time.Since(begin)
		begin = time.Now()
		got := Parse(text)
		if all := time.Since(begin); all > 20*parsing+2*time.Second {
			t.Errorf("%s: %v, of which the parser takes %v", name, all, parsing)
		} else {
			t.Log(name, all, parsing)
		}
		if got[0].Does(Unknown) {
			t.Errorf("%s: %s", name, got[0].Reason)
		}
	}
}
