package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// encryption asks the server whether it speaks TLS with the gate.
const encryption = "select 'target over TLS: ' || ssl from pg_stat_ssl where pid = pg_backend_pid()"

func TestLibpqConnectsInEverySslmode(t *testing.T) {
	server, authority := withTLS(t)
	plain, plainRoots := certified(t, nil)
	secured, securedRoots := certified(t, verified(server, authority))
	for name, gate := range map[string]struct {
		*gate
		roots, target string
	}{
		"target in the clear": {plain, plainRoots, "target over TLS: false"},
		"target over TLS":     {secured, securedRoots, "target over TLS: true"},
	} {
		for sslmode, encrypted := range map[string]bool{
			"disable": false, "allow": false, "prefer": true, "require": true, "verify-ca": true, "verify-full": true,
		} {
			for _, host := range []string{"127.0.0.1", "Any.Name.example"} {
				t.Run(name+", "+sslmode+", "+host, func(t *testing.T) {
					out, err := gate.psql(host, sslmode+" channel_binding=disable", gate.roots, encryption)
					if err != nil || !strings.Contains(out, gate.target) || strings.Contains(out, "TLSv1.3") != encrypted {
						t.Errorf("psql says %q (%v)", out, err)
					}
				})
			}
		}
	}
}

func TestALoginOfTheAgentsOwnIsNotBoundToOneOfTwoTLS(t *testing.T) {
	server, authority := withTLS(t)
	g, roots := certified(t, verified(server, authority))
	for sslmode, says := range map[string]string{
		"disable": "target over TLS: true", "prefer": "target over TLS: true", "prefer channel_binding=disable": "TLSv1.3",
		"require": "channel_binding=disable or sslmode=disable", "require channel_binding=disable": "TLSv1.3",
		"require channel_binding=require": "channel binding is required",
	} {
		out, err := g.psql("127.0.0.1", sslmode, roots, encryption)
		fails := sslmode == "require" || strings.HasSuffix(sslmode, "=require")
		if !strings.Contains(out, says) || (err != nil) != fails {
			t.Errorf("%s: psql says %q (%v)", sslmode, out, err)
		}
	}
	g.set(func() {
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
	})
	if out, err := g.psql("127.0.0.1", "require", roots, encryption); err != nil || !strings.Contains(out, "TLSv1.3") {
		t.Errorf("with a credential psql says %q (%v)", out, err)
	}
}

func TestLibpqThatTrustsAnotherAuthorityIsNotDeceived(t *testing.T) {
	g, _ := certified(t, nil)
	_, other := certified(t, nil)
	for _, sslmode := range []string{"verify-ca", "verify-full"} {
		out, err := g.psql("127.0.0.1", sslmode, other, "select 1")
		if err == nil || !strings.Contains(out, "certificate verify failed") {
			t.Errorf("%s: psql says %q (%v)", sslmode, out, err)
		}
	}
}

func TestWhereTLSIsRefusedAgentsThatDoNotInsistGoOn(t *testing.T) {
	g := newGate(t, nil)
	for sslmode, want := range map[string]string{
		"disable": "target over TLS", "allow": "target over TLS", "prefer": "target over TLS",
		"require": "server does not support SSL, but SSL was required",
	} {
		out, err := g.psql("127.0.0.1", sslmode, "", encryption)
		if !strings.Contains(out, want) || (err == nil) != (sslmode != "require") || strings.Contains(out, "TLSv") {
			t.Errorf("%s: psql says %q (%v)", sslmode, out, err)
		}
	}
}

func TestAnAgentThatIsRefusedReadsWhyInEverySslmode(t *testing.T) {
	g, roots := certified(t, func(g *gate) {
		g.refusal = &protocol.Denial{ID: "op-1", Rule: "not-here", Reason: policy.ReasonRule, Message: "Use the replica."}
	})
	for _, sslmode := range []string{"disable", "prefer", "require", "verify-full"} {
		out, err := g.psql("127.0.0.1", sslmode, roots, "select 1")
		if err == nil || !strings.Contains(out, `FATAL:  headgate: denied by rule "not-here"`) {
			t.Errorf("%s: psql says %q (%v)", sslmode, out, err)
		}
	}
	config, err := pgx.ParseConfig(fmt.Sprintf("postgres://agent@%s/x?sslmode=verify-full&sslnegotiation=direct&sslrootcert=%s", g.addr, roots))
	if err != nil {
		t.Fatal(err)
	}
	_, err = pgx.ConnectConfig(testContext(t), config)
	if e := pgError(t, err, "42501"); !strings.Contains(e.Message, "not-here") {
		t.Errorf("the agent read %v", e)
	}
}

// drivers are the ways in which pgx says what it wants.
var drivers = map[string]string{
	"request, 3.0": "sslnegotiation=postgres&min_protocol_version=3.0&max_protocol_version=3.0",
	"direct, 3.0":  "sslnegotiation=direct&min_protocol_version=3.0&max_protocol_version=3.0",
	"request, 3.2": "sslnegotiation=postgres&min_protocol_version=3.0&max_protocol_version=3.2",
	"direct, 3.2":  "sslnegotiation=direct&min_protocol_version=3.0&max_protocol_version=3.2",
}

func connectTLS(tb testing.TB, g *gate, roots, options string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(testContext(tb), fmt.Sprintf(
		"postgres://agent:agent-password@%s/%s?sslmode=verify-full&sslrootcert=%s&%s", g.addr, testDatabase, roots, options))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return conn
}

func TestADriverWorksAndCancelsOverTLS(t *testing.T) {
	server, authority := withTLS(t)
	g, roots := certified(t, func(g *gate) {
		verified(server, authority)(g)
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
	})
	for name, options := range drivers {
		t.Run(name, func(t *testing.T) {
			conn := connectTLS(t, g, roots, options)
			for mode := range modes {
				if got := cells(t, conn, modes[mode], "select name from customers where id = 1"); got[0][0] != "Ada Lovelace" {
					t.Errorf("%s: got %v", mode, got)
				}
			}
			want := 4
			if sharedVersion() == pgtest.V18 && strings.HasSuffix(name, "3.2") {
				want = 32
			}
			if key := conn.PgConn().SecretKey(); len(key) != want {
				t.Errorf("the key has %d bytes, want %d", len(key), want)
			}
			if pid := conn.PgConn().PID(); server.SQL(t, testDatabase, fmt.Sprintf("select count(*) from pg_stat_activity where pid = %d", pid)) != "1" {
				t.Errorf("the server does not know the number %d", pid)
			}
			before := g.securings()
			failed := make(chan error, 1)
			go func() {
				_, err := conn.Exec(testContext(t), "select 'cancel me', pg_sleep(25)")
				failed <- err
			}()
			awaitActivity(t, server, "cancel me", "1")
			if err := conn.PgConn().CancelRequest(testContext(t)); err != nil {
				t.Error(err)
			}
			wantCode(t, <-failed, "57014")
			if n := g.securings() - before; n != 1 {
				t.Errorf("the request went there over TLS %d times, want once", n)
			}
		})
	}
}

func (g *gate) securings() (n int) {
	g.set(func() { n = g.secured })
	return n
}

// awaitActivity waits until so many sessions run a statement with that text.
func awaitActivity(tb testing.TB, server interface {
	SQL(t testing.TB, database, text string) string
}, text, want string) {
	tb.Helper()
	ctx := testContext(tb)
	for ctx.Err() == nil {
		if server.SQL(tb, testDatabase, "select count(*) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and query like '%"+text+"%'") == want {
			return
		}
	}
	tb.Fatalf("%q was never run", text)
}

func TestLibpq18BeginsInEveryWayThatItKnows(t *testing.T) {
	environment := libpq18(t)
	server, authority := withTLS(t)
	g, roots := certified(t, func(g *gate) {
		verified(server, authority)(g)
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
	})
	for _, version := range []string{"3.0", "3.2", "latest"} {
		for _, options := range []string{
			"sslmode=disable", "sslmode=prefer", "sslmode=verify-full", "sslmode=require sslnegotiation=direct",
			"sslmode=verify-full sslnegotiation=direct",
		} {
			cmd := g.command("host=db.internal sslrootcert="+roots+" max_protocol_version="+version+" "+options, encryption)
			cmd.Env = append(cmd.Env, environment...)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "target over TLS: true") {
				t.Errorf("%s %s: psql says %q (%v)", version, options, out, err)
			}
		}
	}
	for _, options := range []string{"max_protocol_version=3.0 sslmode=verify-full", "max_protocol_version=3.2 sslmode=verify-full sslnegotiation=direct"} {
		cmd := g.command("host=db.internal sslrootcert="+roots+" "+options, "select 'interrupt me', pg_sleep(25)")
		cmd.Env = append(cmd.Env, environment...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitActivity(t, server, "interrupt me", "1")
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "canceling statement due to user request") {
			t.Errorf("%s: psql says %q (%v)", options, out.String(), err)
		}
	}
}

func TestAnotherTreeCannotCancel(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(testContext(t), "select 'not yours', pg_sleep(2)")
		failed <- err
	}()
	awaitActivity(t, shared.server, "not yours", "1")
	g.set(func() { g.root.PID++ })
	if err := conn.PgConn().CancelRequest(testContext(t)); err != nil {
		t.Error(err)
	}
	if err := <-failed; err != nil {
		t.Errorf("the statement ended with %v", err)
	}
}

func TestAgentsKnowNotificationsAndSessionsByTheNumbersThatTheyWereTold(t *testing.T) {
	g := newGate(t, nil)
	conn, other := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, conn, "listen news")
	for name, sender := range map[string]*pgx.Conn{"its own": conn, "another's": other} {
		mustExec(t, sender, "notify news, 'x'")
		n, err := conn.WaitForNotification(testContext(t))
		if err != nil || n.PID != sender.PgConn().PID() {
			t.Errorf("%s: got %+v (%v), want one of %d", name, n, err, sender.PgConn().PID())
		}
	}
	for name, c := range map[string]*pgx.Conn{"one": conn, "another": other} {
		if got := cells(t, c, modes["simple"], "select pg_backend_pid()"); got[0][0] != fmt.Sprint(c.PgConn().PID()) {
			t.Errorf("%s session is %s, its agent was told %d", name, got[0][0], c.PgConn().PID())
		}
	}
}

func TestATargetThatIsNotTheOneInThePolicyIsRefused(t *testing.T) {
	server, authority := withTLS(t)
	_, other := certified(t, nil)
	for name, tc := range map[string]struct {
		tls  policy.TLS
		want string
	}{
		"another name":            {policy.TLS{CA: authority, ServerName: "other.internal"}, "tls: {server_name:"},
		"no name, but an address": {policy.TLS{CA: authority, ServerName: "127.0.0.1"}, "tls: {server_name:"},
		"another authority":       {policy.TLS{CA: other, ServerName: serverName}, "ca: /path.pem"},
		"chain of another":        {policy.TLS{Verify: policy.TLSChain, CA: other}, "ca: /path.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(g *gate) {
				g.target, g.resource.TLS = server.Addr(), tc.tls
			})
			_, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", "agent-password"))
			if e := pgError(t, err, "08006"); !strings.Contains(e.Message, "TLS with the database failed") {
				t.Errorf("the agent was told %v", e)
			}
			g.wantError(tc.want)
		})
	}
	g := newGate(t, func(g *gate) {
		g.target, g.resource.TLS = server.Addr(), policy.TLS{Verify: policy.TLSChain, CA: authority}
	})
	mustExec(t, mustConnect(t, g), "select 1")
}

func TestATargetWithoutTLSIsRefusedUnlessThePolicySaysOff(t *testing.T) {
	g := newGate(t, func(g *gate) { g.resource.TLS = policy.TLS{} })
	_, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", "agent-password"))
	wantCode(t, err, "08006")
	g.wantError("tls: {verify: off}")
}

// wantError fails unless a session ended with an error that says so. The agent may
// be told before the session has ended.
func (g *gate) wantError(want string) {
	g.tb.Helper()
	ctx := testContext(g.tb)
	var errs []error
	for ctx.Err() == nil {
		g.set(func() { errs = append([]error(nil), g.errs...) })
		for _, err := range errs {
			if err != nil && strings.Contains(err.Error(), want) {
				return
			}
		}
		if len(errs) > 0 {
			break
		}
	}
	g.tb.Errorf("no session ended with %q: %v", want, errs)
}
