package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

const (
	placeholder = "harmless-placeholder"
	realSecret  = "agent-password"
)

// guarded makes a gate whose agents have a placeholder.
func guarded(g *gate) {
	g.secret = &credential.Credential{
		Name: "shop", Username: "agent", Secret: credential.NewSecret([]byte(realSecret)),
		Placeholder: credential.NewSecret([]byte(placeholder)),
	}
}

// overTLS serves agents of g that speak TLS, and returns where, and the file of the
// authority that they trust.
func overTLS(t *testing.T, g *gate) (addr, roots string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := certs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				down := transparent.NewConn(conn, transparent.Origin{Target: netip.MustParseAddrPort(g.target)})
				defer down.Close()
				s := g.session(down)
				s.Certify = func(ctx context.Context, conn net.Conn, terms certs.Terms) (*certs.Conn, error) {
					terms.Names = []string{"127.0.0.1"}
					return authority.Handshake(ctx, conn, terms)
				}
				err := g.protocol.Serve(ctx, s)
				g.set(func() { g.errs = append(g.errs, err) })
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		serving.Wait()
	})
	return listener.Addr().String(), filepath.Join(dir, certs.CertificateFile)
}

// findings are what was found, without what only this process can know.
func (g *gate) findings() []protocol.Finding {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []protocol.Finding
	for _, f := range g.frames {
		if f.Finding != nil {
			list = append(list, *f.Finding)
		}
	}
	return list
}

// waitForEnd returns when n sessions are over.
func (g *gate) waitForEnd(n int) {
	g.tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		over := 0
		g.set(func() { over = len(g.errs) })
		if over >= n {
			return
		}
		select {
		case <-deadline:
			g.tb.Fatalf("%d sessions are over, want %d", over, n)
		case <-tick.C:
		}
	}
}

func TestAgentsLogInWithThePlaceholder(t *testing.T) {
	g := newGate(t, guarded)
	addr, roots := overTLS(t, g)
	for name, dsn := range map[string]string{
		"any method":                dsn(g.addr, "whoever", placeholder),
		"scram only":                dsn(g.addr, "whoever", placeholder) + "&require_auth=scram-sha-256",
		"over TLS":                  fmt.Sprintf("postgres://whoever:%s@%s/%s?sslmode=verify-full&sslrootcert=%s&require_auth=scram-sha-256", placeholder, addr, testDatabase, roots),
		"bound to our certificate":  fmt.Sprintf("postgres://whoever:%s@%s/%s?sslmode=verify-full&sslrootcert=%s&channel_binding=require", placeholder, addr, testDatabase, roots),
		"over TLS, but not bound":   fmt.Sprintf("postgres://whoever:%s@%s/%s?sslmode=require&channel_binding=disable", placeholder, addr, testDatabase),
		"a user that has no quotes": dsn(g.addr, "a%2Cb%3Dc", placeholder),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			conn, err := pgx.Connect(ctx, dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(ctx)
			var user string
			if err := conn.QueryRow(ctx, "select current_user::text").Scan(&user); err != nil || user != "agent" {
				t.Errorf("user is %q, %v", user, err)
			}
		})
	}
	if list := g.findings(); list != nil {
		t.Errorf("found %v", list)
	}
}

func TestLibpqLogsInBoundToOurCertificate(t *testing.T) {
	g := newGate(t, guarded)
	addr, roots := overTLS(t, g)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	run := func(password, options string) (string, error) {
		cmd := exec.CommandContext(testContext(t), filepath.Join(shared.server.Bin, "psql"), "-X", "-A", "-t", "-w",
			fmt.Sprintf("host=%s port=%s user=x dbname=%s %s", host, port, testDatabase, options), "-c", "select current_user")
		cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for _, options := range []string{
		"sslmode=verify-full channel_binding=require sslrootcert=" + roots,
		"sslmode=require channel_binding=prefer", "sslmode=require channel_binding=disable", "sslmode=disable",
	} {
		if out, err := run(placeholder, options); err != nil || out != "agent" {
			t.Errorf("%s: %v, %s", options, err, out)
		}
	}
	for _, password := range []string{"hunter2", realSecret} {
		out, err := run(password, "sslmode=require channel_binding=require")
		if err == nil || !strings.Contains(out, "placeholder") || strings.Contains(out, realSecret) {
			t.Errorf("%v, %s", err, out)
		}
	}
}

func TestWithoutAPlaceholderAgentsAreAskedNothing(t *testing.T) {
	g := newGate(t, func(g *gate) {
		guarded(g)
		g.secret.Placeholder = credential.Secret{}
	})
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, dsn(g.addr, "whoever", "hunter2")+"&require_auth=none")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := pgx.Connect(ctx, dsn(g.addr, "whoever", "hunter2")+"&require_auth=scram-sha-256"); err == nil {
		t.Error("an agent that insists on SCRAM is content")
	}
}

func TestAnAgentThatHoldsTheRealSecretIsFound(t *testing.T) {
	g := newGate(t, guarded)
	said := map[string]string{}
	for _, password := range []string{"hunter2", realSecret, ""} {
		_, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", password))
		if password == "" {
			continue // the driver may give up by itself
		}
		e := pgError(t, err, "28P01")
		said[password] = e.Message + e.Detail + e.Hint
		if !strings.Contains(e.Hint, "placeholder") || strings.Contains(said[password], realSecret) || strings.Contains(said[password], placeholder) {
			t.Errorf("refused with %q, %q, %q", e.Message, e.Detail, e.Hint)
		}
	}
	if said["hunter2"] != said[realSecret] {
		t.Error("an agent can find out whether a password is the real one")
	}
	g.waitForEnd(3) // a finding is recorded when the agent is gone
	want := []protocol.Finding{{Kind: protocol.FindingHoldsSecret, Credential: "shop", Fingerprint: g.secret.Secret.Fingerprint()}}
	if diff := cmp.Diff(want, g.findings()); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, err := range g.errs {
		if err != nil && (strings.Contains(err.Error(), realSecret) || strings.Contains(err.Error(), placeholder)) {
			t.Errorf("the operator's error says too much: %v", err)
		}
	}
	if len(g.operations) > 0 {
		t.Errorf("%d operations of an agent that was not let in", len(g.operations))
	}
}

// lastingConn is closed by nobody but its owner.
type lastingConn struct{ net.Conn }

func (lastingConn) Close() error { return nil }

func TestHowLongAFindingTakesIsNotSeenByTheAgent(t *testing.T) {
	over := make(chan struct{})
	g := newGate(t, func(g *gate) {
		guarded(g)
		g.recording = func(f protocol.Frame) {
			select {
			case <-over:
			case <-time.After(5 * time.Second):
				t.Errorf("the agent is not told before %v was recorded", f.Kind)
			}
		}
	})
	config, err := pgx.ParseConfig(dsn(g.addr, "agent", realSecret))
	if err != nil {
		t.Fatal(err)
	}
	var kept net.Conn
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		kept = conn
		return lastingConn{conn}, err
	}
	_, err = pgx.ConnectConfig(testContext(t), config)
	wantCode(t, err, "28P01")
	if err := kept.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, kept); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection was not closed")
	}
	close(over)
	_ = kept.Close()
	g.waitForEnd(1)
	if len(g.findings()) != 1 {
		t.Errorf("found %+v", g.findings())
	}
}

func TestWhoDoesNotKnowThePlaceholderGetsNoSessionOfTheTarget(t *testing.T) {
	g := newGate(t, guarded)
	_, err := pgx.Connect(testContext(t), dsn(g.addr, "agent", "another-password"))
	wantCode(t, err, "28P01")
	g.set(func() {
		if g.dials != 0 {
			t.Errorf("the target was dialled %d times", g.dials)
		}
	})
}
