package mask

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheTermsOfColumnsAreThoseOfTheRulesThatNameThem(t *testing.T) {
	set, err := Compile([]Rule{
		{Name: "cards", Columns: []string{"*.*.card"}, Detect: []string{"pan"}, With: "keep-last-4"},
		{Name: "ids", Columns: []string{"*.*.ssn"}, With: "redact", AllowCopies: true, DenyPredicates: true},
		{Name: "mail", Columns: []string{"*.*.email"}, With: "hash", AllowCopies: true},
		{Name: "both", Columns: []string{"app.*.email"}, With: "null"},
		{Name: "found", Detect: []string{"iban"}, With: "redact", DenyPredicates: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	type terms struct{ copies, predicates bool }
	for column, want := range map[string]terms{
		"card": {false, true}, "ssn": {true, false}, "email": {false, true}, "name": {true, true},
	} {
		got := terms{!set.NoCopies().Protects(column), !set.NoPredicates().Protects(column)}
		if got != want {
			t.Errorf("%s: %+v, want %+v", column, got, want)
		}
	}
	if _, denied := set.NoCopies().Column("public", "t", "email"); denied {
		t.Error("a rule for another schema denies copies")
	}
	if set.NoCopies().HasDetectors() || set.NoCopies().Strictest().Rule != "both" || set.NoPredicates().Strictest().Rule != "ids" {
		t.Errorf("strictest of the parts: %+v, %+v", set.NoCopies().Strictest(), set.NoPredicates().Strictest())
	}
	for _, c := range []struct{ columns, want []string }{
		{[]string{"name", "card"}, []string{"cards"}},
		{[]string{"email"}, []string{"both"}},
		{[]string{"number"}, []string{"cards", "both"}},
		{nil, []string{"cards", "both"}},
	} {
		if diff := cmp.Diff(c.want, set.NoCopies().RulesFor(c.columns)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.columns, diff)
		}
	}
}

func TestASetWithoutDifferencesIsItsOwnPart(t *testing.T) {
	set, err := Compile([]Rule{{Name: "a", Columns: []string{"*.*.a"}, With: "null"}, {Name: "b", Columns: []string{"*.*.b"}, With: "null"}})
	if err != nil {
		t.Fatal(err)
	}
	if set.NoCopies() != set || set.NoPredicates() != nil {
		t.Error("by default copies are denied and predicates are not")
	}
	var none *Set
	if none.NoCopies() != nil || none.NoPredicates() != nil || none.RulesFor(nil) != nil {
		t.Error("a nil set denies something")
	}
}

func TestDefinitionsAreThoseOfAllRulesAndOfThePartsThatHoldOneThatDeniesThem(t *testing.T) {
	deny := Rule{Name: "ids", Columns: []string{"*.*.ssn"}, With: "redact", DenyDefinitions: true, AllowCopies: true}
	found := Rule{Name: "found", Detect: []string{"iban"}, With: "redact", DenyDefinitions: true}
	plain := Rule{Name: "mail", Columns: []string{"*.*.email"}, With: "hash", DenyPredicates: true}
	blind := Rule{Name: "pay", Columns: []string{"*.*.pay"}, With: "null", DenyDefinitions: true, DenyPredicates: true, AllowCopies: true}
	type parts struct{ whole, copies, predicates bool }
	for name, tc := range map[string]struct {
		rules []Rule
		want  parts
	}{
		"no rule":             {[]Rule{plain}, parts{}},
		"a detector":          {[]Rule{plain, found}, parts{}},
		"one of two":          {[]Rule{plain, deny}, parts{whole: true}},
		"one that is in part": {[]Rule{plain, deny, blind}, parts{whole: true, predicates: true}},
		"the only one":        {[]Rule{{Name: "a", Columns: []string{"*.*.a"}, With: "null", DenyDefinitions: true}}, parts{whole: true, copies: true}},
	} {
		set, err := Compile(tc.rules)
		if err != nil {
			t.Fatal(err)
		}
		got := parts{set.NoDefinitions(), set.NoCopies().NoDefinitions(), set.NoPredicates().NoDefinitions()}
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestARuleForAllSchemasDoesNotMeanThoseOfTheSystem(t *testing.T) {
	set, err := Compile([]Rule{
		{Name: "names", Columns: []string{"*.*.name", "**.t.other"}, With: "null"},
		{Name: "passwords", Columns: []string{"pg_*.*.rolpassword", `"*".t.quoted`}, With: "redact"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ schema, table, column, want string }{
		{"pg_catalog", "pg_settings", "name", ""},
		{"pg_catalog", "t", "other", ""},
		{"pg_catalog", "pg_authid", "rolpassword", "passwords"},
		{"*", "t", "quoted", "passwords"},
	} {
		if got, _ := set.ColumnOfSystem(c.schema, c.table, c.column); got.Rule != c.want {
			t.Errorf("%s.%s.%s: rule %q, want %q", c.schema, c.table, c.column, got.Rule, c.want)
		}
	}
	if got, _ := set.Column("public", "t", "name"); got.Rule != "names" {
		t.Errorf("a column of users: %+v", got)
	}
}
