package login_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
)

const password = "r0le-s3cret,=é"

// hba demands one method of each role.
const hba = `
local   all all          scram-sha-256
hostssl all by_scram     all scram-sha-256
host    all by_scram     all scram-sha-256
host    all by_md5       all md5
host    all by_password  all password
hostssl all by_cert      all cert
host    all by_trust     all trust
`

const roles = `
create role by_scram login password '` + password + `';
create role by_password login password '` + password + `';
create role by_cert login; create role by_trust login;
set password_encryption = 'md5';
create role by_md5 login password '` + password + `';
`

// cluster is a server that knows all methods, and TLS. All tests share it.
type cluster struct {
	once   sync.Once
	server *pgtest.Cluster
	dir    string
	err    error
	ca     *issuer
}

var shared cluster

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		if err := errors.Join(shared.server.Close(), os.RemoveAll(shared.dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func need(t *testing.T) *cluster {
	t.Helper()
	shared.once.Do(func() {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread() // the server lives as long as this thread
			shared.err = shared.start()
			close(done)
			select {}
		}()
		<-done
	})
	if errors.Is(shared.err, pgtest.ErrMissing) {
		pgtest.Skip(t, shared.err.Error())
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared
}

func (c *cluster) start() (err error) {
	if c.dir, err = os.MkdirTemp("", "headgate-login"); err != nil {
		return err
	}
	if err := os.Chmod(c.dir, 0o755); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	if c.ca, err = newIssuer(key); err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(c.dir, "hba"), []byte(hba), 0o644),
		os.WriteFile(filepath.Join(c.dir, "ca.pem"), c.ca.pem(), 0o644),
		c.certify(c.ca),
	)
	if err != nil {
		return err
	}
	c.server, err = pgtest.Open("ssl=on", "hba_file="+c.path("hba"), "ssl_ca_file="+c.path("ca.pem"),
		"ssl_cert_file="+c.path("server.crt"), "ssl_key_file="+c.path("server.key"))
	if err != nil {
		return err
	}
	_, err = c.server.Exec("postgres", roles)
	return err
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

// certify gives the server a certificate. It takes it at its start, or when it is
// told to read its configuration again.
func (c *cluster) certify(by *issuer) error {
	certificate, key, err := by.issue(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(c.path("server.crt"), certificate, 0o644), os.WriteFile(c.path("server.key"), key, 0o600)); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	return errors.Join(err, os.Chown(c.path("server.key"), uid, -1))
}

// dial opens a plain connection.
func (c *cluster) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", c.server.Addr())
}

// secure starts TLS as the resource of a policy demands, with a certificate of
// ours if there is one.
func (c *cluster) secure(mine ...tls.Certificate) func(context.Context, net.Conn) (net.Conn, error) {
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.cert)
	return func(ctx context.Context, conn net.Conn) (net.Conn, error) {
		secured := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", Certificates: mine})
		return secured, secured.HandshakeContext(ctx)
	}
}

// target is how to log in as a role, with TLS.
func (c *cluster) target() login.Target {
	return login.Target{Dial: c.dial, Secure: c.secure(), Verify: "full", Database: "postgres"}
}

// issuer signs certificates.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newIssuer(key crypto.Signer) (*issuer, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &issuer{cert: cert, key: key}, err
}

func newEd25519() (*issuer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return newIssuer(key)
}

func (i *issuer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}

// issue returns a certificate and its key, in PEM.
func (i *issuer) issue(template *x509.Certificate) (certificate, key []byte, err error) {
	template.SerialNumber, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(time.Hour)
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, leaf.Public(), i.key)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(leaf)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), err
}
