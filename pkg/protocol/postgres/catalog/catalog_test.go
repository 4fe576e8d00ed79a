package catalog

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
)

func mustCompile(tb testing.TB, rules ...mask.Rule) *mask.Set {
	tb.Helper()
	set, err := mask.Compile(rules)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func dataRow(tb testing.TB, values ...[]byte) []byte {
	tb.Helper()
	raw, err := (&pgproto3.DataRow{Values: values}).Encode(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func catalogOf(tb testing.TB, rows ...[]string) *Catalog {
	tb.Helper()
	c := New()
	for _, row := range rows {
		values := make([][]byte, Columns)
		for i := range values {
			values[i] = []byte{}
			if i < len(row) {
				values[i] = []byte(row[i])
			}
		}
		if err := c.Add(dataRow(tb, values...)[5:]); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

func TestProtectionFollowsViewsAndInheritance(t *testing.T) {
	c := catalogOf(t,
		[]string{"c", "16400", "1", "public", "customers", "id", "r"},
		[]string{"c", "16400", "2", "public", "customers", "ssn", "r"},
		[]string{"c", "16500", "1", "public", "v", "number", "v"},
		[]string{"c", "16600", "1", "public", "v2", "n", "m"},
		[]string{"c", "16700", "1", "public", "harmless", "id", "v"},
		[]string{"c", "16800", "1", "public", "rows", "c", "v"},
		[]string{"c", "16900", "1", "public", "calls", "x", "v"},
		[]string{"c", "17000", "1", "public", "child", "ssn", "r"},
		[]string{"d", "16500", "2", "16400"},
		[]string{"d", "16600", "1", "16500"},
		[]string{"d", "16700", "1", "16400"},
		[]string{"d", "16800", "0", "16400"},
		[]string{"w", "16800"},
		[]string{"f", "16900"},
		[]string{"i", "17000", "16400"},
	)
	s := NewShield(mustCompile(t, mask.Rule{Name: "r", Columns: []string{"public.customers.ssn"}, With: "redact"}), c)
	for name, tc := range map[string]struct {
		oid              uint32
		number           int16
		protected, known bool
	}{
		"the column":          {16400, 2, true, true},
		"another":             {16400, 1, false, true},
		"its whole row":       {16400, 0, true, true},
		"a system column":     {16400, -1, false, true},
		"a new column":        {16400, 3, true, false},
		"a view":              {16500, 1, true, true},
		"a view of a view":    {16600, 1, true, true},
		"a view of another":   {16700, 1, false, true},
		"a view of rows":      {16800, 1, true, true},
		"a view of functions": {16900, 1, true, true},
		"an inheriting table": {17000, 1, true, true},
		"an unknown table":    {19000, 1, true, false},
		"a system table":      {1259, 1, false, true},
	} {
		_, protected, known := s.Column(tc.oid, tc.number)
		if protected != tc.protected || known != tc.known {
			t.Errorf("%s: protected %v, known %v", name, protected, known)
		}
	}
}

func TestACatalogThatIsNotUnderstoodIsAnError(t *testing.T) {
	for name, values := range map[string][][]byte{
		"too few columns": {[]byte("c")},
		"another row":     {[]byte("z"), []byte("1"), nil, nil, nil, nil, nil},
		"no object id":    {[]byte("c"), []byte("z"), []byte("1"), nil, nil, nil, nil},
		"no number":       {[]byte("c"), []byte("1"), []byte("z"), nil, nil, nil, nil},
	} {
		if err := New().Add(dataRow(t, values...)[5:]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzCatalog(f *testing.F) {
	f.Add(dataRow(f, []byte("c"), []byte("16400"), []byte("1"), []byte("s"), []byte("t"), []byte("ssn"), []byte("r"))[5:])
	f.Add(dataRow(f, []byte("d"), []byte("16400"), []byte("1"), []byte("16400"), nil, nil, nil)[5:])
	f.Add(dataRow(f, []byte("x"), []byte("16400"), []byte("siudtmlp"), nil, []byte("a trigger"), nil, nil)[5:])
	f.Add(dataRow(f, []byte("y"), []byte("16400"), []byte("d"), []byte("16401"), []byte("u"), nil, nil)[5:])
	set := mustCompile(f, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"})
	f.Fuzz(func(t *testing.T, body []byte) {
		c := New()
		if err := c.Add(body); err != nil {
			return
		}
		NewShield(set, c)
	})
}

func row(cells ...string) [][]byte {
	values := make([][]byte, Columns)
	for i := range values {
		values[i] = []byte{}
		if i < len(cells) {
			values[i] = []byte(cells[i])
		}
	}
	return values
}

func TestACatalogThatNeverEndsIsRefused(t *testing.T) {
	for name, next := range map[string]func(i int) []string{
		"columns":      func(i int) []string { return []string{"c", "16400", "1", "s", "t", "a"} },
		"dependencies": func(i int) []string { return []string{"d", "16400", "1", "16401"} },
		"children":     func(i int) []string { return []string{"i", "16400", "16401"} },
		"views":        func(i int) []string { return []string{"w", fmt.Sprint(16384 + i)} },
		"definitions":  func(i int) []string { return []string{"x", "16400", "i", "", "a trigger"} },
		"references":   func(i int) []string { return []string{"y", "16400", "i", "16401", "u"} },
	} {
		c, err := New(), error(nil)
		for i := 0; err == nil && i < 10*maxAttributes; i++ {
			err = c.Add(dataRow(t, row(next(i)...)...)[5:])
		}
		if !errors.Is(err, ErrCatalog) {
			t.Errorf("%s without an end: %v", name, err)
		}
	}
	if err := New().Add(dataRow(t, row("c", "16400", "1", "s", "t", strings.Repeat("x", 1000))...)[5:]); !errors.Is(err, ErrCatalog) {
		t.Errorf("a long name: %v", err)
	}
}

func TestAShieldThatTakesTooLongProtectsEverything(t *testing.T) {
	c := New()
	add := func(cells ...string) {
		if err := c.Add(dataRow(t, row(cells...)...)[5:]); err != nil {
			t.Fatal(err)
		}
	}
	const tables, width = 1000, 100 // each the parent of each
	for i := range tables {
		for n := range width {
			add("c", fmt.Sprint(20000+i), fmt.Sprint(n+1), "public", fmt.Sprintf("t%d", i), fmt.Sprintf("ssn%d", n), "r")
		}
	}
	for i := range 200 {
		for j := range tables {
			add("i", fmt.Sprint(20000+i), fmt.Sprint(20000+j))
		}
	}
	s := NewShield(mustCompile(t, mask.Rule{Name: "r", Columns: []string{"public.t0.*"}, With: "redact"}), c)
	if _, protected, known := s.Column(20000, 1); !protected || known {
		t.Errorf("a column is protected %v, known %v", protected, known)
	}
	if !s.Strange("t1") || !s.Redefines([]string{"anything"}, nil) {
		t.Error("something is known")
	}
}

// BenchmarkNewShield applies masks to a large database.
func BenchmarkNewShield(b *testing.B) {
	c := New()
	for i := range maxAttributes {
		relation := i / 20
		err := c.Add(dataRow(b, row("c", fmt.Sprint(20000+relation), fmt.Sprint(i%20+1), "public", fmt.Sprintf("relation_%d", relation),
			fmt.Sprintf("column_%d", i%20), "r")...)[5:])
		if err != nil {
			b.Fatal(err)
		}
	}
	set := mustCompile(b, mask.Rule{Name: "r", Columns: []string{"public.relation_7.*", "*.*.column_9"}, With: "redact"})
	for b.Loop() {
		NewShield(set, c)
	}
}
