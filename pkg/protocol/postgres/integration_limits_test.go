package postgres_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// atMost limits every result whose statement mentions "series" or is about
// "bulk", so that what a test does beside is not limited.
func atMost(rows, bytes uint64) func(*policy.Operation) func(given, more protocol.Volume) *protocol.Denial {
	return func(op *policy.Operation) func(given, more protocol.Volume) *protocol.Denial {
		if !strings.Contains(op.Text, "series") {
			return nil
		}
		return func(given, more protocol.Volume) *protocol.Denial {
			if given.Rows+more.Rows <= rows && given.Bytes+more.Bytes <= bytes {
				return nil
			}
			return &protocol.Denial{ID: "op-x", Rule: "few", Reason: protocol.ReasonLimit, Detail: fmt.Sprintf("rule %q allows %d rows in one result", "few", rows)}
		}
	}
}

const never = 1 << 60

// countRows reads a result to its end and returns how many rows there were.
func countRows(tb testing.TB, conn *pgx.Conn, mode pgx.QueryExecMode, sql string) (int, error) {
	tb.Helper()
	rows, err := conn.Query(testContext(tb), sql, mode)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
	}
	return n, rows.Err()
}

const million = "select g from generate_series(1, 1000000) g"

func TestAResultEndsAtItsLimitAndTheSessionGoesOn(t *testing.T) {
	g := newGate(t, func(g *gate) { g.spend = atMost(1000, never) })
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			for range 3 {
				n, err := countRows(t, conn, mode, million)
				e := pgError(t, err, "54000")
				if n > 1000 || n < 900 || e.Severity != "ERROR" {
					t.Errorf("%d rows and %s, want 1000 and ERROR", n, e.Severity)
				}
				if want := `headgate: denied (limit): rule "few" allows 1000 rows in one result`; e.Message != want {
					t.Errorf("message %q, want %q", e.Message, want)
				}
				if !strings.Contains(e.Hint, "Ask for less at a time") || !strings.Contains(e.Detail, "rule few") {
					t.Errorf("hint %q, detail %q", e.Hint, e.Detail)
				}
				if n, err := countRows(t, conn, mode, "select g from generate_series(1, 1000) g"); n != 1000 || err != nil {
					t.Fatalf("as many rows as the limit allows: %d, %v", n, err)
				}
			}
		})
	}
}

func TestAResultThatEndsAtItsLimitAbortsItsTransaction(t *testing.T) {
	g := newGate(t, func(g *gate) { g.spend = atMost(1000, never) })
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			mark := "limit " + rand.Text()
			mustExec(t, conn, "begin", mode)
			mustExec(t, conn, "insert into notes (body) values ('"+mark+" lost')", mode)
			_, err := countRows(t, conn, mode, million)
			wantCode(t, err, "54000")
			_, err = conn.Exec(testContext(t), "select 1", mode)
			wantCode(t, err, "25P02")
			mustExec(t, conn, "rollback", mode)
			if n := count(t, mark+" lost"); n != 0 {
				t.Errorf("%d rows of a transaction that was aborted", n)
			}

			mustExec(t, conn, "begin", mode)
			mustExec(t, conn, "insert into notes (body) values ('"+mark+" kept')", mode)
			mustExec(t, conn, "savepoint s", mode)
			mustExec(t, conn, "insert into notes (body) values ('"+mark+" lost')", mode)
			_, err = countRows(t, conn, mode, million)
			wantCode(t, err, "54000")
			mustExec(t, conn, "rollback to s", mode)
			mustExec(t, conn, "commit", mode)
			if kept, lost := count(t, mark+" kept"), count(t, mark+" lost"); kept != 1 || lost != 0 {
				t.Errorf("%d rows from before the savepoint, %d from behind it", kept, lost)
			}
		})
	}
}

// shorten shortens what script returns: a run of rows becomes its length.
func shorten(out string) string {
	var short []string
	rows := 0
	flush := func() {
		if rows > 0 {
			short = append(short, fmt.Sprintf("%d rows", rows))
		}
		rows = 0
	}
	for _, word := range strings.Fields(out) {
		if strings.HasPrefix(word, "[") {
			rows++
			continue
		}
		flush()
		short = append(short, word)
	}
	flush()
	return strings.Join(short, " ")
}

func TestLimitsKeepTheAnswersOfPipelines(t *testing.T) {
	type messages = []pgproto3.FrontendMessage
	sync := &pgproto3.Sync{}
	parse := func(sql string) pgproto3.FrontendMessage { return &pgproto3.Parse{Query: sql} }
	tests := map[string]struct {
		ready int
		send  messages
		want  string
	}{
		"up to the sync all is skipped": {1, messages{
			parse("insert into notes (body) values ('pipeline')"), &pgproto3.Bind{}, &pgproto3.Execute{},
			parse(million), &pgproto3.Bind{}, &pgproto3.Execute{},
			parse("insert into notes (body) values ('pipeline')"), &pgproto3.Bind{}, &pgproto3.Execute{}, sync,
		}, "1 2 C(INSERT 0 1) 1 2 1000 rows E54000 ZI"},
		"the rows of one portal are one result": {1, messages{
			parse(million), &pgproto3.Bind{},
			&pgproto3.Execute{MaxRows: 400}, &pgproto3.Execute{MaxRows: 400}, &pgproto3.Execute{}, sync,
		}, "1 2 400 rows s 400 rows s 200 rows E54000 ZI"},
		"another portal is another result": {2, messages{
			parse("select g from generate_series(1, 5000) g"),
			&pgproto3.Bind{DestinationPortal: "a"}, &pgproto3.Execute{Portal: "a", MaxRows: 700},
			&pgproto3.Bind{DestinationPortal: "b"}, &pgproto3.Execute{Portal: "b", MaxRows: 700}, sync,
			&pgproto3.Query{String: "select 1"},
		}, "1 2 700 rows s 2 700 rows s ZI T 1 rows C(SELECT 1) ZI"},
		"the statements of a query have limits of their own, and end together": {1, messages{
			&pgproto3.Query{String: "select g from generate_series(1, 900) g; select g from generate_series(1, 900000) g; insert into notes (body) values ('pipeline')"},
		}, "T 900 rows C(SELECT 900) T 1000 rows E54000 ZI"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(g *gate) { g.spend = atMost(1000, never) })
			conn := mustConnect(t, g)
			if diff := cmp.Diff(tc.want, shorten(script(t, conn, tc.ready, tc.send...))); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}
	if n := count(t, "pipeline"); n != 0 {
		t.Errorf("%d rows of what was rolled back", n)
	}
}

// Messages that the target would go on with behind the statement may be hit by a
// CancelRequest: none is sent, and the session ends.
func TestWhereACancelCouldHitAnotherStatementTheSessionEnds(t *testing.T) {
	for name, send := range map[string][]pgproto3.FrontendMessage{
		"a second query": {&pgproto3.Query{String: million}, &pgproto3.Query{String: "select pg_sleep(0)"}},
		"behind a sync":  {&pgproto3.Parse{Query: million}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}, &pgproto3.Query{String: "select 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(g *gate) { g.spend = atMost(1000, never) })
			conn := mustConnect(t, g)
			dials := func() (n int) {
				g.set(func() { n = g.dials })
				return n
			}
			before := dials()
			rows, last := readToEnd(t, conn, send...)
			if rows > 1000 || last == nil || last.Code != "54000" || last.Severity != "FATAL" {
				t.Errorf("%d rows, then %+v", rows, last)
			}
			if dials() != before {
				t.Error("a CancelRequest was sent")
			}
		})
	}
}

// readToEnd sends messages in one piece and reads up to the end of the stream.
func readToEnd(tb testing.TB, conn *pgx.Conn, send ...pgproto3.FrontendMessage) (rows int, last *pgproto3.ErrorResponse) {
	tb.Helper()
	f := conn.PgConn().Frontend()
	for _, m := range send {
		f.Send(m)
	}
	if err := f.Flush(); err != nil {
		tb.Fatal(err)
	}
	if err := conn.PgConn().Conn().SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	for {
		m, err := f.Receive()
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				tb.Errorf("end of the stream: %v", err)
			}
			return rows, last
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			rows++
		case *pgproto3.CommandComplete:
			tb.Errorf("the agent was told %q", m.CommandTag)
		case *pgproto3.ErrorResponse:
			last = &pgproto3.ErrorResponse{Code: m.Code, Severity: m.Severity, Message: m.Message}
		}
	}
}

// A statement that is through before the CancelRequest can hit it has done what it
// does. It can't be called an error, so the session ends.
func TestAStatementThatCompletesTooEarlyEndsTheSession(t *testing.T) {
	release := make(chan struct{})
	var holding atomic.Bool
	g := newGate(t, func(g *gate) {
		g.spend = atMost(2, never)
		g.dial = func(ctx context.Context) (net.Conn, error) {
			if holding.Load() {
				select { // the request is under way all the time
				case <-release:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", g.target)
		}
	})
	defer close(release)
	conn := mustConnect(t, g)
	holding.Store(true)
	mark := "early " + rand.Text()
	rows, last := readToEnd(t, conn, &pgproto3.Query{String: "insert into notes (body) select '" + mark + "' from generate_series(1, 3) returning id"})
	if rows != 2 || last == nil || last.Severity != "FATAL" || last.Code != "54000" {
		t.Errorf("%d rows, then %+v", rows, last)
	}
	if n := count(t, mark); n != 3 {
		t.Errorf("%d rows, want the 3 that were committed", n)
	}
}

// What the agent sends while a result is being ended waits, and is not hit.
func TestNothingIsSentBetweenACancelAndItsOutcome(t *testing.T) {
	requested, release := make(chan struct{}, 1), make(chan struct{})
	var holding atomic.Bool
	g := newGate(t, func(g *gate) {
		g.spend = atMost(10, never)
		g.dial = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", g.target)
			if err == nil && holding.Load() {
				conn = &slowEnd{Conn: conn, requested: requested, release: release}
			}
			return conn, err
		}
	})
	conn := mustConnect(t, g)
	holding.Store(true)
	f := conn.PgConn().Frontend()
	f.Send(&pgproto3.Query{String: million})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	<-requested
	// The error is there, but it is not known yet whether the request is through.
	waitFor(t, f, func(m pgproto3.BackendMessage) bool { _, ok := m.(*pgproto3.ReadyForQuery); return ok })
	mark := "held " + rand.Text()
	f.Send(&pgproto3.Query{String: "insert into notes (body) values ('" + mark + "')"})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	g.waitForOperation("insert")
	if n := count(t, mark); n != 0 {
		t.Errorf("a statement was sent while a CancelRequest was on its way")
	}
	close(release)
	waitFor(t, f, func(m pgproto3.BackendMessage) bool { _, ok := m.(*pgproto3.CommandComplete); return ok })
	if n := count(t, mark); n != 1 {
		t.Errorf("the statement was carried out %d times", n)
	}
	waitFor(t, f, func(m pgproto3.BackendMessage) bool { _, ok := m.(*pgproto3.ReadyForQuery); return ok })
}

// slowEnd is a connection whose end is heard of only after release.
type slowEnd struct {
	net.Conn
	requested chan<- struct{}
	release   <-chan struct{}
}

func (s *slowEnd) Read(p []byte) (int, error) {
	select {
	case s.requested <- struct{}{}:
	default:
	}
	<-s.release
	return s.Conn.Read(p)
}

func waitFor(tb testing.TB, f *pgproto3.Frontend, done func(pgproto3.BackendMessage) bool) {
	tb.Helper()
	for {
		m, err := f.Receive()
		if err != nil {
			tb.Fatal(err)
		}
		if done(m) {
			return
		}
	}
}

// waitForOperation waits until the gate was asked about a verb.
func (g *gate) waitForOperation(verb string) {
	g.tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		found := false
		g.set(func() {
			for _, op := range g.operations {
				found = found || op.Verb == verb
			}
		})
		if found {
			return
		}
		select {
		case <-deadline:
			g.tb.Fatalf("nobody asked for %s", verb)
		case <-tick.C:
		}
	}
}

func TestACancelThatCannotBeSentEndsTheSession(t *testing.T) {
	var refusing atomic.Bool
	g := newGate(t, func(g *gate) {
		g.spend = atMost(10, never)
		g.dial = func(ctx context.Context) (net.Conn, error) {
			if refusing.Load() {
				return nil, errors.New("no route")
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", g.target)
		}
	})
	conn := mustConnect(t, g)
	refusing.Store(true)
	rows, last := readToEnd(t, conn, &pgproto3.Query{String: "select pg_sleep(0.001) from generate_series(1, 10000000) g"})
	if rows > 10 || last == nil || last.Severity != "FATAL" || last.Code != "54000" {
		t.Errorf("%d rows, then %+v", rows, last)
	}
}

func TestCopyOutCountsToo(t *testing.T) {
	copyOut := "copy (" + million + ") to stdout"
	for name, spend := range map[string]func(*policy.Operation) func(given, more protocol.Volume) *protocol.Denial{
		"rows": atMost(1000, never), "bytes": atMost(never, 4000),
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(g *gate) { g.spend = spend })
			conn := mustConnect(t, g)
			for range 2 {
				var out strings.Builder
				_, err := conn.PgConn().CopyTo(testContext(t), &out, copyOut)
				wantCode(t, err, "54000")
				if n := strings.Count(out.String(), "\n"); n != 1000 && out.Len() != 3998 {
					t.Errorf("%d lines, %d bytes", n, out.Len())
				}
				var one int
				if err := conn.QueryRow(testContext(t), "select 1").Scan(&one); err != nil || one != 1 {
					t.Fatalf("the session is not usable: %v", err)
				}
			}
		})
	}
}

func TestWhatAResultGaveUpToItsLimitIsRecorded(t *testing.T) {
	g := newGate(t, func(g *gate) { g.spend = atMost(10, never) })
	conn := mustConnect(t, g)
	_, err := countRows(t, conn, pgx.QueryExecModeSimpleProtocol, million)
	wantCode(t, err, "54000")
	var got []string
	g.set(func() {
		for _, f := range g.frames {
			if f.Kind == protocol.FrameTable {
				got = append(got, fmt.Sprintf("table of %d", len(f.Rows)))
			}
			if o := f.Outcome; o != nil {
				got = append(got, fmt.Sprintf("%s %d rows %s", o.Code, o.Rows, o.Error))
			}
		}
	})
	want := []string{"table of 10", `54000 10 rows headgate: denied (limit): rule "few" allows 10 rows in one result`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

// An error of the target's own that comes first is what it is: the transaction is
// aborted, and what was refused stays refused.
func TestAnErrorInFrontOfTheCancelIsTheRefusal(t *testing.T) {
	g := newGate(t, func(g *gate) { g.spend = atMost(10, never) })
	conn := mustConnect(t, g)
	for range 5 {
		_, err := countRows(t, conn, pgx.QueryExecModeSimpleProtocol, "select 1 / (12 - g) from generate_series(1, 1000) g")
		wantCode(t, err, "54000")
		if n, err := countRows(t, conn, pgx.QueryExecModeSimpleProtocol, "select pg_sleep(0.01)"); n != 1 || err != nil {
			t.Fatalf("the next statement was hit: %v", err)
		}
	}
}
