package postgres_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// denyUnknown denies what is not known, and DROP.
func denyUnknown() func(*policy.Operation) *protocol.Denial {
	return deny(policy.Unknown, statement.Drop)
}

func TestAViewCannotChangeHowAPipelinedTextIsRead(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = denyUnknown() })
	text := `select 'a\' as x, '; drop table lexed; --'`
	off := "update hidden_settings set setting = 'off' where name = 'standard_conforming_strings'"
	sync := &pgproto3.Sync{}
	for name, send := range map[string][]pgproto3.FrontendMessage{
		"query": {&pgproto3.Query{String: off}, &pgproto3.Query{String: text}},
		"extended": {
			&pgproto3.Parse{Query: off}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync, &pgproto3.Query{String: text},
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			mustExec(t, conn, "create table if not exists lexed (id int)")
			mustExec(t, conn, "create or replace view hidden_settings as select * from pg_settings")
			if got := script(t, conn, 2, send...); !strings.Contains(got, "E42501 Z") {
				t.Errorf("the text was let through: %s", got)
			}
			other := mustConnect(t, g)
			if got := cells(t, other, modes["simple"], "select count(*) from lexed"); got[0][0] != "0" {
				t.Errorf("the table holds %v", got)
			}
		})
	}
}

func TestATextWithABackslashIsReadWhenNothingIsUnanswered(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = denyUnknown() })
	conn := mustConnect(t, g)
	for name, mode := range modes {
		for range 3 {
			if got := cells(t, conn, mode, `select 'a\' as x, 'é' as y`); got[0][0] != `a\` {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

func TestASwallowedSyncDoesNotShiftTheAnswers(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	query := func(text string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Query{String: text}}
	}
	copying := []pgproto3.FrontendMessage{
		&pgproto3.Parse{Query: "copy notes (body) from stdin"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{},
	}
	done := []pgproto3.FrontendMessage{&pgproto3.CopyDone{}, &pgproto3.Sync{}}
	twice := query("copy notes (body) from stdin; copy notes (body) from stdin")
	swallowed := []pgproto3.FrontendMessage{&pgproto3.Sync{}, &pgproto3.CopyDone{}}
	for name, tc := range map[string]struct {
		steps [][]pgproto3.FrontendMessage // each but the last waits for CopyInResponse
		want  string
	}{
		"extended": {[][]pgproto3.FrontendMessage{copying, done}, "1 2 C(COPY 0) ZI"},
		"two in one query": {
			[][]pgproto3.FrontendMessage{twice, {&pgproto3.CopyDone{}}, swallowed}, "C(COPY 0) C(COPY 0) ZI",
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			var got string
			last := len(tc.steps) - 1
			for _, send := range tc.steps[:last] {
				got += untilCopyIn(t, conn, send...)
			}
			got += script(t, conn, 1, tc.steps[last]...)
			if got != tc.want {
				t.Errorf("COPY was answered %q, want %q", got, tc.want)
			}
			if got := script(t, conn, 1, query("select 1/0")...); got != "E22012 ZI" {
				t.Errorf("an error was answered %q", got)
			}
			for range 2 {
				if got := script(t, conn, 1, query("select ssn || '' from customers where id = 1")...); got != "T [[redacted]] C(SELECT 1) ZI" {
					t.Errorf("the query was answered %q", got)
				}
			}
		})
	}
}

func TestAnErrorThatMayBeOfTwoRequestsEndsTheSession(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, dsn(g.addr, "agent", "agent-password"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	untilCopyIn(t, conn, &pgproto3.Parse{Query: "copy notes (body) from stdin"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	if got := script(t, conn, 1, &pgproto3.CopyFail{}, &pgproto3.Sync{}); got != "E57014 ZI" {
		t.Fatalf("COPY was answered %q", got)
	}
	f := conn.PgConn().Frontend()
	f.Send(&pgproto3.Query{String: "select 1/0"})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	m, err := f.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := m.(*pgproto3.ErrorResponse); !ok || e.Code != "08P01" || e.Severity != "FATAL" {
		t.Errorf("the error was answered %#v", m)
	}
}

// untilCopyIn sends messages and returns what comes in front of CopyInResponse.
func untilCopyIn(tb testing.TB, conn *pgx.Conn, messages ...pgproto3.FrontendMessage) string {
	tb.Helper()
	f := conn.PgConn().Frontend()
	for _, m := range messages {
		f.Send(m)
	}
	if err := f.Flush(); err != nil {
		tb.Fatal(err)
	}
	var out string
	for {
		m, err := f.Receive()
		if err != nil {
			tb.Fatal(err)
		}
		switch m := m.(type) {
		case *pgproto3.CopyInResponse:
			return out
		case *pgproto3.ParseComplete:
			out += "1 "
		case *pgproto3.BindComplete:
			out += "2 "
		case *pgproto3.CommandComplete:
			out += "C(" + string(m.CommandTag) + ") "
		default:
			tb.Fatalf("got %T", m)
		}
	}
}

func TestNamesThatTheServerWouldCutEndTheSession(t *testing.T) {
	g := newGate(t, nil)
	fits, long := strings.Repeat("a", 63), strings.Repeat("a", 64)
	for name, message := range map[string]pgproto3.FrontendMessage{
		"parse":              &pgproto3.Parse{Name: long, Query: "select 1"},
		"bind a portal":      &pgproto3.Bind{DestinationPortal: long, PreparedStatement: fits},
		"bind a statement":   &pgproto3.Bind{PreparedStatement: long},
		"execute":            &pgproto3.Execute{Portal: long},
		"describe":           &pgproto3.Describe{ObjectType: 'S', Name: long},
		"close":              &pgproto3.Close{ObjectType: 'P', Name: long},
		"oversized, as well": &pgproto3.Parse{Name: long, Query: strings.Repeat(" ", 2<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			conn, err := pgx.Connect(ctx, dsn(g.addr, "agent", "agent-password"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(ctx)
			parse := &pgproto3.Parse{Name: fits, Query: "select 1"}
			bind := &pgproto3.Bind{DestinationPortal: fits, PreparedStatement: fits}
			if got := script(t, conn, 1, parse, bind, &pgproto3.Execute{Portal: fits}, &pgproto3.Sync{}); got != "1 2 [1] C(SELECT 1) ZI" {
				t.Errorf("a name that fits was answered %q", got)
			}
			f := conn.PgConn().Frontend()
			f.Send(message)
			f.Send(&pgproto3.Sync{})
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
			m, err := f.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := m.(*pgproto3.ErrorResponse); !ok || e.Code != "08P01" {
				t.Errorf("a longer one was answered %#v", m)
			}
		})
	}
}

// twoMeanings makes a relation whose column is protected in one schema only, and a
// view that makes it that one.
const twoMeanings = `
drop schema if exists plain cascade;
create schema plain;
create table plain.meaning (x text);
create or replace view public.meaning as select ssn as x from customers where id = 1;
create or replace view public.switches as select set_config('search_path', 'public', false);
grant usage on schema plain to agent;
grant select on plain.meaning, public.meaning, public.switches to agent;`

func TestADescriptionOfAStatementIsNotTrustedLater(t *testing.T) {
	need(t)
	if _, err := shared.server.Exec(testDatabase, twoMeanings); err != nil {
		t.Fatal(err)
	}
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	sync := &pgproto3.Sync{}
	parse, describe := &pgproto3.Parse{Name: "s", Query: "select x from meaning"}, &pgproto3.Describe{ObjectType: 'S', Name: "s"}
	bind, execute := &pgproto3.Bind{DestinationPortal: "q", PreparedStatement: "s"}, &pgproto3.Execute{Portal: "q"}
	t.Run("a view changes the setting", func(t *testing.T) {
		conn := mustConnect(t, g)
		mustExec(t, conn, "set search_path = plain")
		script(t, conn, 1, parse, describe, sync)
		mustExec(t, conn, "select * from public.switches")
		if got := script(t, conn, 1, bind, execute, sync); got != "2 [[redacted]] C(SELECT 1) ZI" {
			t.Errorf("the rows are %q", got)
		}
	})
	t.Run("an error undoes the setting", func(t *testing.T) {
		conn := mustConnect(t, g)
		f := conn.PgConn().Frontend()
		f.Send(&pgproto3.Parse{Query: "set search_path = plain"})
		f.Send(&pgproto3.Bind{})
		f.Send(&pgproto3.Execute{})
		f.Send(parse)
		f.Send(describe)
		f.Send(&pgproto3.Flush{})
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		for described := false; !described; {
			m, err := f.Receive()
			if err != nil {
				t.Fatal(err)
			}
			_, described = m.(*pgproto3.RowDescription)
		}
		got := script(t, conn, 2, &pgproto3.Parse{Query: "select 1/0"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync, bind, execute, sync)
		if got != "1 E22012 ZI 2 [[redacted]] C(SELECT 1) ZI" {
			t.Errorf("the rows are %q", got)
		}
	})
}

func TestWhatAPortalRunsByNameIsNotExchangedBehindItsDescription(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	sync := &pgproto3.Sync{}
	for name, tc := range map[string]struct{ first, use, forget, then string }{
		"prepared": {
			"prepare p as select name from customers where id = 1", "execute p",
			"deallocate p", "prepare p as select ssn from customers where id = 1",
		},
		"cursor": {
			"declare p cursor for select name from customers where id = 1", "fetch all from p",
			"close p", "declare p cursor for select ssn from customers where id = 1",
		},
	} {
		for described, between := range map[string][]pgproto3.FrontendMessage{
			"described": {&pgproto3.Describe{ObjectType: 'P', Name: "q"}}, "not described": nil,
		} {
			t.Run(name+" "+described, func(t *testing.T) {
				conn := mustConnect(t, g)
				mustExec(t, conn, "begin")
				mustExec(t, conn, tc.first)
				bind := append([]pgproto3.FrontendMessage{
					&pgproto3.Parse{Query: tc.use}, &pgproto3.Bind{DestinationPortal: "q"},
				}, between...)
				script(t, conn, 1, append(bind, sync)...)
				script(t, conn, 2, &pgproto3.Query{String: tc.forget}, &pgproto3.Query{String: tc.then})
				if got := script(t, conn, 1, &pgproto3.Execute{Portal: "q"}, sync); got != "E42501 ZE" {
					t.Errorf("the rows are %q", got)
				}
			})
			t.Run(name+" unchanged "+described, func(t *testing.T) {
				conn := mustConnect(t, g)
				mustExec(t, conn, "begin")
				mustExec(t, conn, tc.first)
				bind := append([]pgproto3.FrontendMessage{
					&pgproto3.Parse{Name: "by name", Query: tc.use}, &pgproto3.Bind{DestinationPortal: "q", PreparedStatement: "by name"},
				}, between...)
				run := &pgproto3.Execute{Portal: "q", MaxRows: 1}
				script(t, conn, 1, append(bind, sync)...)
				if got := script(t, conn, 1, run, &pgproto3.Execute{Portal: "q"}, sync); !strings.HasPrefix(got, "[Ada Lovelace] s C(") {
					t.Errorf("the rows are %q", got)
				}
			})
		}
	}
}

func TestAPortalThatRunsByNameIsNotFetchedFrom(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	sync := &pgproto3.Sync{}
	for name, send := range map[string][]pgproto3.FrontendMessage{
		"query":    {&pgproto3.Query{String: "fetch all from q"}},
		"extended": {&pgproto3.Parse{Query: "fetch all from q"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync},
	} {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			mustExec(t, conn, "begin")
			mustExec(t, conn, "prepare p as select name from customers where id = 1")
			script(t, conn, 1, &pgproto3.Parse{Query: "execute p"}, &pgproto3.Bind{DestinationPortal: "q"}, sync)
			mustExec(t, conn, "deallocate p", pgx.QueryExecModeSimpleProtocol)
			mustExec(t, conn, "prepare p as select ssn from customers where id = 1", pgx.QueryExecModeSimpleProtocol)
			if got := script(t, conn, 1, send...); !strings.HasSuffix(got, "E42501 ZE") {
				t.Errorf("the rows are %q", got)
			}
		})
	}
}
