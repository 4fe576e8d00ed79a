package catalog

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// systemOf is a database with some of what every database has.
func systemOf(tb testing.TB) *Catalog {
	tb.Helper()
	return catalogOf(tb,
		[]string{"c", "1249", "1", "pg_catalog", "pg_attribute", "attrelid", "r"},
		[]string{"c", "1249", "2", "pg_catalog", "pg_attribute", "attname", "r"},
		[]string{"c", "1249", "25", "pg_catalog", "pg_attribute", "attmissingval", "r"},
		[]string{"c", "1255", "2", "pg_catalog", "pg_proc", "proname", "r"},
		[]string{"c", "1255", "26", "pg_catalog", "pg_proc", "prosrc", "r"},
		[]string{"c", "2615", "2", "pg_catalog", "pg_namespace", "nspname", "r"},
		[]string{"c", "2619", "26", "pg_catalog", "pg_statistic", "stavalues1", "r"},
		[]string{"c", "12100", "3", "pg_catalog", "pg_views", "definition", "v"},
		[]string{"c", "13500", "4", "information_schema", "columns", "column_name", "v"},
		[]string{"c", "13500", "6", "information_schema", "columns", "column_default", "v"},
		[]string{"c", "16400", "1", "public", "customers", "ssn", "r"},
		[]string{"c", "16400", "2", "public", "customers", "id", "r"},
		[]string{"c", "16500", "1", "public", "sources", "n", "v"},
		[]string{"d", "16500", "26", "1255"},
		[]string{"c", "16501", "1", "public", "names", "n", "v"},
		[]string{"d", "16501", "2", "1255"},
		[]string{"c", "16502", "1", "public", "texts", "x", "v"},
		[]string{"q", "16502"},
		[]string{"c", "16503", "1", "public", "samples", "s", "v"},
		[]string{"d", "16503", "26", "2619"},
	)
}

func shieldOf(tb testing.TB, definitions bool) *Shield {
	tb.Helper()
	rule := mask.Rule{Name: "r", Columns: []string{"public.customers.ssn", "*.*.proname"}, With: "redact", DenyDefinitions: definitions}
	return NewShield(mustCompile(tb, rule), systemOf(tb))
}

func TestColumnsThatQuoteDefinitionsAreProtectedOnlyIfAMaskSaysSo(t *testing.T) {
	allow, deny := shieldOf(t, false), shieldOf(t, true)
	for name, tc := range map[string]struct {
		oid         uint32
		number      int16
		allow, deny bool
	}{
		"the source of a function":         {1255, 26, false, true},
		"the name of a function":           {1255, 2, false, false},
		"the text of a view":               {12100, 3, false, true},
		"a default":                        {13500, 6, false, true},
		"the name of a column":             {13500, 4, false, false},
		"a value that rows share":          {1249, 25, true, true},
		"statistics":                       {2619, 26, true, true},
		"a view of sources":                {16500, 1, false, true},
		"a view of names":                  {16501, 1, false, false},
		"a view that calls for texts":      {16502, 1, false, true},
		"a view of statistics":             {16503, 1, true, true},
		"what the catalog has no name for": {1259, 1, false, false},
	} {
		_, gotAllow, _ := allow.Column(tc.oid, tc.number)
		action, gotDeny, _ := deny.Column(tc.oid, tc.number)
		if gotAllow != tc.allow || gotDeny != tc.deny {
			t.Errorf("%s: protected %v, with deny %v, want %v, %v", name, gotAllow, gotDeny, tc.allow, tc.deny)
		}
		if gotDeny && action.With != mask.Redact {
			t.Errorf("%s: %v", name, action.With)
		}
	}
	if deny.View(12100) || !deny.View(16500) {
		t.Error("views of the system are never replaced, and those of users may be")
	}
}

func TestAStatementShowsDefinitionsByColumnsFunctionsAndPlans(t *testing.T) {
	allow, deny := shieldOf(t, false), shieldOf(t, true)
	for text, want := range map[string][2]bool{
		`select upper(prosrc) from pg_proc`:                                             {false, true},
		`select upper(p.prosrc) from pg_catalog.pg_proc p`:                              {false, true},
		`select upper(proowner) from pg_proc`:                                           {false, false},
		`select upper(n.nspname), upper(p.prolang) from pg_namespace n, pg_proc p`:      {false, true}, // prolang is not in this one
		`select upper(n.nspname), upper(a.attname) from pg_namespace n, pg_attribute a`: {false, false},
		`select upper(a.hstore) from pg_attribute a`:                                    {true, true},
		`select upper(n.hstore) from pg_namespace n`:                                    {false, false},
		`select attmissingval::text from pg_attribute`:                                  {true, true},
		`select pg_get_viewdef('v')`:                                                    {false, true},
		`select x from pg_get_viewdef('v') x`:                                           {false, true},
		`explain select id from customers`:                                              {true, true},
		`explain select proowner from pg_proc`:                                          {false, true},
		`explain select 1`:                                                              {false, false},
		`select upper(column_default) from information_schema.columns`:                  {false, true},
		`select c.column_name || '' from information_schema.columns c`:                  {false, false},
		`select upper(column_default) from columns`:                                     {true, true}, // who knows which
		`copy (select pg_get_viewdef('v')) to stdout`:                                   {false, true},
		`select upper(n) from sources`:                                                  {false, true},
		`select c.id + 1, n.nspname || '' from customers c join pg_namespace n on true`: {false, false},
	} {
		fact := &statement.Parse(text)[0]
		if got := [2]bool{allow.Reveals(fact), deny.Reveals(fact)}; got != want {
			t.Errorf("%s: reveals %v, want %v", text, got, want)
		}
	}
}

func TestDefinitionsAreStoredAndWeighedLikeProtectedColumns(t *testing.T) {
	allow, deny := shieldOf(t, false), shieldOf(t, true)
	for text, want := range map[string][4]bool{ // copies, infers, each with allow and deny
		`insert into customers (id) select length(prosrc) from pg_proc`:   {false, true, false, true},
		`insert into customers (id) select length(proacl) from pg_proc`:   {false, false, false, false},
		`insert into customers (id) values (length(pg_get_viewdef('v')))`: {false, true, false, true},
		`select proname from pg_proc where prosrc > 'x'`:                  {false, false, false, true},
		`select 1 where pg_get_viewdef('v') > 'x'`:                        {false, false, false, true},
		`select prosrc from pg_proc`:                                      {false, false, false, false},
	} {
		fact := &statement.Parse(text)[0]
		got := [4]bool{allow.Copies(fact), deny.Copies(fact), allow.Infers(fact), deny.Infers(fact)}
		if got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestNothingIsKnownOfDefinitionsWithoutACatalog(t *testing.T) {
	s := NewShield(mustCompile(t, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "null", DenyDefinitions: true}), nil)
	if !s.Reveals(&statement.Parse(`select upper(prosrc) from pg_proc`)[0]) {
		t.Error("a computed column of the system is shown")
	}
}

func TestTheQueryAsksForViewsOfEveryFunctionThatShowsDefinitions(t *testing.T) {
	lists := regexp.MustCompile(`p\.proname OPERATOR\(pg_catalog\.=\) ANY \('\{([a-z_,]*)\}'`).FindAllStringSubmatch(Query, -1)
	if len(lists) == 0 {
		t.Fatal("the query has no list of functions")
	}
	got := strings.Split(lists[len(lists)-1][1], ",")
	slices.Sort(got)
	if diff := cmp.Diff(statement.QuotingFunctions(), got); diff != "" {
		t.Errorf("(-statement +query):\n%s", diff)
	}
}
