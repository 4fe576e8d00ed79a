package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/transparent"
)

// selfSigned writes a certificate and its key.
func selfSigned(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	err = errors.Join(
		os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func TestTheCertificateOfACredentialIsShownToItsDestinationsOnly(t *testing.T) {
	ca, caKey := selfSigned(t, "target.internal")
	mine, myKey := selfSigned(t, "app")
	pair, err := tls.LoadX509KeyPair(ca, caKey)
	if err != nil {
		t.Fatal(err)
	}
	store, err := credential.New([]credential.Spec{{Name: "app", Certificate: mine, Key: "file:" + myKey, Hosts: []string{"192.0.2.1:5432"}}})
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"192.0.2.1:5432": "app", "192.0.2.2:5432": ""} {
		near, far := net.Pipe()
		shown := make(chan string, 1)
		go func() {
			server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
			name := ""
			if err := server.Handshake(); err == nil {
				name = server.ConnectionState().PeerCertificates[0].Subject.CommonName
			}
			shown <- name
		}()
		s := &session{gateway: &Gateway{Options: Options{Credentials: store}}}
		s.Downstream = transparent.NewConn(far, transparent.Origin{Target: netip.MustParseAddrPort(target)})
		s.Resource = policy.Resource{Credential: "app", TLS: policy.TLS{CA: ca, ServerName: "target.internal"}}
		conn, err := s.secure(t.Context(), near)
		if got := <-shown; got != want || (err == nil) != (want != "") || want == "" && !errors.Is(err, credential.ErrNotBound) {
			t.Errorf("%s saw %q, %v", target, got, err)
		}
		if conn != nil {
			_ = far.Close() // so that nobody waits for a goodbye
			_ = conn.Close()
		}
	}
}
