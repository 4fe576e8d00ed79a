package postgres_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/transparent"
)

// doorstep is an agent in front of a session whose target can't be reached: who
// comes as far as that is told so.
type doorstep struct {
	net.Conn
	tb    testing.TB
	roots *x509.CertPool
	ended chan error
}

const unreachable = "headgate: the connection to the database was lost"

// approach connects an agent. It may change the session before that begins.
func approach(tb testing.TB, change ...func(*protocol.Session)) *doorstep {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	agent, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	if err := agent.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	authority, err := certs.Open(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	d := &doorstep{Conn: agent, tb: tb, roots: x509.NewCertPool(), ended: make(chan error, 1)}
	d.roots.AppendCertsFromPEM(authority.PEM())
	p := connect(tb) // for its session
	_ = p.agent.Close()
	s := p.session
	s.Downstream = transparent.NewConn(conn, s.Downstream.Origin)
	s.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("it is not there") }
	s.Certify = func(ctx context.Context, conn net.Conn, t certs.Terms) (*certs.Conn, error) {
		t.Names = []string{"db.internal"}
		return authority.Handshake(ctx, conn, t)
	}
	for _, f := range change {
		f(s)
	}
	go func() {
		err := newPostgres(postgres.Options{}).Serve(context.Background(), s)
		_ = conn.Close() // as the gateway does
		d.ended <- err
	}()
	tb.Cleanup(func() { _ = agent.Close() })
	return d
}

func (d *doorstep) say(what ...string) {
	d.tb.Helper()
	if _, err := d.Write(lines(d.tb, what...)); err != nil {
		d.tb.Fatal(err)
	}
}

func (d *doorstep) hear(want string) {
	d.tb.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(d, got); err != nil || string(got) != want {
		d.tb.Fatalf("heard %q (%v), want %q", got, err, want)
	}
}

// rest reads to the end of the stream, which must be in order.
func rest(tb testing.TB, conn net.Conn) string {
	tb.Helper()
	all, err := io.ReadAll(conn)
	if err != nil {
		tb.Errorf("the stream ends with %v", err)
	}
	return string(all)
}

func (d *doorstep) agent(alpn ...string) *tls.Config {
	return &tls.Config{RootCAs: d.roots, ServerName: "db.internal", NextProtos: alpn}
}

// inside goes on inside TLS up to the end of the session.
func (d *doorstep) inside(conn *tls.Conn) {
	d.tb.Helper()
	if _, err := conn.Write(lines(d.tb, `Startup user "agent"`)); err != nil {
		d.tb.Fatal(err)
	}
	if got := rest(d.tb, conn); !strings.Contains(got, unreachable) {
		d.tb.Errorf("heard %q", got)
	}
}

func TestEncryptionIsNegotiatedAsAServerDoes(t *testing.T) {
	for name, requests := range map[string][]string{
		"TLS": {"SSLRequest"}, "GSS, then TLS": {"GSSRequest", "SSLRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			d := approach(t)
			for _, r := range requests {
				d.say(r)
				d.hear(map[string]string{"SSLRequest": "S", "GSSRequest": "N"}[r])
			}
			d.inside(tls.Client(d, d.agent()))
		})
	}
	t.Run("GSS, then in the clear", func(t *testing.T) {
		d := approach(t)
		d.say("GSSRequest")
		d.hear("N")
		d.say(`Startup user "agent"`)
		if got := rest(t, d); !strings.Contains(got, unreachable) {
			t.Errorf("heard %q", got)
		}
	})
}

func TestTLSMayBeginAtOnceForThisProtocolOnly(t *testing.T) {
	d := approach(t)
	secured := tls.Client(d, d.agent("h2", "postgresql"))
	d.inside(secured)
	if got := secured.ConnectionState().NegotiatedProtocol; got != "postgresql" {
		t.Errorf("agreed on %q", got)
	}
	for name, alpn := range map[string][]string{"none": nil, "another": {"h2", "http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			d := approach(t)
			err := tls.Client(d, d.agent(alpn...)).Handshake()
			if err == nil || !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("the handshake ended with %v", err)
			}
			if err := <-d.ended; err == nil {
				t.Error("the session ended in order")
			}
		})
	}
}

// What is said before TLS must not be taken for something said inside it:
// CVE-2021-23214.
func TestBytesInTheClearBehindARequestForTLSEndTheSession(t *testing.T) {
	t.Run("with the request", func(t *testing.T) {
		d := approach(t)
		d.say("SSLRequest", `Startup user "stuffed"`)
		if got := rest(t, d); !strings.HasPrefix(got, "E") || !strings.Contains(got, "C08P01") {
			t.Errorf("heard %q", got)
		}
		if err := <-d.ended; err == nil || !strings.Contains(err.Error(), "in the clear behind the request") {
			t.Errorf("the session ended with %v", err)
		}
	})
	t.Run("behind GSS and with the request", func(t *testing.T) {
		d := approach(t)
		d.say("GSSRequest", "SSLRequest", `Startup user "stuffed"`)
		if got := rest(t, d); !strings.HasPrefix(got, "NE") || !strings.Contains(got, "C08P01") {
			t.Errorf("heard %q", got)
		}
	})
	t.Run("after the answer", func(t *testing.T) {
		d := approach(t)
		d.say("SSLRequest")
		d.hear("S")
		d.say(`Startup user "stuffed"`)
		got, _ := io.ReadAll(d) // an alert, or a reset that overtakes it
		if strings.Contains(string(got), unreachable) || <-d.ended == nil {
			t.Errorf("heard %q", got)
		}
	})
}

// hasty sends its hello together with the request for TLS.
type hasty struct {
	net.Conn
	request []byte
	skipped bool
}

func (h *hasty) Write(p []byte) (int, error) {
	_, err := h.Conn.Write(append(h.request, p...))
	h.request = nil
	return len(p), err
}

func (h *hasty) Read(p []byte) (int, error) {
	if !h.skipped {
		h.skipped = true
		if _, err := io.ReadFull(h.Conn, make([]byte, 1)); err != nil {
			return 0, err
		}
	}
	return h.Conn.Read(p)
}

func TestAHelloThatComesWithTheRequestIsNotLost(t *testing.T) {
	d := approach(t)
	d.inside(tls.Client(&hasty{Conn: d, request: lines(t, "SSLRequest")}, d.agent()))
}

func TestEncryptionIsNotAskedForInsideTLS(t *testing.T) {
	for _, request := range []string{"SSLRequest", "GSSRequest"} {
		d := approach(t)
		secured := tls.Client(d, d.agent("postgresql"))
		if _, err := secured.Write(lines(t, request)); err != nil {
			t.Fatal(err)
		}
		if got := rest(t, secured); !strings.Contains(got, "C08P01") {
			t.Errorf("%s: heard %q", request, got)
		}
	}
}

func TestACancelRequestInsideTLSIsNotAnswered(t *testing.T) {
	d := approach(t)
	secured := tls.Client(d, d.agent("postgresql"))
	if _, err := secured.Write(lines(t, `CancelRequest 7 "abcd"`)); err != nil {
		t.Fatal(err)
	}
	if got := rest(t, secured); got != "" {
		t.Errorf("heard %q", got)
	}
	if err := <-d.ended; err != nil {
		t.Errorf("the session ended with %v", err)
	}
}

// records keeps the type of the last TLS record that came.
type records struct {
	net.Conn
	seen bytes.Buffer
}

func (r *records) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.seen.Write(p[:n])
	return n, err
}

func (r *records) last() (typ byte) {
	for b := r.seen.Bytes(); len(b) >= 5; b = b[min(len(b), 5+int(b[3])<<8+int(b[4])):] {
		typ = b[0]
	}
	return typ
}

func TestTLSEndsInOrder(t *testing.T) {
	d := approach(t)
	d.say("SSLRequest")
	d.hear("S")
	config := d.agent()
	config.MaxVersion = tls.VersionTLS12 // later ones do not show what a record is
	line := &records{Conn: d}
	d.inside(tls.Client(line, config))
	if typ := line.last(); typ != 21 {
		t.Errorf("the last record is of type %d, want an alert, 21", typ)
	}
}

func TestAnAgentThatLeavesAtOnceIsNoError(t *testing.T) {
	d := approach(t)
	_ = d.Close()
	if err := <-d.ended; err != nil {
		t.Errorf("the session ended with %v", err)
	}
	d = approach(t)
	d.say("SSLRequest")
	d.hear("S")
	secured := tls.Client(d, d.agent())
	if err := secured.Handshake(); err != nil {
		t.Fatal(err)
	}
	_ = secured.Close()
	if err := <-d.ended; err != nil {
		t.Errorf("the session ended with %v", err)
	}
}

// The same the other way round: CVE-2021-23222.
func TestWhatATargetSaysBeforeTLSEndsTheSession(t *testing.T) {
	for name, answer := range map[string][]byte{
		"a login":    append([]byte("S"), lines(t, "AuthenticationOk", "ReadyForQuery I")...),
		"an error":   lines(t, `ErrorResponse "SFATAL" "C53300" "Mstuffed"`),
		"no request": []byte("X"),
	} {
		t.Run(name, func(t *testing.T) {
			up, target := net.Pipe()
			defer target.Close()
			d := approach(t, func(s *protocol.Session) {
				s.Resource.TLS.Verify = policy.TLSFull
				s.Dial = func(context.Context) (net.Conn, error) { return up, nil }
				s.Secure = func(ctx context.Context, conn net.Conn) (net.Conn, error) {
					secured := tls.Client(conn, &tls.Config{ServerName: "db.internal"})
					return secured, secured.HandshakeContext(ctx)
				}
			})
			d.say(`Startup user "agent"`)
			request := make([]byte, 8)
			if _, err := io.ReadFull(target, request); err != nil || !bytes.Equal(request, lines(t, "SSLRequest")) {
				t.Fatalf("the target heard %q (%v)", request, err)
			}
			says(target, answer)
			hears(target)
			if got := rest(t, d); !strings.Contains(got, "TLS with the database failed") || strings.Contains(got, "stuffed") {
				t.Errorf("heard %q", got)
			}
		})
	}
}

// FuzzStartup lets both sides say anything from the first byte on: the session must
// end when they have.
func FuzzStartup(f *testing.F) {
	for _, up := range [][]string{
		{`Startup user "agent"`, `Query "select 1"`}, {"SSLRequest", `Startup user "stuffed"`}, {"GSSRequest", "SSLRequest"},
		{`Startup32 user "agent"`, `Password "x"`}, {`CancelRequest 4242 "ours"`}, {`Raw "\x16\x03\x01\x00\x05hello"`},
	} {
		for _, down := range [][]string{
			{`NegotiateProtocolVersion 196608`, "AuthenticationOk", `BackendKeyData 7 "abcd"`, "ReadyForQuery I"},
			{`Raw "S\x15\x03\x03\x00\x02\x02\x28"`}, {"AuthenticationCleartext", `BackendKeyData 7 "abcd"`, `BackendKeyData 8 "abcd"`},
			{`Raw "R\x00\x00\x00\x2b\x00\x00\x00\x0aSCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"`},
		} {
			f.Add(lines(f, up...), lines(f, down...), len(up) == 1)
		}
	}
	authority, err := certs.Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	value := newPostgres(postgres.Options{Key: ourKey, StartupTimeout: 2 * time.Second})
	f.Fuzz(func(t *testing.T, up, down []byte, secured bool) {
		p := connect(t)
		p.session.Certify = func(ctx context.Context, conn net.Conn, terms certs.Terms) (*certs.Conn, error) {
			terms.Names = []string{"db.internal"}
			return authority.Handshake(ctx, conn, terms)
		}
		if secured {
			p.session.Resource.TLS.Verify = policy.TLSFull
		}
		for conn, said := range map[net.Conn][]byte{p.agent: up, p.target: down} {
			go func() {
				_, _ = conn.Write(said)
				_ = conn.Close()
			}()
		}
		hears(p.target)
		p.serve(t.Context(), value)
		_ = p.wait() // how it ends is up to what was said
	})
}
