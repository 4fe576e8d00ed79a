package login_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func account(name, secret string, methods ...string) credential.Credential {
	return credential.Credential{Name: "test", Username: name, Secret: credential.NewSecret([]byte(secret)), Methods: methods}
}

// open logs in and says how. The error must not say what with.
func open(t *testing.T, target login.Target) (login.Method, error) {
	t.Helper()
	s, err := login.Open(testContext(t), target)
	if err != nil {
		if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("the error says too much: %v", err)
		}
		return "", err
	}
	if s.State != 'I' || s.PID == 0 || len(s.Settings) < 10 {
		t.Errorf("session is in state %q, of pid %d, with %d settings", s.State, s.PID, len(s.Settings))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return s.Method, nil
}

func TestEveryMethodLogsInAtARealServer(t *testing.T) {
	c := need(t)
	plain, secured := c.target(), c.target()
	plain.Verify = ""
	for name, test := range map[string]struct {
		target     login.Target
		credential credential.Credential
		want       login.Method
		err        error
	}{
		"scram over TLS is bound to the certificate": {secured, account("by_scram", password), login.SCRAMPlus, nil},
		"scram without TLS":                          {plain, account("by_scram", password), login.SCRAM, nil},
		"scram where only that is allowed":           {plain, account("by_scram", password, "scram-sha-256"), login.SCRAM, nil},
		"scram without the binding that is demanded": {plain, account("by_scram", password, "scram-sha-256-plus"), "", login.ErrMethod},
		"scram with the binding that is demanded":    {secured, account("by_scram", password, "scram-sha-256-plus"), login.SCRAMPlus, nil},
		"a wrong password":                           {secured, account("by_scram", "wrong"), "", login.ErrRefused},
		"no password":                                {secured, account("by_scram", ""), "", login.ErrMethod},
		"an account that is not there":               {secured, account("nobody", password), "", login.ErrRefused},
		"md5":                                        {secured, account("by_md5", password), login.MD5, nil},
		"md5 without TLS":                            {plain, account("by_md5", password), login.MD5, nil},
		"md5 where scram is demanded":                {secured, account("by_md5", password, "scram-sha-256"), "", login.ErrMethod},
		"md5 with a wrong password":                  {secured, account("by_md5", "wrong"), "", login.ErrRefused},
		"a password in the clear over TLS":           {secured, account("by_password", password), login.Cleartext, nil},
		"a password in the clear without TLS":        {plain, account("by_password", password), "", login.ErrMethod},
		"a password where md5 is the least":          {secured, account("by_password", password, "scram-sha-256", "md5"), "", login.ErrMethod},
		"trust":                                      {plain, account("by_trust", password), login.None, nil},
		"trust where scram is demanded":              {plain, account("by_trust", password, "scram-sha-256"), "", login.ErrMethod},
		"scram where trust is demanded":              {plain, account("by_scram", password, "none"), "", login.ErrMethod},
		"a method that nobody knows":                 {plain, account("by_scram", password, "scram"), "", errAny},
	} {
		t.Run(name, func(t *testing.T) {
			test.target.Credential = test.credential
			got, err := open(t, test.target)
			if got != test.want || (test.err == nil) != (err == nil) || !errors.Is(test.err, errAny) && !errors.Is(err, test.err) {
				t.Errorf("got %q, %v, want %q, %v", got, err, test.want, test.err)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestAClientCertificateLogsIn(t *testing.T) {
	c := need(t)
	certificate, key, err := c.ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "by_cert"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	target := c.target()
	target.Credential = credential.Credential{Name: "test", Username: "by_cert", Certificate: certificate, Key: credential.NewSecret(key)}
	if _, err := open(t, target); !errors.Is(err, login.ErrRefused) {
		t.Errorf("without showing it: %v", err)
	}
	target.Secure = c.secure(pair)
	if got, err := open(t, target); got != login.None || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	target.Verify = ""
	if _, err := open(t, target); !errors.Is(err, login.ErrMethod) {
		t.Errorf("over a connection without TLS: %v", err)
	}
}

func TestATokenIsSentAsItIsOverTLSThatIsVerifiedToTheName(t *testing.T) {
	c := need(t)
	target := c.target()
	target.Credential = account("by_password", password)
	target.Credential.Token = true
	if got, err := open(t, target); got != login.Cleartext || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	target.Verify = "ca"
	if _, err := open(t, target); !errors.Is(err, login.ErrMethod) {
		t.Errorf("verified to the authority only: %v", err)
	}
	target.Verify = "full"
	for _, role := range []string{"by_scram", "by_md5", "by_trust"} {
		target.Credential.Username = role
		if _, err := open(t, target); !errors.Is(err, login.ErrMethod) {
			t.Errorf("%s: %v", role, err)
		}
	}
}

// It swaps the certificate of the server that all tests share, and puts one of the
// first authority back at the end.
func TestWithoutAHashForTheCertificateThereIsNoBinding(t *testing.T) {
	c := need(t)
	other, err := newEd25519()
	if err != nil {
		t.Fatal(err)
	}
	old := c.ca
	swap := func(by *issuer) {
		c.ca = by
		if err := c.certify(by); err != nil {
			t.Fatal(err)
		}
		c.server.SQL(t, "postgres", "select pg_reload_conf()")
		ctx := testContext(t)
		for {
			conn, err := c.dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			conn, err = login.Secure(ctx, conn, c.secure())
			if err == nil {
				_ = conn.Close()
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("the server does not take its new certificate: %v", err)
			}
		}
	}
	swap(other)
	defer swap(old)
	target := c.target()
	target.Credential = account("by_scram", password)
	if got, err := open(t, target); got != login.SCRAM || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	target.Credential.Methods = []string{"scram-sha-256-plus"}
	if _, err := open(t, target); !errors.Is(err, login.ErrMethod) {
		t.Errorf("where the binding is demanded: %v", err)
	}
}

func TestTheOutcomeHasWhatTheTargetKeepsOfThePassword(t *testing.T) {
	c := need(t)
	target := c.target()
	target.Credential = account("by_scram", password)
	s, err := login.Open(testContext(t), target)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stored := c.server.SQL(t, "postgres", "select rolpassword from pg_authid where rolname = 'by_scram'")
	if s.Verifier == nil || login.SCRAMVerifier(*s.Verifier) != stored {
		t.Errorf("the server keeps %s", stored)
	}
	if kept := c.server.SQL(t, "postgres", "select rolpassword from pg_authid where rolname = 'by_md5'"); kept != login.MD5Verifier("by_md5", credential.NewSecret([]byte(password))) {
		t.Errorf("the server keeps %s", kept)
	}
}

func TestALoginEndsWithItsContext(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		buf := make([]byte, 1024)
		_, _ = far.Read(buf) // the StartupMessage, which nobody answers
		cancel()
	}()
	_, err := login.Open(ctx, login.Target{
		Dial:       func(context.Context) (net.Conn, error) { return near, nil },
		Credential: account("app", password),
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := near.Write([]byte{0}); err == nil {
		t.Error("the connection is still open")
	}
}
