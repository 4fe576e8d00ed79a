package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/policy"
)

// serverName is what the certificate of a target says.
const serverName = "target.internal"

// withTLS starts a server that speaks TLS, and returns it with a file of its
// authority.
func withTLS(tb testing.TB) (server *pgtest.Cluster, authority string) {
	tb.Helper()
	need(tb) // skips where no server is installed
	dir, err := os.MkdirTemp("", "headgate-tls")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	key := issue(tb, dir)
	server = sharedVersion().Start(tb, "ssl=on", "ssl_cert_file="+filepath.Join(dir, "server.pem"), "ssl_key_file="+key)
	server.SQL(tb, testDatabase, schema)
	return server, filepath.Join(dir, "ca.pem")
}

// issue writes ca.pem, server.pem and the server's key, of which it returns the path.
func issue(tb testing.TB, dir string) string {
	tb.Helper()
	rootKey, leafKey := newKey(tb), newKey(tb)
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "target authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	leaf := &x509.Certificate{
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, DNSNames: []string{serverName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		tb.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &leafKey.PublicKey, rootKey)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		tb.Fatal(err)
	}
	writePEM(tb, filepath.Join(dir, "ca.pem"), "CERTIFICATE", rootDER)
	writePEM(tb, filepath.Join(dir, "server.pem"), "CERTIFICATE", leafDER)
	path := filepath.Join(dir, "server.key")
	writePEM(tb, path, "PRIVATE KEY", keyDER)
	if err := os.Chmod(path, 0o600); err != nil {
		tb.Fatal(err)
	}
	if os.Getuid() == 0 {
		giveToServer(tb, path)
	}
	return path
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func writePEM(tb testing.TB, path, kind string, der []byte) {
	tb.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
		tb.Fatal(err)
	}
}

func giveToServer(tb testing.TB, path string) {
	tb.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		tb.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chown(path, uid, -1); err != nil {
		tb.Fatal(err)
	}
}

// certified makes a gate that speaks TLS with its agents, and returns the file
// that they trust.
func certified(tb testing.TB, change func(*gate)) (g *gate, roots string) {
	tb.Helper()
	dir := tb.TempDir()
	authority, err := certs.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	g = newGate(tb, func(g *gate) {
		g.authority = authority
		if change != nil {
			change(g)
		}
	})
	return g, filepath.Join(dir, certs.CertificateFile)
}

// verified makes the gate's target one that is verified in full.
func verified(server *pgtest.Cluster, authority string) func(*gate) {
	return func(g *gate) {
		g.target = server.Addr()
		g.resource = policy.Resource{Name: "db", TLS: policy.TLS{CA: authority, ServerName: serverName}}
	}
}

// psql runs a statement as an agent that knows the gate under a name, and returns
// all that it prints.
func (g *gate) psql(host, sslmode, roots, statement string) (string, error) {
	out, err := g.command("host="+host+" sslmode="+sslmode+" sslrootcert="+roots, statement).CombinedOutput()
	return string(out), err
}

// command is psql as an agent.
func (g *gate) command(options, statement string) *exec.Cmd {
	_, port, err := net.SplitHostPort(g.addr)
	if err != nil {
		g.tb.Fatal(err)
	}
	cmd := exec.Command("psql", "-X", "-A", "-t", "-c", `\conninfo`, "-c", statement, fmt.Sprintf(
		"hostaddr=127.0.0.1 port=%s user=agent password=agent-password dbname=%s connect_timeout=20 %s", port, testDatabase, options))
	cmd.Env = append(os.Environ(), "PGGSSENCMODE=disable")
	return cmd
}

// libpq18 returns the environment in which psql uses the library of PostgreSQL 18.
func libpq18(tb testing.TB) []string {
	tb.Helper()
	pgtest.V18.Need(tb)
	lib := filepath.Join(pgtest.Cache(), "postgresql-18", "lib")
	found, err := filepath.Glob(filepath.Join(lib, "libpq.so.5.*"))
	if err != nil || len(found) != 1 {
		tb.Fatalf("find libpq: %v (%v)", found, err)
	}
	dir := tb.TempDir()
	if err := os.Symlink(found[0], filepath.Join(dir, "libpq.so.5")); err != nil {
		tb.Fatal(err)
	}
	return []string{"LD_LIBRARY_PATH=" + dir + ":" + lib}
}
