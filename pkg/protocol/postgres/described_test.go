package postgres

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgproto3/v2"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// planned is a session in which the rows of one description come again and again.
type planned struct {
	tb     testing.TB
	x      *exchange
	set    *mask.Set
	parser *statement.Parser
	result *result
}

func newPlanned(tb testing.TB) *planned {
	x, set := knowing(tb)
	columns := []wire.Column{{Name: "id", Table: 16400, Attribute: 1, Type: 23}, {Name: "?column?", Type: 25}}
	return &planned{tb: tb, x: x, set: set, parser: statement.NewParser(statement.Options{}), result: newResult(columns)}
}

// request returns one whose rows are of the statement.
func (p *planned) request(text string) *request {
	facts, form := p.parser.ParseForm([]byte(text), nil)
	r, s := new(requests).single(askQuery, p.set)
	s.facts, s.text, s.form = append(s.facts, &facts[0]), &facts[0], form
	r.result, r.changes = p.result, p.x.database.seen()
	return r
}

// check compares the plan of r with one that is made for it alone.
func (p *planned) check(what string, r *request, want ...bool) *plan {
	p.tb.Helper()
	got, err := p.x.planFor(r)
	if err != nil {
		p.tb.Fatal(err)
	}
	alone := *r
	alone.result = newResult(r.result.columns)
	fresh, err := p.x.planFor(&alone)
	if err != nil {
		p.tb.Fatal(err)
	}
	if protects(got) != protects(fresh) || got.set != fresh.set || protects(got) != [2]bool(want) {
		p.tb.Errorf("%s: plan protects %v, alone it would be %v, want %v", what, protects(got), protects(fresh), want)
	}
	return got
}

func protects(p *plan) [2]bool { return [2]bool{p.columns[0].protect, p.columns[1].protect} }

// Rows that are described by the same bytes are not the same rows. Each step here
// changes one thing that a plan depends on, and takes it back.
func TestAPlanIsMadeAnewWhereAnythingElseIsToBeMasked(t *testing.T) {
	const plain = "select id, id + id from customers where id = 1"
	p := newPlanned(t)
	again := func(what string) {
		t.Helper()
		first := p.check(what, p.request(plain), false, false)
		if p.check(what+", again", p.request(plain), false, false) != first {
			t.Errorf("%s: the plan was made twice for the same", what)
		}
	}
	again("at first")
	if first := p.result.plan; p.check("another number", p.request("select id, id + id from customers where id = 234"), false, false) != first {
		t.Error("the plan was made twice for texts of one form")
	}
	p.check("another statement", p.request("select id, ssn || '' from customers where id = 1"), false, true)
	again("behind another statement")

	p.check("a statement without a form", p.request("select id, id + id from customers"), false, false)
	p.check("another one without a form", p.request("select id, ssn || ssn from customers"), false, true)
	again("behind statements without a form")

	r := p.request(plain)
	changed := *r.steps[0].text
	changed.Effects = append(slices.Clone(changed.Effects), statement.Opaque)
	slices.Sort(changed.Effects)
	r.steps[0].facts[0] = &changed
	p.check("code that nobody can see", r, false, true)
	again("behind code that nobody can see")

	set := p.set
	p.set = mustCompile(t, mask.Rule{Name: "other", Columns: []string{"public.customers.id"}, With: "redact"})
	p.check("other masks", p.request(plain), true, true)
	p.set = mustCompile(t, mask.Rule{Name: "detectors", Detect: []string{"pan"}, With: "redact"})
	p.check("no columns", p.request(plain), false, false)
	p.set = set
	again("behind other masks")

	p.x.uncommitted = true
	p.check("a definition that is not committed", p.request(plain), false, true)
	p.x.uncommitted = false
	again("behind a definition that was not committed")

	r = p.request(plain)
	r.changes--
	p.check("sent before a definition", r, false, true)
	r = p.request("select id, 'x' from unheard_of")
	p.check("a relation that nobody knows", r, false, true)
	again("behind a relation that nobody knows")

	r = p.request(plain)
	r.kind, r.changes = askExecute, r.changes-1
	p.check("an EXECUTE behind a definition", r, true, true)
	r = p.request(plain)
	r.steps[0].facts = append(r.steps[0].facts, nil)
	p.check("two things that it may be", r, false, true)
	again("behind that")
}

// What a table's columns are called may change, and so may the catalog.
func TestAPlanIsMadeAnewWithAnotherCatalog(t *testing.T) {
	const plain = "select id, 'x' from customers"
	p := newPlanned(t)
	p.check("at first", p.request(plain), false, false)
	other := catalog.New()
	for _, row := range [][]string{{"c", "16400", "1", "public", "customers", "ssn", "r"}, {"c", "16400", "2", "public", "customers", "id", "r"}} {
		values := make([][]byte, len(row))
		for i := range row {
			values[i] = []byte(row[i])
		}
		if err := other.Add(dataRow(t, values...)[5:]); err != nil {
			t.Fatal(err)
		}
	}
	db := p.x.database
	land := func(c *catalog.Catalog) {
		db.mu.Lock()
		defer db.mu.Unlock()
		p.x.entry.end(&flight{begun: db.of.now()}, c, nil, db.of.now())
	}
	first := p.x.entry.catalog
	land(other)
	p.check("columns were renamed", p.request(plain), true, false)
	land(first)
	p.check("and renamed back", p.request(plain), false, false)
	now := db.of.now
	db.of.now = func() time.Time { return now().Add(hardAge + time.Second) }
	p.check("the catalog is too old", p.request(plain), false, true)
}

// What is missed is missed each time: it makes the catalog be loaded again.
func TestWhatIsMissedInACatalogIsMissedEachTime(t *testing.T) {
	for _, text := range []string{"select id, 'x' from unheard_of", "select a, 'x' from customers"} {
		p := newPlanned(t)
		p.result = newResult([]wire.Column{{Name: "a", Table: 16999, Attribute: 1, Type: 23}, {Type: 25}})
		for i := range 3 {
			p.x.entry.wanted = false
			if _, err := p.x.planFor(p.request(text)); err != nil || !p.x.entry.wanted {
				t.Errorf("%s: time %d: missed: %v (%v)", text, i, p.x.entry.wanted, err)
			}
		}
	}
}

func description(name string, oid uint32, format int16) []byte {
	raw := encode(nil, &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte(name), DataTypeOID: oid, Format: format}}})
	return raw[5:]
}

func TestADescriptionIsWhatItsBytesSay(t *testing.T) {
	var d descriptions
	seen := map[*result]int{}
	for range 2 {
		for i := range 3 * maxDescriptions {
			got, err := d.result(description("a", uint32(i), int16(i%2)))
			if err != nil || len(got.columns) != 1 || got.columns[0].Type != uint32(i) || got.columns[0].Format != int16(i%2) || got.names[0] != "a" {
				t.Fatalf("description %d is %+v (%v)", i, got, err)
			}
			if same, _ := d.result(description("a", uint32(i), int16(i%2))); same != got {
				t.Errorf("description %d was decoded twice in a row", i)
			}
			seen[got] = i
			if len(d.of) > maxDescriptions {
				t.Fatalf("%d are remembered", len(d.of))
			}
		}
	}
	long := description(string(make([]byte, 0))+"n"+string(slices.Repeat([]byte("x"), maxDescription)), 25, 0)
	one, err := d.result(long)
	other, _ := d.result(long)
	if err != nil || one == other {
		t.Errorf("a long description is remembered (%v)", err)
	}
	if _, err := d.result([]byte{0, 1, 'a'}); err == nil {
		t.Error("a malformed description was taken")
	}
	if got, err := d.result([]byte{0, 0}); err != nil || got.columns == nil {
		t.Errorf("rows without columns are %+v (%v)", got, err)
	}
}

// A portal that was not described may have other columns than its statement had.
func TestWhereSecretsAreLookedForIsNotTakenFromAGuess(t *testing.T) {
	s := keeper("agent-password-93XvTz", func(protocol.FindingKind) error { return nil })
	told := newResult([]wire.Column{{Name: "ssn", Table: 16400, Attribute: 2, Type: 25}})
	guessing := &request{portal: &portal{sources: []*prepared{{described: told}}}}
	computed := newResult([]wire.Column{{Name: "?column?", Type: 25}})
	for range 2 {
		if v := s.sieve(&request{result: computed}); v == nil || v.guessed || !v.columns[0].look {
			t.Errorf("a computed column is looked into as %+v", v)
		}
		if v := s.sieve(&request{result: told}); v != nil {
			t.Errorf("a column of a user's table is looked into: %+v", v)
		}
		if v := s.sieve(guessing); v == nil || !v.guessed || !v.columns[0].look {
			t.Errorf("a column that was only guessed is looked into as %+v", v)
		}
	}
}
