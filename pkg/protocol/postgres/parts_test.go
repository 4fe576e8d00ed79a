package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

func TestMatch(t *testing.T) {
	p := New(Options{})
	start := wire.AppendStartup(nil, []wire.Parameter{{Name: "user", Value: "a"}})
	for name, tc := range map[string]struct {
		prefix []byte
		want   protocol.Match
	}{
		"start-up":       {start, protocol.Yes},
		"version 3.2":    {[]byte{0, 0, 0, 9, 0, 3, 0, 2, 0}, protocol.Yes},
		"TLS request":    {[]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}, protocol.Yes},
		"GSS request":    {[]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30}, protocol.Yes},
		"cancel request": {[]byte{0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 1, 2, 3, 4}, protocol.Yes},
		"TLS":            {[]byte{0x16, 3, 1, 2, 0, 1, 0, 1}, protocol.No},
		"HTTP":           {[]byte("GET / HT"), protocol.No},
		"HTTP begins":    {[]byte("G"), protocol.No},
		"too long":       {[]byte{0, 1, 0, 0, 0, 3, 0, 0}, protocol.No},
		"version 2":      {[]byte{0, 0, 0, 9, 0, 2, 0, 0}, protocol.No},
	} {
		if got := p.Match(tc.prefix); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
	for i := range start[:8] {
		if got := p.Match(start[:i]); got != protocol.More {
			t.Errorf("%d bytes of a start-up packet: got %v, want More", i, got)
		}
	}
}

func FuzzMatch(f *testing.F) {
	p := New(Options{})
	f.Add([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f})
	f.Add(wire.AppendStartup(nil, []wire.Parameter{{Name: "user", Value: "a"}}))
	f.Fuzz(func(t *testing.T, prefix []byte) {
		last := p.Match(prefix)
		if len(prefix) >= 8 && last == protocol.More {
			t.Error("eight bytes are not enough")
		}
		for i := range prefix {
			if got := p.Match(prefix[:i]); got != protocol.More && got != last {
				t.Errorf("%v after %d bytes and %v after %d", got, i, last, len(prefix))
			}
		}
	})
}

func TestNamesDenoteEverythingThatTheyMay(t *testing.T) {
	const open = 100 // an error in front of this may be forgotten
	var n names[string]
	a, b, c := "a", "b", "c"
	n.add("x", 1, &a, 0)
	n.confirm("x", 1)
	n.add("x", 2, &b, 0)
	n.add("x", 3, &c, 0)
	if diff := cmp.Diff([]*string{&c, &b, &a}, n.get("x", open)); diff != "" {
		t.Error(diff)
	}
	n.fail("x", 3)
	if diff := cmp.Diff([]*string{&b, &a}, n.get("x", open)); diff != "" {
		t.Error(diff)
	}
	n.confirm("x", 2)
	if diff := cmp.Diff([]*string{&b}, n.get("x", open)); diff != "" {
		t.Error(diff)
	}
	n.add("x", 5, &c, 0)
	n.drop("x", 4)
	if diff := cmp.Diff([]*string{&c}, n.get("x", open)); diff != "" {
		t.Error(diff)
	}
	n.dropAll(5, func(*string) bool { return false })
	if n.total != 0 || n.get("x", open) != nil {
		t.Errorf("cost %d is left", n.total)
	}
}

func TestADefinitionBehindTheLastSyncIsTheOnlyOne(t *testing.T) {
	var n names[string]
	a, b, c := "a", "b", "c"
	n.add("x", 1, &a, 0)
	n.add("x", 3, &b, 0)
	if diff := cmp.Diff([]*string{&b}, n.get("x", 2)); diff != "" {
		t.Errorf("a Sync in front of it: %s", diff)
	}
	if diff := cmp.Diff([]*string{&b, &a}, n.get("x", 4)); diff != "" {
		t.Errorf("a Sync behind it: %s", diff)
	}
	n.suggest("x", 5, &c, 0)
	if diff := cmp.Diff([]*string{&c, &b}, n.get("x", 2)); diff != "" {
		t.Errorf("a definition that may not be one: %s", diff)
	}
}

func TestBehindAnUnansweredQueryNoDefinitionIsCertain(t *testing.T) {
	p := newPending()
	p.push(&request{kind: askSync, sequence: 1})
	p.push(&request{kind: askParse, sequence: 2})
	if got := p.certain(); got != 1 {
		t.Errorf("behind a Sync definitions are certain from %d", got)
	}
	p.push(&request{kind: askQuery, sequence: 3})
	p.push(&request{kind: askParse, sequence: 4})
	if got := p.certain(); got < 4 {
		t.Errorf("the Query may copy, and a definition of 4 is certain behind %d", got)
	}
	for range 3 {
		p.pop()
	}
	if got := p.certain(); got != 3 {
		t.Errorf("the Query was answered, and definitions are certain from %d", got)
	}
}

func TestAPortalThatMayPrepareMakesTheNameDoubtful(t *testing.T) {
	x := &exchange{pending: newPending()}
	harmless, hidden := &statement.Statement{Verb: statement.Select}, &statement.Statement{Verb: statement.Delete}
	x.statements.add("x", 1, &prepared{facts: harmless}, 0)
	x.expect(&request{sequence: 3}, &step{facts: []*statement.Statement{
		{Verb: statement.Select, Effects: []string{statement.Select}},
		{Verb: statement.Prepare, Effects: []string{statement.Prepare}, Prepares: "x", Inner: hidden},
	}})
	var got []*statement.Statement
	for _, p := range x.statements.get("x", 2) {
		got = append(got, p.facts)
	}
	if len(got) != 2 || got[0] != hidden || got[1] != harmless {
		t.Errorf("the name may denote %v", got)
	}
}

func TestANameThatMayBeTooManyThingsIsUnknown(t *testing.T) {
	var n names[string]
	for i := range maxCandidates {
		n.add("x", uint64(i+1), new(string), 0)
	}
	if got := n.get("x", maxCandidates); len(got) != maxCandidates {
		t.Errorf("%d of %d candidates", len(got), maxCandidates)
	}
	n.add("x", maxCandidates+1, new(string), 0)
	if got := n.get("x", maxCandidates+1); len(got) != 1 || got[0] != nil {
		t.Errorf("one more are %d", len(got))
	}
	if got := (&portal{sources: []*prepared{nil}}).facts(); len(got) != 1 || got[0] != nil {
		t.Errorf("a portal of it runs %v", got)
	}
}

func catalogOf(tb testing.TB, rows ...[]string) *catalog {
	tb.Helper()
	c := newCatalog()
	for _, row := range rows {
		values := make([][]byte, catalogColumns)
		for i := range values {
			values[i] = []byte{}
			if i < len(row) {
				values[i] = []byte(row[i])
			}
		}
		if err := c.add(dataRow(tb, values...)[5:]); err != nil {
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
	s := newShield(mustCompile(t, mask.Rule{Name: "r", Columns: []string{"public.customers.ssn"}, With: "redact"}), c)
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
		_, protected, known := s.column(tc.oid, tc.number)
		if protected != tc.protected || known != tc.known {
			t.Errorf("%s: protected %v, known %v", name, protected, known)
		}
	}
}

func TestACatalogThatIsNotUnderstoodIsAnError(t *testing.T) {
	for name, values := range map[string][][]byte{
		"too few columns": {[]byte("c")},
		"another row":     {[]byte("x"), []byte("1"), nil, nil, nil, nil, nil},
		"no object id":    {[]byte("c"), []byte("z"), []byte("1"), nil, nil, nil, nil},
		"no number":       {[]byte("c"), []byte("1"), []byte("z"), nil, nil, nil, nil},
	} {
		if err := newCatalog().add(dataRow(t, values...)[5:]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzCatalog(f *testing.F) {
	f.Add(dataRow(f, []byte("c"), []byte("16400"), []byte("1"), []byte("s"), []byte("t"), []byte("ssn"), []byte("r"))[5:])
	f.Add(dataRow(f, []byte("d"), []byte("16400"), []byte("1"), []byte("16400"), nil, nil, nil)[5:])
	set := mustCompile(f, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"})
	f.Fuzz(func(t *testing.T, body []byte) {
		c := newCatalog()
		if err := c.add(body); err != nil {
			return
		}
		newShield(set, c)
	})
}

func TestQuotedValuesAreHidden(t *testing.T) {
	fields := []wire.Field{{Code: 'n', Value: []byte("customers_ssn_key")}}
	for in, want := range map[string]string{
		`invalid input syntax for type integer: "123"`:                 `invalid input syntax for type integer: "***"`,
		`duplicate key violates unique constraint "customers_ssn_key"`: `duplicate key violates unique constraint "customers_ssn_key"`,
		`Key (ssn)=(123) already exists.`:                              `Key (***).`,
		`a "b" c "d" e`:                                                `a "***" e`,
		`it isn't`:                                                     `it isn'***`,
		`nothing`:                                                      `nothing`,
	} {
		got := string(hideQuoted([]byte(in), fields))
		if in[0] == 'K' {
			want = `Key (***) already exists.`
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestStartupSettingsHaveTheEffectsThatSetHas(t *testing.T) {
	for name, tc := range map[string]struct {
		parameter wire.Parameter
		effect    string
	}{
		"user":                  {wire.Parameter{Name: "user", Value: "x"}, ""},
		"utf8":                  {wire.Parameter{Name: "client_encoding", Value: "'utf-8'"}, ""},
		"sjis":                  {wire.Parameter{Name: "client_encoding", Value: "SJIS"}, statement.Unknown},
		"role":                  {wire.Parameter{Name: "Role", Value: "x"}, statement.SetRole},
		"options":               {wire.Parameter{Name: "options", Value: "-c geqo=off --search_path=a"}, ""},
		"options with a role":   {wire.Parameter{Name: "options", Value: "-c geqo=off -crole=x"}, statement.SetRole},
		"options, escaped":      {wire.Parameter{Name: "options", Value: `-c\ role=x`}, ""},
		"options with dashes":   {wire.Parameter{Name: "options", Value: "--session-authorization=x"}, statement.SetRole},
		"options, other switch": {wire.Parameter{Name: "options", Value: "-e"}, statement.Unknown},
		"strings off":           {wire.Parameter{Name: "standard_conforming_strings", Value: "off"}, statement.Unknown},
		"strings on":            {wire.Parameter{Name: "standard_conforming_strings", Value: "on"}, ""},
		"triggers":              {wire.Parameter{Name: "options", Value: "-c session_replication_role=replica"}, statement.SetUnsafe},
		"the server's log":      {wire.Parameter{Name: "log_statement", Value: "none"}, statement.SetUnsafe},
		"another catalog":       {wire.Parameter{Name: "search_path", Value: "mine,pg_catalog"}, statement.Unknown},
	} {
		got := ""
		for _, fact := range unsettling(&wire.Startup{Parameters: []wire.Parameter{tc.parameter}}) {
			got += strings.Join(fact.Effects, " ")
		}
		if got != tc.effect {
			t.Errorf("%s: got %q, want %q", name, got, tc.effect)
		}
	}
}

func TestACancelKeyIsGoodForItsTreeOnly(t *testing.T) {
	p := New(Options{})
	k := cancelKey{pid: 7, key: "abcd"}
	mine, other := process.ID{PID: 1, Start: 1}, process.ID{PID: 2, Start: 1}
	if p.mayCancel(k, mine) || p.mayCancel(k, process.ID{}) {
		t.Error("a key of nobody is good")
	}
	p.register(k, mine)
	if !p.mayCancel(k, mine) || p.mayCancel(k, other) {
		t.Error("the key is not its tree's")
	}
	p.unregister(k)
	if p.mayCancel(k, mine) {
		t.Error("the key outlives its session")
	}
}
