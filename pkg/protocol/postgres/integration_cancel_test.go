package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
)

// Nobody else's statement is hit: the next ones of the same session come at once.
func TestALateCancelHitsNobody(t *testing.T) {
	g := newGate(t, func(g *gate) { g.spend = atMost(10, never) })
	conn := mustConnect(t, g)
	for i := range 50 {
		_, err := countRows(t, conn, pgx.QueryExecModeExec, fmt.Sprintf("select g from generate_series(1, %d) g", 2000+100*i))
		var e *pgconn.PgError
		if !errors.As(err, &e) || e.Code != "54000" {
			t.Fatalf("run %d: %v", i, err)
		}
		if e.Severity == "FATAL" { // it was faster
			conn = mustConnect(t, g)
			continue
		}
		if n, err := countRows(t, conn, pgx.QueryExecModeExec, "select pg_sleep(0.002)"); n != 1 || err != nil {
			t.Fatalf("run %d: the next statement was hit: %v", i, err)
		}
	}
}

func TestTheCancelOfASessionWithTLSGoesOverTLS(t *testing.T) {
	server, authority := withTLS(t)
	g := newGate(t, func(g *gate) {
		verified(server, authority)(g)
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
		g.spend = atMost(10, never)
	})
	conn := mustConnect(t, g)
	before := g.securings()
	_, err := countRows(t, conn, pgx.QueryExecModeExec, million)
	if e := pgError(t, err, "54000"); e.Severity != "ERROR" {
		t.Errorf("the session ended: %s", e.Message)
	}
	if n := g.securings() - before; n != 1 {
		t.Errorf("the request went there over TLS %d times, want once", n)
	}
}

// A result that is masked counts and ends like any other, COPY with its own
// pipeline too.
func TestMaskedResultsHaveLimitsToo(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.spend = atMost(10, never)
		g.masks = mustMask(t, ssnRule(), mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"})
	})
	conn := mustConnect(t, g)
	const query = "select g, ssn, '4111 1111 1111 1111' from generate_series(1, 1000000) g, customers"
	for range 2 {
		for name, mode := range modes {
			n, err := countRows(t, conn, mode, query)
			if e := pgError(t, err, "54000"); n > 10 || e.Severity != "ERROR" {
				t.Errorf("%s: %d rows, %s", name, n, e.Severity)
			}
		}
		var out strings.Builder
		_, err := conn.PgConn().CopyTo(testContext(t), &out, "copy ("+query+") to stdout")
		if e := pgError(t, err, "54000"); strings.Count(out.String(), "\n") > 10 || strings.Contains(out.String(), secretNumber) || e.Severity != "ERROR" {
			t.Errorf("copy: %s %q", e.Severity, out.String())
		}
		if got := cells(t, conn, pgx.QueryExecModeExec, "select ssn from customers where id = 1"); got[0][0] != "[redacted]" {
			t.Errorf("the next result: %q", got)
		}
	}
}
