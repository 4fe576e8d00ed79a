package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
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
	// Never is, in PEM, an authority that may have no part in it even where CA
	// trusts it: headgate's own, which certifies any name that an agent asks for.
	Never []byte
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
	never, err := keysOf(t.Never)
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
		config.VerifyConnection = func(state tls.ConnectionState) error { return exclude(never, state.VerifiedChains) }
	case "ca":
		// crypto/tls can only leave out the name by leaving out everything; the
		// chain is verified by the function, which runs for resumed sessions too.
		config.InsecureSkipVerify = true
		config.VerifyConnection = verifyChain(roots, never)
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
	text, err := io.ReadAll(io.LimitReader(f, maxCA+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxCA {
		return nil, fmt.Errorf("%s is longer than %d bytes", ca, maxCA)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", ca)
	}
	return pool, nil
}

// keysOf returns the public keys of certificates in PEM.
func keysOf(text []byte) ([][]byte, error) {
	var keys [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		keys = append(keys, c.RawSubjectPublicKeyInfo)
	}
	if len(text) > 0 && len(keys) == 0 {
		return nil, errors.New("authority to be excluded: no certificate")
	}
	return keys, nil
}

var errExcluded = errors.New("verify chain: headgate's own authority has signed the certificate, and it certifies no target")

// exclude refuses a certificate in whose chains one of the keys is.
func exclude(keys [][]byte, chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		for _, c := range chain {
			if slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, c.RawSubjectPublicKeyInfo) }) {
				return errExcluded
			}
		}
	}
	return nil
}

func verifyChain(roots *x509.CertPool, never [][]byte) func(tls.ConnectionState) error {
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
		chains, err := state.PeerCertificates[0].Verify(options)
		if err != nil {
			return err
		}
		return exclude(never, chains)
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
