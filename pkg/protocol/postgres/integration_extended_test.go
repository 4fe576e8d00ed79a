package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

const secretNumber = "123-45-6789"

// script drives the protocol by hand: it sends messages and returns what comes
// up to the given number of ReadyForQuery.
func script(tb testing.TB, conn *pgx.Conn, ready int, messages ...pgproto3.FrontendMessage) string {
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
		case *pgproto3.DataRow:
			for _, v := range m.Values {
				if v == nil {
					out.WriteString("[NULL]")
				} else {
					out.WriteString("[" + string(v) + "]")
				}
			}
			out.WriteString(" ")
		case *pgproto3.ErrorResponse:
			out.WriteString("E" + m.Code + " ")
		case *pgproto3.CommandComplete:
			out.WriteString("C(" + string(m.CommandTag) + ") ")
		case *pgproto3.ReadyForQuery:
			out.WriteString("Z" + string(rune(m.TxStatus)) + " ")
			ready--
		case *pgproto3.ParseComplete:
			out.WriteString("1 ")
		case *pgproto3.BindComplete:
			out.WriteString("2 ")
		case *pgproto3.CloseComplete:
			out.WriteString("3 ")
		case *pgproto3.NoData:
			out.WriteString("n ")
		case *pgproto3.RowDescription:
			out.WriteString("T ")
		case *pgproto3.ParameterDescription:
			out.WriteString("t ")
		case *pgproto3.PortalSuspended:
			out.WriteString("s ")
		case *pgproto3.EmptyQueryResponse:
			out.WriteString("I ")
		}
	}
	return strings.TrimSpace(out.String())
}

func TestPipelinesGetTheAnswersThatTheServerGives(t *testing.T) {
	type messages = []pgproto3.FrontendMessage
	sync := &pgproto3.Sync{}
	tests := map[string]struct {
		ready int
		send  messages
		want  string
	}{
		"execute without describe is masked": {1, messages{
			&pgproto3.Parse{Query: "select ssn from customers where id = 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
		}, "1 2 [[redacted]] C(SELECT 1) ZI"},
		"suspended portals stay masked": {1, messages{
			&pgproto3.Parse{Query: "select ssn from customers order by id"}, &pgproto3.Bind{},
			&pgproto3.Execute{MaxRows: 1}, &pgproto3.Execute{MaxRows: 1}, &pgproto3.Execute{}, sync,
		}, "1 2 [[redacted]] s [[redacted]] s [NULL] C(SELECT 1) ZI"},
		"a name that is parsed again in one pipeline": {2, messages{
			&pgproto3.Parse{Name: "a", Query: "select name from customers where id = 1"}, sync,
			&pgproto3.Close{ObjectType: 'S', Name: "a"},
			&pgproto3.Parse{Name: "a", Query: "select ssn from customers where id = 1"},
			&pgproto3.Bind{PreparedStatement: "a"}, &pgproto3.Execute{}, sync,
		}, "1 ZI 3 1 2 [[redacted]] C(SELECT 1) ZI"},
		"everything up to sync is skipped after an error": {2, messages{
			&pgproto3.Parse{Query: "select 1/0"}, &pgproto3.Bind{}, &pgproto3.Execute{},
			&pgproto3.Query{String: "select 1"}, &pgproto3.Parse{Query: "select ssn from customers"}, sync,
			&pgproto3.Query{String: "select ssn from customers where id = 1"},
		}, "1 E22012 ZI T [[redacted]] C(SELECT 1) ZI"},
		"statements behind a blocked one are not run": {2, messages{
			&pgproto3.Query{String: "select 1; drop table notes; select 2"},
			&pgproto3.Query{String: "select 3"},
		}, "E42501 ZI T [3] C(SELECT 1) ZI"},
		"an error in front of a blocked one is the server's": {1, messages{
			&pgproto3.Parse{Query: "select x"}, &pgproto3.Parse{Query: "drop table notes"}, sync,
		}, "E42703 ZI"},
		"a blocked named parse leaves no statement": {2, messages{
			&pgproto3.Parse{Name: "d", Query: "drop table notes"}, sync,
			&pgproto3.Bind{PreparedStatement: "d"}, &pgproto3.Execute{}, sync,
		}, "E42501 ZI E26000 ZI"},
		"sql names and protocol names are the same": {4, messages{
			&pgproto3.Query{String: "prepare q as select ssn from customers where id = 1"},
			&pgproto3.Bind{PreparedStatement: "q"}, &pgproto3.Execute{}, sync,
			&pgproto3.Query{String: "execute q"}, &pgproto3.Query{String: "deallocate q"},
		}, "C(PREPARE) ZI 2 [[redacted]] C(SELECT 1) ZI T [[redacted]] C(SELECT 1) ZI C(DEALLOCATE) ZI"},
		"execute of a name that nobody knows is unknown": {1, messages{
			&pgproto3.Query{String: "execute nobody"},
		}, "E42501 ZI"},
		"cursors are masked": {4, messages{
			&pgproto3.Query{String: "begin"},
			&pgproto3.Query{String: "declare c cursor for select ssn, ssn || '', name from customers order by id"},
			&pgproto3.Query{String: "fetch 1 from c"}, &pgproto3.Query{String: "commit"},
		}, "C(BEGIN) ZT C(DECLARE CURSOR) ZT T [[redacted]][[redacted]][Ada Lovelace] C(FETCH 1) ZT C(COMMIT) ZI"},
		"a portal is fetched from by sql": {2, messages{
			&pgproto3.Query{String: "begin"},
			&pgproto3.Parse{Query: "select ssn, ssn || '' from customers order by id"}, &pgproto3.Bind{DestinationPortal: "p"},
			&pgproto3.Parse{Query: `fetch 1 from p`}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
		}, "C(BEGIN) ZT 1 2 1 2 [[redacted]][[redacted]] C(FETCH 1) ZT"},
		"an empty query is empty": {2, messages{
			&pgproto3.Query{String: ""}, &pgproto3.Parse{Query: "-- ping"}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, sync,
		}, "I ZI 1 2 n I ZI"},
		"several statements in one query": {1, messages{
			&pgproto3.Query{String: "select name from customers where id = 1; select ssn from customers where id = 1; select id from customers where id = 1"},
		}, "T [Ada Lovelace] C(SELECT 1) T [[redacted]] C(SELECT 1) T [1] C(SELECT 1) ZI"},
		"copy out in a pipeline is refused while masks are active": {2, messages{
			&pgproto3.Parse{Query: "copy customers to stdout"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync, &pgproto3.Query{String: "select 1"},
		}, "E42501 ZI T [1] C(SELECT 1) ZI"},
		"a table that is made meanwhile is protected": {5, messages{
			&pgproto3.Query{String: "begin"},
			&pgproto3.Query{String: "create temp table fresh as select ssn as harmless from customers where id = 1"},
			&pgproto3.Query{String: "select harmless from fresh"}, &pgproto3.Query{String: "select harmless || '' from fresh"},
			&pgproto3.Query{String: "rollback"},
		}, "C(BEGIN) ZT C(SELECT 1) ZT T [[redacted]] C(SELECT 1) ZT T [[redacted]] C(SELECT 1) ZT C(ROLLBACK) ZI"},
		"a view that is replaced meanwhile is protected": {4, messages{
			&pgproto3.Query{String: "begin; create temp view tv as select name as n from customers where id = 1"},
			&pgproto3.Query{String: "create or replace temp view tv as select ssn as n from customers where id = 1"},
			&pgproto3.Query{String: "select n from tv"}, &pgproto3.Query{String: "rollback"},
		}, "C(BEGIN) C(CREATE VIEW) ZT C(CREATE VIEW) ZT T [[redacted]] C(SELECT 1) ZT C(ROLLBACK) ZI"},
		"a description of before a change of settings is not trusted": {3, messages{
			&pgproto3.Query{String: "create temp table t1 (ssn text, other text)"},
			&pgproto3.Parse{Name: "w", Query: "select name from customers where id = 1"}, &pgproto3.Describe{ObjectType: 'S', Name: "w"}, sync,
			&pgproto3.Bind{PreparedStatement: "w"}, &pgproto3.Execute{}, sync,
		}, "C(CREATE TABLE) ZI 1 t T ZI 2 [Ada Lovelace] C(SELECT 1) ZI"},
		"copy in passes, with the sync that the server swallows": {3, messages{
			&pgproto3.Parse{Query: "copy notes (body) from stdin"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
			&pgproto3.CopyData{Data: []byte("copied\n")}, &pgproto3.CopyDone{}, sync,
			&pgproto3.Query{String: "select ssn from customers where id = 1"},
			&pgproto3.Parse{Query: "select ssn from customers where id = 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
		}, "1 2 C(COPY 1) ZI T [[redacted]] C(SELECT 1) ZI 1 2 [[redacted]] C(SELECT 1) ZI"},
		"copy in that fails": {3, messages{
			&pgproto3.Parse{Query: "copy notes (id) from stdin"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
			&pgproto3.CopyData{Data: []byte("no number\n")}, &pgproto3.CopyDone{}, sync,
			&pgproto3.Query{String: "select ssn from customers where id = 1"},
			&pgproto3.Parse{Query: "select ssn from customers where id = 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
		}, "1 2 E22P02 ZI T [[redacted]] C(SELECT 1) ZI 1 2 [[redacted]] C(SELECT 1) ZI"},
		"text that may be read otherwise is unknown": {2, messages{
			&pgproto3.Query{String: "set standard_conforming_strings = off"},
			&pgproto3.Query{String: `select '\''; drop table notes; --'`},
		}, "C(SET) ZI E42501 ZI"},
		"once it was reported, every text is": {2, messages{
			&pgproto3.Query{String: "set client_encoding = 'LATIN1'"},
			&pgproto3.Query{String: "select 'é'"},
		}, "C(SET) ZI E42501 ZI"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(g *gate) {
				judge := deny("drop", "unknown")
				g.decide = func(op *policy.Operation) *protocol.Denial {
					if strings.HasPrefix(op.Text, "set ") {
						return nil
					}
					return judge(op)
				}
				g.masks = mustMask(t, ssnRule())
			})
			conn := mustConnect(t, g)
			if diff := cmp.Diff(tc.want, script(t, conn, tc.ready, tc.send...)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			g.set(func() {
				for _, err := range g.errs {
					t.Errorf("session ended with %v", err)
				}
			})
		})
	}
}

func TestErrorsAndNoticesDoNotCarryProtectedData(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	ctx := testContext(t)
	config, err := pgx.ParseConfig(dsn(g.addr, "agent", "agent-password"))
	if err != nil {
		t.Fatal(err)
	}
	var notices []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message+n.Detail+n.Where) }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, sql := range []string{
		"select cast(ssn as int) from customers",
		"insert into customers (id, name, ssn) values (77, 'x', '123-45-6789')",
		"do $$ declare s text; begin select ssn into s from customers where id = 1; raise exception 'it is %', s; end $$",
		"do $$ declare s text; begin select ssn into s from customers where id = 1; raise exception 'it is %', s using errcode = '57014'; end $$",
		"do $$ declare s text; begin select ssn into s from customers where id = 1; raise notice 'it is %', s; perform 1/0; end $$",
		"select leak()::int",
	} {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		var e *pgconn.PgError
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", sql, err)
		}
		text := e.Message + e.Detail + e.Where + e.Hint + e.InternalQuery
		if strings.Contains(text, secretNumber) || strings.Contains(text, "it is") && strings.Contains(text, "123") {
			t.Errorf("%s: %q reached the agent", sql, text)
		}
	}
	if len(notices) == 0 {
		t.Error("no notice came")
	}
	for _, n := range notices {
		if strings.Contains(n, secretNumber) {
			t.Errorf("notice %q reached the agent", n)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.frames {
		if f.Outcome != nil && strings.Contains(f.Outcome.Error, secretNumber) {
			t.Errorf("recorded %q", f.Outcome.Error)
		}
	}
}

func TestErrorsThatSpeakOfNamesAreLeftAlone(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	_, err := conn.Exec(testContext(t), `select "nothing" from customers`)
	if e := pgError(t, err, "42703"); e.Message != `column "nothing" does not exist` {
		t.Errorf("message is %q", e.Message)
	}
}

func TestDetectorsLookIntoEveryValue(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.masks = mustMask(t, mask.Rule{Name: "pii", Detect: []string{"pan", "email", "ssn"}, With: "redact"})
	})
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			for sql, want := range map[string][][]string{
				"select card, email, name from customers where id = 1":                  {{"[redacted]", "[redacted]", "Ada Lovelace"}},
				"select 4111111111111111::int8":                                         {{"NULL"}},
				"select 4111111111111111::numeric":                                      {{"NULL"}},
				"select array[card] from customers where id = 1":                        {{"NULL"}},
				"select name from customers where id = 2":                               {{"Grace Hopper"}},
				"select json_build_object('a', card)::text from customers where id = 1": {{`{"a" : "[redacted]"}`}},
			} {
				if diff := cmp.Diff(want, cells(t, conn, mode, sql)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", sql, diff)
				}
			}
		})
	}
}

func TestACancelRequestOfTheSameTreeIsForwarded(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "select pg_sleep(20)")
		failed <- err
	}()
	ctx := testContext(t)
	for {
		if err := conn.PgConn().CancelRequest(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-failed:
			wantCode(t, err, "57014")
			return
		case <-time.After(50 * time.Millisecond): // the statement may not run yet
		case <-ctx.Done():
			t.Fatal("never cancelled")
		}
	}
}

func TestACancelRequestOfAnotherTreeIsDropped(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	g.set(func() { g.root.PID = 2 })
	if err := conn.PgConn().CancelRequest(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "select pg_sleep(0.2)")
}

func TestNotificationsArrive(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	mustExec(t, conn, "listen c")
	mustExec(t, conn, "notify c, 'hello'")
	n, err := conn.WaitForNotification(testContext(t))
	if err != nil || n.Payload != "hello" {
		t.Fatalf("got %v, %v", n, err)
	}
}

func TestCopyWorksBothWays(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	ctx := testContext(t)
	data := strings.Repeat("many rows\n", 50_000)
	tag, err := conn.PgConn().CopyFrom(ctx, strings.NewReader(data), "copy notes (body) from stdin")
	if err != nil || tag.RowsAffected() != 50_000 {
		t.Fatalf("copy in: %v, %v", tag, err)
	}
	var out bytes.Buffer
	if _, err := conn.PgConn().CopyTo(ctx, &out, "copy (select body from notes where body = 'many rows') to stdout"); err != nil {
		t.Fatal(err)
	}
	if out.String() != data {
		t.Errorf("copied %d bytes, want %d", out.Len(), len(data))
	}
	mustExec(t, conn, "delete from notes where body = 'many rows'")
}

func TestOurCredentialLogsInAndTheAgentIsAskedNothing(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
	})
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, dsn(g.addr, "nobody", "")+"&database=postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var user string
	if err := conn.QueryRow(ctx, "select current_user::text").Scan(&user); err != nil || user != "agent" {
		t.Fatalf("user is %q, %v", user, err)
	}
}

func TestAWrongCredentialIsRefusedWithoutTheServersWords(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("wrong"))}
	})
	_, err := pgx.Connect(testContext(t), dsn(g.addr, "nobody", ""))
	if e := pgError(t, err, "28000"); strings.Contains(e.Message, "agent") {
		t.Errorf("message is %q", e.Message)
	}
}

func TestReplicationIsRefused(t *testing.T) {
	g := newGate(t, nil)
	_, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", "agent-password")+"&replication=database")
	wantCode(t, err, "28000")
	g.set(func() {
		if len(g.operations) != 1 || g.operations[0].Verb != "replication" {
			t.Errorf("operations are %v", g.operations)
		}
	})
}

func TestWhatHappenedIsRecorded(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	g.mu.Lock()
	g.frames, g.operations = nil, nil
	g.mu.Unlock()
	cells(t, conn, pgx.QueryExecModeSimpleProtocol, "select name, ssn from customers where id = 1")
	g.mu.Lock()
	defer g.mu.Unlock()
	name, hidden := "Ada Lovelace", "[redacted]"
	want := []protocol.Frame{
		{Op: g.frames[0].Op, Kind: protocol.FrameTable, Columns: []string{"name", "ssn"}, Rows: [][]*string{{&name, &hidden}}},
		{Op: g.frames[0].Op, Kind: protocol.FrameResult, Outcome: &protocol.Outcome{Tag: "SELECT 1", Rows: 1, Bytes: 32, Masked: 1, Detected: map[string]uint64{"column": 1}}},
	}
	if diff := cmp.Diff(want, g.frames); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	if len(g.operations) != 1 || g.operations[0].Verb != "select" {
		t.Errorf("operations are %v", g.operations)
	}
}

func TestParametersAreJudgedWithTheirStatement(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	mustExec(t, conn, "select $1::text, $2::int", "a", 7)
	g.mu.Lock()
	defer g.mu.Unlock()
	last := g.operations[len(g.operations)-1]
	if diff := cmp.Diff([]string{"a", `\x00000007`}, last.Parameters); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
}

func TestOversizeStatementsAreRefusedAndTheSessionGoesOn(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("unknown") })
	conn := mustConnect(t, g)
	ctx := testContext(t)
	for name, mode := range modes {
		_, err := conn.Exec(ctx, "select 1 -- "+strings.Repeat("x", 3<<20), mode)
		if err == nil {
			t.Fatalf("%s: not refused", name)
		}
		wantCode(t, err, "42501")
	}
	mustExec(t, conn, "select 1")
}

func TestObserveAltersNothing(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.observe, g.masks = true, mustMask(t, ssnRule())
		g.decide = func(*policy.Operation) *protocol.Denial { return nil }
	})
	conn := mustConnect(t, g)
	got := cells(t, conn, pgx.QueryExecModeCacheStatement, "select ssn from customers where id = 1")
	if diff := cmp.Diff([][]string{{secretNumber}}, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	g.set(func() {
		if len(g.operations) == 0 {
			t.Error("nothing was judged")
		}
	})
}

func TestFunctionCallsAreJudged(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("function_call") })
	conn := mustConnect(t, g)
	got := script(t, conn, 2, &pgproto3.FunctionCall{Function: 1299, ResultFormatCode: 0}, &pgproto3.Query{String: "select 1"})
	if got != "E42501 ZI T [1] C(SELECT 1) ZI" {
		t.Errorf("answers are %s", got)
	}
}

func TestATextIsReadAgainOnceTheServerHasReported(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = deny("unknown") })
	conn := mustConnect(t, g)
	mustExec(t, conn, "set search_path = public", pgx.QueryExecModeSimpleProtocol)
	got := cells(t, conn, pgx.QueryExecModeSimpleProtocol, `select 'a\b'`)
	if diff := cmp.Diff([][]string{{`a\b`}}, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestEachStatementOfABatchIsJudgedByItself(t *testing.T) {
	g := newGate(t, nil)
	ctx := testContext(t)
	conn := mustConnect(t, g)
	texts := []string{"select 1 as a", "select 2 as b", "select 3 as c"}
	batch := &pgconn.Batch{}
	for _, text := range texts {
		batch.ExecParams(text, nil, nil, nil, nil)
	}
	if _, err := conn.PgConn().ExecBatch(ctx, batch).ReadAll(); err != nil {
		t.Fatal(err)
	}
	g.set(func() {
		var got []string
		for i := range g.operations {
			got = append(got, g.operations[i].Text)
		}
		var want []string
		for _, text := range texts {
			want = append(want, text, text) // its Parse and its Execute
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("judged (-want +got):\n%s", diff)
		}
	})
}
