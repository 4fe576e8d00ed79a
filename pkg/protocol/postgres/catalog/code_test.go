package catalog

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// codeShield knows a function, an operator and a type of users, and the search
// path that sessions begin with.
func codeShield(tb testing.TB, path string) *Shield {
	tb.Helper()
	return shieldOfRows(tb, [][]string{
		{"c", "16400", "1", "public", "t", "id", "r"},
		{"u", "16500", "true", "", "lower", "", ""}, {"u", "16501", "false", "", "upper", "", ""}, {"u", "16502", "true", "", "gone", "", ""},
		{"c", "16401", "1", "public", "u", "gone", "r"}, {"c", "16402", "1", "other", "t", "gone", "r"},
		{"u", "16503", "true", "pg_catalog", "abs", "", ""}, {"o", "16601", "true", "pg_catalog", "+", "", ""},
		{"o", "16600", "true", "", "~~", "", ""}, {"t", "16700", "true", "", "bomb", "", ""}, {"t", "16701", "true", "", "_bomb", "", ""},
		{"t", "16702", "true", "", "_low", "", ""},
		{"p", "0", "true", "", path, "", ""},
	})
}

// shieldOfRows is that of a catalog with these rows.
func shieldOfRows(tb testing.TB, rows [][]string) *Shield {
	tb.Helper()
	c := New()
	for _, cells := range rows {
		values := make([][]byte, len(cells))
		for i, cell := range cells {
			values[i] = []byte(cell)
		}
		if err := c.Add(dataRow(tb, values...)[5:]); err != nil {
			tb.Fatal(err)
		}
	}
	return NewShield(mustCompile(tb, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"}), c)
}

func TestCodeOfUsersIsFoundWhereItsNameIsNotSaid(t *testing.T) {
	s := codeShield(t, `"$user", public`)
	for text, want := range map[string][2]bool{ // in a session's first search path, and in one of its own
		"select lower('x')": {true, true}, "select upper('x')": {false, true}, "select pg_catalog.lower('x')": {false, false},
		"select t.gone from t": {true, true}, "select t.id from t": {false, false}, "select 1 from t where 'a' like 'b'": {true, true},
		"select 1 + 1": {true, true}, "select 1 operator(pg_catalog.+) 1": {true, true}, "select 1 operator(pg_catalog.-) 1": {false, false},
		"select pg_catalog.abs(1)": {true, true}, "select abs(1)": {true, true}, "select pg_catalog.upper('x')": {false, false},
		"select t.gone from t, u": {true, true}, "select x.gone from u x, t": {false, false}, "select t.gone from other.t": {false, false},
		"select t.gone from public.t": {true, true}, "select other.t.gone from other.t": {false, false}, "select (u).gone from u": {true, true}, // u may be a column
		"select x.gone from u x(a)": {true, true}, "select x.gone from (select gone from u) x(a)": {true, true}, "select x.gone from (select gone from u) x": {false, false},
		"with x(a) as (select gone from u) select x.gone from x": {true, true}, "with x as (select gone from u) select y.gone from x y(a)": {true, true},
		"with x as (select gone from u) select x.gone from x": {false, false}, "with x(gone) as (table u) select x.gone from x": {false, false},
		"select x.gone from (table u) x": {true, true}, "select j.gone from (u a join u b on true) j": {true, true},
		"insert into u values (1) on conflict (gone) do update set gone = excluded.gone": {false, false},
		"select (x).gone from u x, t": {true, true}, "select t.bomb from t": {true, true},
		"select '{x}'::_bomb": {true, true}, "select 'x'::_low": {true, true}, "select 'x'::low": {false, false}, "select 'x'::bomb": {true, true}, "select 'x'::text": {false, false},
	} {
		fact := &statement.Parse(text)[0]
		if got := [2]bool{s.RunsCode(fact, BeganWith), s.RunsCode(fact, Anywhere)}; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]bool{"select u.gone from u": true, "select t.id from t": false, "select upper('x')": true} {
		if fact := &statement.Parse(text)[0]; s.RunsCode(fact, Unsure) != want {
			t.Errorf("%s, while columns may be gone: %v, want %v", text, !want, want)
		}
	}
}

func TestAFunctionThatTakesNoRowIsNotBehindTheDotOfOne(t *testing.T) {
	for _, c := range []struct {
		row  string
		cast bool
		want [2]bool // behind a row, and behind what may be a plain value
	}{
		{"false", false, [2]bool{false, true}},
		{"true", false, [2]bool{true, true}},
		{"", false, [2]bool{true, true}},
		{"false", true, [2]bool{true, true}}, // a cast makes something else of the row
	} {
		cells := [][]string{{"c", "16400", "1", "public", "t", "id", "r"}, {"u", "16500", "true", "", "id", c.row, ""}}
		if c.cast {
			cells = append(cells, []string{"g", "16600", "true", "", "", "", ""})
		}
		s := shieldOfRows(t, cells)
		for i, text := range []string{"select x.id from (select * from t) x", "select x.id from f(1) x, t"} {
			fact := &statement.Parse(text)[0]
			if got := s.RunsCode(fact, BeganWith); got != c.want[i] {
				t.Errorf("%+v: %s: %v", c, text, got)
			}
			if !s.RunsCode(fact, Unsure) {
				t.Errorf("%+v: %s: not while there may be other functions", c, text)
			}
		}
	}
}

func TestASearchPathThatHidesWhatIsBuiltInIsNoticed(t *testing.T) {
	for path, want := range map[string]bool{
		`"$user", public`: false, "pg_catalog, public": false, "": false, strings.Repeat("é", 300): false,
		"evil, pg_catalog": true, strings.Repeat("x", pathCut): true, // it may go on
	} {
		if got := codeShield(t, path).HidesBuiltins(); got != want {
			t.Errorf("%.30s: %v, want %v", path, got, want)
		}
	}
}
