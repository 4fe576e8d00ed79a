package statement

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzNoTextGetsTheFactsOfAnotherOne reads a text behind one that differs in the
// values of its literals only.
func FuzzNoTextGetsTheFactsOfAnotherOne(f *testing.F) {
	if err := NewParser(Options{}).Warm(); err != nil { // one text has not the time for it
		f.Fatal(err)
	}
	for i, text := range slices.Concat(inertTexts, fixedTexts) {
		f.Add(fill(text, i), uint8(i))
	}
	for _, text := range []string{
		"SELECT a, ssn FROM t WHERE a = - 5 ORDER BY 3", "SELECT a FROM t WHERE a = INTERVAL '1' DAY AND b = 2", "SELECT a FROM t WHERE a = -5 - 3",
		"SELECT name FROM pg_settings WHERE name = 'role' AND 'x' = name", "INSERT INTO t VALUES (-1, 'x') ON CONFLICT (a) DO UPDATE SET b = -2 WHERE a IN (3)",
		"DELETE FROM t WHERE a NOT BETWEEN -1 AND 'x' OR 'a' <> b", "SELECT DISTINCT ON (2) a FROM t WHERE a < 1 FETCH FIRST 3 ROWS WITH TIES",
		"UPDATE t SET (a, b) = (1, 'x') WHERE (a, b) = (2, 3)", "SELECT set_config(name, 'x', false) FROM pg_settings WHERE name = 'role' LIMIT 1",
		"TABLE t LIMIT 1", "VALUES (1, 'a') LIMIT 2", "SELECT a AS \"1\" FROM t WHERE \"b\"='x'and c=3", "SELECT a FROM t WHERE a = 1 AND b = 'role' AND 2 = 2",
	} {
		f.Add(text, uint8(7))
	}
	f.Fuzz(func(t *testing.T, text string, seed uint8) {
		var one, other form
		if len(text) > 300 || !one.read(text) {
			return
		}
		first := replaceLiterals(text, &one, int(seed))
		if !other.read(first) || string(one.key()) != string(other.key()) {
			t.Fatalf("%q and %q have not the same key", text, first)
		}
		p := NewParser(Options{})
		for _, text := range []string{first, text} {
			if diff := cmp.Diff(Parse(text), p.Parse(text)); diff != "" {
				t.Fatalf("%q behind %q (-alone +by its form):\n%s", text, first, diff)
			}
		}
	})
}

// replaceLiterals gives the literals of a text other values.
func replaceLiterals(text string, f *form, seed int) string {
	values := map[byte][]string{
		literalInteger: {"0", "1", "2", "3", "12345678"}, literalNegative: {"-0", "-1", "-2", "-77"},
		literalString: {"''", "'%'", "'role'", "'t'", "'search_path'", "'1'", "'pg_catalog.x'"},
	}
	var out []byte
	from := 0
	for i, at := range f.at {
		n := 0
		switch rest := text[at:]; f.kinds[i] {
		case literalString:
			n = quoted(rest)
		case literalNegative:
			n = 1 + digitsOf(rest[1:])
		default:
			n = digitsOf(rest)
		}
		list := values[f.kinds[i]]
		out = append(append(out, text[from:at]...), list[(seed+3*i)%len(list)]...)
		from = at + n
	}
	return string(append(out, text[from:]...))
}
