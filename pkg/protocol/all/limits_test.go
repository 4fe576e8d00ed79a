package all

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/gateway"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// redirected is a listener whose connections were meant for target.
type redirected struct {
	*net.TCPListener
	target netip.AddrPort
}

var agentID = process.ID{PID: 42, Start: 4242}

func (r redirected) Accept() (*transparent.Conn, error) {
	c, err := r.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	return transparent.NewConn(c, transparent.Origin{Target: r.target, Process: agentID, Root: agentID, Enrolment: 1}), nil
}

type oneProcess struct{}

func (oneProcess) Wait(_ context.Context, id process.ID, _ uint64) (*process.Process, error) {
	return &process.Process{ID: id, Root: id, Image: &process.Image{Exe: "/usr/bin/agent", Argv: []string{"agent"}}}, nil
}

// gated is a gateway in front of a real server.
type gated struct {
	t     *testing.T
	addr  string
	state string
}

func newGated(t *testing.T, server *pgtest.Cluster, rules string) *gated {
	t.Helper()
	text := "version: 1\nresources: [{name: db, protocol: postgres, tls: {verify: 'off'}, hosts: ['" + server.Addr() + "']}]\n" + rules
	file, err := policy.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	protocols := Protocols(protocol.Settings{})
	engine, err := policy.Options{Generation: 1, Vocabulary: Vocabulary(protocols), Metered: Metered(protocols)}.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := &gated{t: t, state: t.TempDir()}
	log, err := audit.OpenLog(g.state, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := gateway.New(gateway.Options{
		Engine: func() *policy.Engine { return engine }, Protocols: protocols, Opaque: Opaque(), Processes: oneProcess{},
		Agent: func(uint32) (string, bool) { return "ci", true }, Principals: &identity.Binder{}, Audit: log, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- gate.Serve(ctx, redirected{listener.(*net.TCPListener), netip.MustParseAddrPort(server.Addr())})
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, listener.Close(), log.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *gated) connect() *pgx.Conn {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	g.t.Cleanup(cancel)
	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", pgtest.App, pgtest.AppPassword, g.addr, pgtest.Database))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may have been ended
	return conn
}

// run returns how many rows there were, and the error's code and message.
func run(t *testing.T, conn *pgx.Conn, sql string, args ...any) (rows int, code, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	result, err := conn.Query(ctx, sql, args...)
	if err == nil {
		for result.Next() {
			rows++
		}
		result.Close()
		err = result.Err()
	}
	var e *pgconn.PgError
	switch {
	case errors.As(err, &e):
		return rows, e.Code, e.Message + " | " + e.Hint
	case err != nil:
		t.Fatalf("%s: %v", sql, err)
	}
	return rows, "", ""
}

// refused are the flows of the record that were denied, without their connections.
func (g *gated) refused() []string {
	g.t.Helper()
	var list []string
	for f, err := range audit.Flows(g.state, audit.FlowFilter{Refused: true}) {
		if err != nil {
			g.t.Fatal(err)
		}
		list = append(list, strings.Join([]string{f.What, f.Rule, f.Reason, f.Message}, " "))
	}
	return list
}

func TestWhatRulesAndMasksSayHoldsOnARealServer(t *testing.T) {
	server := pgtest.Start(t)
	t.Run("limits of results", func(t *testing.T) { limitsOfResults(t, server) })
	t.Run("limits per minute", func(t *testing.T) { limitsPerMinute(t, server) })
	t.Run("copies and predicates", func(t *testing.T) { copiesAndPredicates(t, server) })
}

func limitsOfResults(t *testing.T, server *pgtest.Cluster) {
	g := newGated(t, server, `
rules:
  - {name: all, effect: allow, resources: [db], operations: ["*"], limits: {rows: 1000, bytes: 1MiB}}
  - {name: deletes, effect: allow, resources: [db], operations: [delete], limits: {per_minute: {operations: 2}}}
  - {name: reports, effect: allow, resources: [db], operations: [explain], limits: {per_minute: {rows: 10}}}
  - {name: tried, effect: allow, mode: observe, resources: [db], limits: {rows: 1}}
`)
	conn := g.connect()
	if n, code, message := run(t, conn, "select g from generate_series(1, 1000000) g"); n > 1000 || code != "54000" ||
		!strings.HasPrefix(message, `headgate: denied (limit): rule "all" allows 1000 rows in one result | Ask for less at a time`) {
		t.Errorf("a million rows: %d, %s %s", n, code, message)
	}
	if n, code, message := run(t, conn, "select repeat('x', 20000) from generate_series(1, 1000000) g"); n > 52 || code != "54000" ||
		!strings.HasPrefix(message, `headgate: denied (limit): rule "all" allows 1 MiB in one result`) {
		t.Errorf("many bytes: %d, %s %s", n, code, message)
	}
	if n, code, _ := run(t, conn, "select g from generate_series(1, 1000) g"); n != 1000 || code != "" {
		t.Errorf("what the limit allows: %d rows, %s", n, code)
	}
	other := g.connect()
	for i, want := range []string{"", "", "54000", "54000"} {
		c := []*pgx.Conn{conn, other}[i%2]
		if _, code, message := run(t, c, "delete from customers where id = $1", 99); code != want || want != "" && !strings.Contains(message, "| Try again in ") {
			t.Errorf("delete %d: %q %s", i, code, message)
		}
	}
	if n, code, _ := run(t, conn, "select 1"); n != 1 || code != "" {
		t.Errorf("what another rule allows: %d, %s", n, code)
	}
	if got := g.refused(); !slices.Equal(got, []string{
		`select all limit rule "all" allows 1000 rows in one result`,
		`select all limit rule "all" allows 1 MiB in one result`,
		`delete deletes limit rule "deletes" allows 2 operations in a minute`,
		`delete deletes limit rule "deletes" allows 2 operations in a minute`,
	}) {
		t.Errorf("denied in the record: %q", got)
	}
}

func limitsPerMinute(t *testing.T, server *pgtest.Cluster) {
	g := newGated(t, server, `rules: [{name: all, effect: allow, resources: [db], limits: {per_minute: {rows: 150}}}]`)
	one, two := g.connect(), g.connect()
	if n, code, _ := run(t, one, "select g from generate_series(1, 100) g"); n != 100 || code != "" {
		t.Errorf("100 of 150 rows: %d, %s", n, code)
	}
	if n, code, message := run(t, two, "select g from generate_series(1, 1000000) g"); n > 50 || code != "54000" || !strings.Contains(message, "| Try again in ") {
		t.Errorf("what is left in another session of the tree: %d, %s %s", n, code, message)
	}
	if n, code, message := run(t, one, "select 1"); n != 0 || code != "54000" {
		t.Errorf("with nothing left: %d, %q %s", n, code, message)
	}
}

func copiesAndPredicates(t *testing.T, server *pgtest.Cluster) {
	g := newGated(t, server, `
rules: [{name: all, effect: allow, resources: [db]}]
masks:
  - {name: ids, resources: [db], columns: ["*.*.ssn"], with: redact, predicates: deny}
  - {name: mail, resources: [db], columns: ["*.*.email"], with: redact, copies: allow}
`)
	conn := g.connect()
	for _, c := range []struct{ sql, code string }{
		{"create table stolen as select ssn from customers", "42501"},
		{"create table mails as select email from customers", ""},
		{"select id from customers where ssn like '1%'", "42501"},
		{"select id from customers where email like 'ada%'", ""},
		{"insert into customers (id, ssn) values (77, '111-22-3333')", ""},
	} {
		if _, code, message := run(t, conn, c.sql); code != c.code {
			t.Errorf("%s: %q %s, want %q", c.sql, code, message, c.code)
		}
	}
	want := []string{
		`ddl ids mask the statement may store protected data where no mask follows (mask "ids" has copies: deny)`,
		`select ids mask the statement may choose, order or compare by protected columns (mask "ids" has predicates: deny)`,
	}
	if diff := cmp.Diff(want, g.refused()); diff != "" {
		t.Errorf("denied in the record (-want +got):\n%s", diff)
	}
}
