package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// Observing alters no byte: no mask, no credential, no refusal. It says what
// enforce would have done.
func TestPrivilegedObserveChangesNothing(t *testing.T) {
	r := newRig(t, strings.Replace(rigPolicy, "mode: enforce", "mode: observe", 1))
	login := []string{"env", "PGUSER=" + pgtest.App, "PGPASSWORD=" + pgtest.AppPassword}
	o := r.agent(append(login, psql("-c", "select card from customers where id = 1")...)...)
	o.want(t, 0, "4111 1111 1111 1111")
	r.agent(psql("-w", "-c", "select 1")...).want(t, 2, "no password supplied")
	o = r.agent(append(login, psql("-c", "create table doomed (x int)", "-c", "drop table doomed", "-c", "this is no statement")...)...)
	o.want(t, 1, "DROP TABLE", "syntax error at or near \"this\"")
	o.wantNot(t, "headgate")
	if n := r.metric("headgate_decisions_total", `verdict="would_deny"`, `rule="no-destruction"`); n != 1 {
		t.Errorf("%v would have been denied", n)
	}
	if s := r.last().Summary; s.WouldHave != 2 || s.Denied != 0 {
		t.Errorf("the record has %d that would have been denied, %d that were", s.WouldHave, s.Denied)
	}
}

// The upstream's certificate is verified as the resource says, whatever the
// agent's own settings are.
func TestPrivilegedUpstreamCertificateIsVerified(t *testing.T) {
	ca := newAuthority(t, "db.test")
	tlsPolicy := func(dir, authority, name string) string {
		return strings.Replace(rigPolicy, "    tls: {verify: off}\n",
			"    tls: {ca: "+filepath.Join(dir, authority)+", server_name: "+name+"}\n", 1)
	}
	for name, c := range map[string]struct {
		authority, server string
		status            int
		says              string
	}{
		"good":            {"ca.pem", "db.test", 0, "**** **** **** 1111"},
		"another name":    {"ca.pem", "other.test", 2, "FATAL"},
		"another issuer":  {"other.pem", "db.test", 2, "FATAL"},
		"no such issuers": {"none.pem", "db.test", 2, "FATAL"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tlsPolicy(ca, c.authority, c.server),
				"ssl=on", "ssl_cert_file="+filepath.Join(ca, "server.pem"), "ssl_key_file="+filepath.Join(ca, "server.key"))
			o := r.agent(psql("-c", "select card from customers where id = 1")...)
			o.want(t, c.status, c.says)
			o.wantNot(t, "4111", pgtest.AppPassword)
		})
	}
}

// An agent that verifies who it talks to trusts what headgate ca prints, for which
// it needs no privilege; the key is not to be had. While only observing it talks to
// the target itself.
func TestPrivilegedAgentsTrustTheAuthorityOfTheHost(t *testing.T) {
	ca := newAuthority(t, "db.test")
	full := strings.Replace(rigPolicy, "    tls: {verify: off}\n", "    tls: {ca: "+filepath.Join(ca, "ca.pem")+", server_name: db.test}\n", 1)
	overTLS := []string{"ssl=on", "ssl_cert_file=" + filepath.Join(ca, "server.pem"), "ssl_key_file=" + filepath.Join(ca, "server.key")}
	secured := func(roots, sslmode string) []string {
		// What psql says of the connection to us, what the server of the one to it.
		login := []string{"env", "PGSSLMODE=" + sslmode, "PGSSLROOTCERT=" + roots, "PGUSER=" + pgtest.App, "PGPASSWORD=" + pgtest.AppPassword}
		return append(login, psql("-c", `\conninfo`, "-c", "select 'target over TLS: ' || ssl from pg_stat_ssl where pid = pg_backend_pid()")...)
	}
	check(t, os.Chmod(filepath.Join(ca, "ca.pem"), 0o644))
	t.Run("enforce", func(t *testing.T) {
		r := newRig(t, full, overTLS...)
		found := r.agent(r.bin, "ca", "--socket", r.socket, "--path")
		found.want(t, 0, filepath.Dir(r.socket))
		roots := strings.TrimSpace(found.text)
		r.agent("cat", roots).want(t, 0, "BEGIN CERTIFICATE")
		r.agent("cat", filepath.Join(r.state, "ca", "ca.key")).want(t, 1, "Permission denied")
		r.agent(secured(roots, "verify-full")...).want(t, 0, "TLSv1.3", "target over TLS: true")
		r.agent(secured(filepath.Join(ca, "ca.pem"), "verify-full")...).want(t, 2, "certificate verify failed")
		r.agent(psql("-c", "drop table orders")...).want(t, 1, "no-destruction")
	})
	t.Run("observe", func(t *testing.T) {
		r := newRig(t, strings.Replace(full, "mode: enforce", "mode: observe", 1), overTLS...)
		r.agent(secured(filepath.Join(ca, "ca.pem"), "verify-ca")...).want(t, 0, "TLSv1.3", "target over TLS: true")
		r.agent(secured(filepath.Join(r.dir, "ca.pem"), "verify-ca")...).want(t, 2, "certificate verify failed")
	})
}

// newAuthority makes a directory with ca.pem, other.pem, and a server's
// certificate and key by the first, readable by the server.
func newAuthority(t *testing.T, serverName string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "headgate-ca")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	check(t, os.Chmod(dir, 0o755))
	root, key := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	other, _ := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "somebody else"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	leaf, leafKey := certificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, key)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	check(t, err)
	for name, block := range map[string]*pem.Block{
		"ca.pem":     {Type: "CERTIFICATE", Bytes: root.Raw},
		"other.pem":  {Type: "CERTIFICATE", Bytes: other.Raw},
		"server.pem": {Type: "CERTIFICATE", Bytes: leaf.Raw},
		"server.key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
		check(t, os.Chown(path, serverUser(t), -1))
	}
	return dir
}

func serverUser(t *testing.T) int {
	t.Helper()
	u, err := user.Lookup("postgres")
	check(t, err)
	uid, err := strconv.Atoi(u.Uid)
	check(t, err)
	return uid
}

// certificate makes a certificate, signed by issuer or else by itself.
func certificate(t *testing.T, template, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	check(t, err)
	made, err := x509.ParseCertificate(der)
	check(t, err)
	return made, key
}
