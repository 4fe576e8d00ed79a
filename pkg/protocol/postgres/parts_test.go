package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	mine, other := process.ID{PID: 1, Start: 1}, process.ID{PID: 2, Start: 1}
	running := &cancelable{targetPID: 7, session: &protocol.Session{Process: &process.Process{Root: mine}}}
	for _, size := range []int{shortKey, longKey} {
		twin := &cancelable{targetPID: 7, session: running.session} // on another target
		if !p.cancels.add(running, size) || !p.cancels.add(twin, size) || len(running.key) != size {
			t.Fatalf("key %x", running.key)
		}
		good := &wire.Startup{PID: 7, Key: running.key}
		for name, tc := range map[string]struct {
			request *wire.Startup
			root    process.ID
			want    *cancelable
		}{
			"its own tree":   {good, mine, running},
			"another tree":   {good, other, nil},
			"no tree":        {good, process.ID{}, nil},
			"another number": {&wire.Startup{PID: 6, Key: running.key}, mine, nil},
			"another key":    {&wire.Startup{PID: 7, Key: make([]byte, size)}, mine, nil},
			"half a key":     {&wire.Startup{PID: 7, Key: running.key[:size/2]}, mine, nil},
			"no key":         {&wire.Startup{PID: 7}, mine, nil},
		} {
			if got := p.cancels.find(tc.request, &process.Process{Root: tc.root}); got != tc.want {
				t.Errorf("%s: got %v", name, got)
			}
		}
		if p.cancels.find(good, nil) != nil {
			t.Error("nobody cancels a session")
		}
		p.cancels.remove(running)
		p.cancels.remove(running)
		if p.cancels.find(good, &process.Process{Root: mine}) != nil {
			t.Error("the key outlives its session")
		}
		if p.cancels.find(&wire.Startup{PID: 7, Key: twin.key}, &process.Process{Root: mine}) != twin {
			t.Error("the other session of that number is gone, too")
		}
		p.cancels.remove(twin)
		if p.cancels.count != 0 || len(p.cancels.live) != 0 {
			t.Errorf("%d sessions are left", p.cancels.count)
		}
	}
}

func TestTheSessionsThatCanBeCancelledAreBounded(t *testing.T) {
	someone := &protocol.Session{Process: &process.Process{Root: process.ID{PID: 1, Start: 1}}}
	c := cancels{live: map[uint32][]*cancelable{}, limit: 2, key: randomKey}
	for i, want := range []bool{true, true, false} {
		if ok := c.add(&cancelable{session: someone}, shortKey); ok != want {
			t.Errorf("session %d: %v, want %v", i, ok, want)
		}
	}
	if (&cancels{}).add(&cancelable{session: someone}, shortKey) {
		t.Error("the zero value takes a session")
	}
}
