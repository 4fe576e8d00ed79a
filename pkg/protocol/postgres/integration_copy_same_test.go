package postgres_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
)

// transcript sends messages and returns everything that comes, up to the given
// number of ReadyForQuery: what depends on the server's source and on the wording
// of a position in it is left out.
func transcript(tb testing.TB, conn *pgx.Conn, ready int, messages ...pgproto3.FrontendMessage) string {
	tb.Helper()
	f := conn.PgConn().Frontend()
	for _, m := range messages {
		f.Send(m)
	}
	if err := f.Flush(); err != nil {
		tb.Fatal(err)
	}
	if err := conn.PgConn().Conn().SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	var out strings.Builder
	for ready > 0 {
		m, err := f.Receive()
		if err != nil {
			tb.Fatalf("after %s: %v", out.String(), err)
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			fmt.Fprintf(&out, "error %s %s %q %q %q %d\n", m.Severity, m.Code, m.Message, m.Detail, m.Hint, m.Position)
		case *pgproto3.NoticeResponse:
			fmt.Fprintf(&out, "notice %s %s %q\n", m.Severity, m.Code, m.Message)
		case *pgproto3.CopyData:
			fmt.Fprintf(&out, "data %q\n", m.Data)
		case *pgproto3.RowDescription:
			fmt.Fprintf(&out, "rows of %d\n", len(m.Fields))
		case *pgproto3.DataRow:
			fmt.Fprintf(&out, "row %q\n", m.Values)
		case *pgproto3.CommandComplete:
			fmt.Fprintf(&out, "complete %s\n", m.CommandTag)
		case *pgproto3.ReadyForQuery:
			fmt.Fprintf(&out, "ready %c\n", m.TxStatus)
			ready--
		default:
			fmt.Fprintf(&out, "%T %v\n", m, m)
		}
	}
	return out.String()
}

// round is what an agent sends at once, and how often the server gets ready.
type round struct {
	ready int
	send  []pgproto3.FrontendMessage
}

// queries is a round of queries, which are sent without waiting.
func queries(list ...string) round {
	r := round{ready: len(list)}
	for _, sql := range list {
		r.send = append(r.send, &pgproto3.Query{String: sql})
	}
	return r
}

func together(ready int, messages ...pgproto3.FrontendMessage) round {
	return round{ready, messages}
}

const tenRows = "copy (select i, 'x' || i from generate_series(1, 10) i) to stdout"

// TestACopyIsAnsweredAsByTheServer says the same to the server and to the gate,
// where a mask makes a COPY take another way.
func TestACopyIsAnsweredAsByTheServer(t *testing.T) {
	direct := mustDirect(t)
	mustExec(t, direct, `drop table if exists copy_child, copy_parent, copy_hidden;
		create table copy_parent (id int primary key);
		create table copy_child (id int references copy_parent deferrable initially deferred);
		create table copy_hidden (id int);
		grant all on copy_parent, copy_child to agent`)
	parse, bind, execute, sync := &pgproto3.Parse{Query: "select 7"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}
	half := "copy (select 1000 / (1000 - i) from generate_series(1, 2000) i) to stdout"
	tests := map[string][]round{
		"in a transaction of its own":  {queries(tenRows), queries("select 1")},
		"nothing":                      {queries("copy (select 1 where false) to stdout"), queries("copy (select) to stdout")},
		"binary":                       {queries("copy (select i, null::text from generate_series(1, 3) i) to stdout (format binary)")},
		"with semicolons and comments": {queries("  /* ( */ copy (select 1 /* ) */) to stdout -- x\n;;")},
		"in a transaction":             {queries("begin"), queries(tenRows), queries("select 1"), queries("commit")},
		"in a failed transaction":      {queries("begin"), queries("select 1/0"), queries(tenRows), queries("rollback"), queries(tenRows)},
		"an error in the middle":       {queries(half), queries("select 1")},
		"an error in the middle of a transaction": {
			queries("begin"), queries("savepoint s"), queries(half), queries(tenRows), queries("rollback to s"), queries(tenRows), queries("commit"),
		},
		"a table that is missing":            {queries("copy nosuch to stdout"), queries("select 1")},
		"a table that is missing in a query": {queries(" /* é */ copy (select 1 from nosuch) to stdout"), queries("select 1")},
		"a column that is missing in a query": {queries("begin"),
			queries("copy (select 'é', nosuch from copy_parent) to stdout"), queries("commit")},
		"a view":                            {queries("copy names_only to stdout"), queries("select 1")},
		"no right to read":                  {queries("copy copy_hidden to stdout"), queries("copy (select * from copy_hidden) to stdout")},
		"a query that returns nothing":      {queries("copy (delete from copy_parent) to stdout"), queries("select 1")},
		"a parameter":                       {queries("copy (select $1) to stdout")},
		"a commit that fails":               {queries("copy (insert into copy_child values (7) returning id) to stdout"), queries("select count(*) from copy_child")},
		"a write":                           {queries("copy (insert into copy_parent values (1) returning id) to stdout", "copy copy_parent to stdout", "delete from copy_parent")},
		"other queries around it":           {queries("select 1", tenRows, "select 2", tenRows, "select 3")},
		"a time limit":                      {queries("set statement_timeout = 200", "copy (select pg_sleep(10)) to stdout", "reset statement_timeout", tenRows)},
		"an isolation level":                {queries("begin", tenRows, "set transaction isolation level serializable", "rollback")},
		"serializable":                      {queries("begin", "set transaction isolation level serializable, read only", tenRows, "show transaction_isolation", "commit")},
		"read only":                         {queries("begin read only", "copy (insert into copy_parent values (2) returning id) to stdout", "rollback")},
		"it destroys the unnamed statement": {together(1, parse, sync), queries(tenRows), together(1, bind, execute, sync)},
		"it destroys it when it fails":      {together(1, parse, sync), queries("copy nosuch to stdout"), together(1, bind, execute, sync)},
		"it leaves named ones alone": {
			together(1, &pgproto3.Parse{Name: "kept", Query: "select 8"}, sync), queries(tenRows), together(1, &pgproto3.Bind{PreparedStatement: "kept"}, execute, sync),
		},
		"it destroys the unnamed portal": {queries("begin"), together(1, parse, bind, sync), queries(tenRows), together(1, execute, sync), queries("rollback")},
		"it leaves named portals alone": {
			queries("begin"), together(1, parse, &pgproto3.Bind{DestinationPortal: "p"}, sync), queries(tenRows),
			together(1, &pgproto3.Execute{Portal: "p"}, sync), queries("rollback"),
		},
		"behind a pipeline that failed": {
			together(1, &pgproto3.Parse{Query: "select 1/0"}, bind, execute, &pgproto3.Query{String: tenRows}, sync), queries(tenRows),
		},
		"behind a copy in": {
			together(2, &pgproto3.Query{String: "copy notes (body) from stdin"}, &pgproto3.CopyData{Data: []byte("x\n")}, &pgproto3.CopyDone{},
				&pgproto3.Query{String: tenRows}),
		},
	}
	for name, rounds := range tests {
		t.Run(name, func(t *testing.T) {
			want := held(t, need(t), rounds)
			for kind, rule := range map[string]mask.Rule{
				"detectors": {Name: "d", Detect: []string{"pan"}, With: "redact"}, "columns": ssnRule(),
			} {
				g := newGate(t, func(g *gate) { g.masks = mustMask(t, rule) })
				want, got := want, held(t, g.addr, rounds)
				if kind == "columns" { // errors may be withheld
					want, got = wordsOfErrors.ReplaceAllString(want, "$1"), wordsOfErrors.ReplaceAllString(got, "$1")
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("with %s (-server +gate):\n%s", kind, diff)
				}
				g.set(func() {
					for _, err := range g.errs {
						if err != nil { // one that ended in order may be over already
							t.Errorf("with %s: session ended with %v", kind, err)
						}
					}
				})
			}
		})
	}
}

// wordsOfErrors finds what errors say beside their code.
var wordsOfErrors = regexp.MustCompile(`(error [A-Z]+ [0-9A-Z]{5}) .*`)

// held holds the rounds with whoever listens at addr.
func held(tb testing.TB, addr string, rounds []round) string {
	tb.Helper()
	conn, err := pgx.Connect(testContext(tb), dsn(addr, "agent", "agent-password"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.Background())
	var out strings.Builder
	for i, r := range rounds {
		fmt.Fprintf(&out, "round %d\n%s", i, transcript(tb, conn, r.ready, r.send...))
	}
	return out.String()
}
