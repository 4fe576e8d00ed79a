package statement

import (
	"strings"
	"testing"
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
