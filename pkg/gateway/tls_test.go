package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// under makes the rig's policy one resource with these keys, for a host name that
// means the loopback address.
func (r *rig) under(port int, keys string) {
	r.t.Helper()
	file, err := policy.Parse("test.yaml", fmt.Appendf(nil, `
version: 1
resources: [{name: db, protocol: line, hosts: ["db.internal:%d"], tls: {%s}}]
rules: [{name: all, effect: allow, resources: [db], operations: ["*"]}]
`, port, keys))
	if err != nil {
		r.t.Fatal(err)
	}
	engine, err := policy.Options{Resolved: map[string][]netip.Addr{"db.internal": {netip.MustParseAddr("127.0.0.1")}}}.Compile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Engine = func() *policy.Engine { return engine }
}

func TestAnAgentIsShownACertificateForTheTargetUnlessThatIsRefused(t *testing.T) {
	authority, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		authority *certs.Authority
		keys      string
		want      bool
	}{
		"offered": {authority, "agent: offer", true}, "nothing said": {authority, "verify: off", true},
		"refused": {authority, "agent: refuse", false}, "no authority": {nil, "agent: offer", false},
	} {
		t.Run(name, func(t *testing.T) {
			var names []string
			r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
				if (s.Certify != nil) != tc.want {
					t.Errorf("TLS is offered: %v, want %v", s.Certify != nil, tc.want)
				}
				if s.Certify != nil {
					names = certified(t, s)
				}
				return nil
			})
			r.under(7000, tc.keys)
			r.Authority = tc.authority
			if _, err := r.connect(originTo("127.0.0.1:7000"), ""); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"127.0.0.1", "db.internal"}, names); tc.want && diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

// certified returns the names that an agent is shown which asks for none.
func certified(t *testing.T, s *protocol.Session) []string {
	agent, down := net.Pipe()
	defer agent.Close()
	go func() { _ = tls.Client(agent, &tls.Config{InsecureSkipVerify: true}).Handshake() }()
	conn, err := s.Certify(t.Context(), down, certs.Terms{})
	if err != nil {
		t.Error(err)
		return nil
	}
	leaf, err := x509.ParseCertificate(conn.Leaf())
	if err != nil {
		t.Error(err)
		return nil
	}
	var names []string
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return append(names, leaf.DNSNames...)
}

// target speaks TLS until the test ends, as db.internal, and returns its port and
// the file of who vouches for it.
func target(t *testing.T) (port int, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"db.internal"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = conn.(*tls.Conn).Handshake() // what comes of it is for the other side to say
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port, ca
}

func TestATargetIsVerifiedByTheNameThatThePolicyFoundItBy(t *testing.T) {
	port, ca := target(t)
	for keys, want := range map[string]string{
		"ca: " + ca:               "",
		"verify: full, ca: " + ca: "",
		"verify: ca, ca: " + ca:   "",
		"agent: offer":            "unknown authority",
		"verify: full, server_name: other, ca: " + ca:       "not other",
		"verify: ca, server_name: not-looked-at, ca: " + ca: "",
		"verify: off": `want full or ca`,
	} {
		t.Run(keys, func(t *testing.T) {
			r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
				conn, err := s.Dial(ctx)
				if err != nil {
					return err
				}
				conn, err = s.Secure(ctx, conn)
				if err != nil {
					return err
				}
				return conn.Close()
			})
			r.under(port, keys)
			_, err := r.connect(originTo(fmt.Sprintf("127.0.0.1:%d", port)), "")
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v, want %q", err, want)
			}
		})
	}
}
