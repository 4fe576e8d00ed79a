package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

const maxCA = 4 << 20

// TLS says how a target's certificate is verified.
type TLS struct {
	// Verify is "full" (chain and name) or "ca" (chain only). There is no third.
	Verify string
	// CA is "system", the same as empty, or the path of a PEM file.
	CA string
	// ServerName is the name or address that the certificate must carry, and
	// what is sent as SNI if it is a name. "full" needs it.
	ServerName string
	// Certificate is the chain, in PEM, that is shown to a target that asks for
	// one, and Key its private key. Without them none is shown.
	Certificate, Key []byte
}

// TLSConfig makes a configuration that verifies as t says. It reads the file of
// authorities once. The result can be used for any number of connections, and
// must not be changed.
func TLSConfig(t TLS) (*tls.Config, error) {
	roots, err := authorities(t.CA)
	if err != nil {
		return nil, fmt.Errorf("configure TLS: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: t.ServerName}
	if len(t.Certificate) > 0 || len(t.Key) > 0 {
		pair, err := tls.X509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, fmt.Errorf("configure TLS: client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	switch t.Verify {
	case "full":
		if t.ServerName == "" {
			return nil, errors.New("configure TLS: verify full needs a server name")
		}
	case "ca":
		// crypto/tls can only leave out the name by leaving out everything; the
		// chain is verified by the function, which runs for resumed sessions too.
		config.InsecureSkipVerify = true
		config.VerifyConnection = verifyChain(roots)
	default:
		return nil, fmt.Errorf("configure TLS: verify is %q, want full or ca", t.Verify)
	}
	return config, nil
}

// authorities returns nil for those of the system, as crypto/tls and x509 take it.
func authorities(ca string) (*x509.CertPool, error) {
	if ca == "" || ca == "system" {
		return nil, nil
	}
	f, err := os.Open(ca)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	pem, err := io.ReadAll(io.LimitReader(f, maxCA+1))
	if err != nil {
		return nil, err
	}
	if len(pem) > maxCA {
		return nil, fmt.Errorf("%s is longer than %d bytes", ca, maxCA)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", ca)
	}
	return pool, nil
}

func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("verify chain: no certificate")
		}
		options := x509.VerifyOptions{
			Roots:         roots,
			Intermediates: x509.NewCertPool(),
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		_, err := state.PeerCertificates[0].Verify(options)
		return err
	}
}

// Secure performs a TLS handshake on conn and returns the secured connection,
// a [*tls.Conn], which owns conn from then on. If it fails, conn is closed. A
// configuration that would accept any certificate is refused. Errors wrap
// [ErrTLS] and their cause.
func Secure(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	if config == nil || config.InsecureSkipVerify && config.VerifyConnection == nil {
		return nil, errors.Join(fmt.Errorf("secure upstream: %w: certificate would not be verified", ErrTLS), conn.Close())
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		// The connection may be closed already, and the handshake's error is the one that counts.
		_ = conn.Close()
		return nil, fmt.Errorf("secure upstream: %w: %w", ErrTLS, err)
	}
	return secured, nil
}
