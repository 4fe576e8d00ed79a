// Package certs is the local authority that certifies headgate to its agents.
//
// An agent that asks for TLS is answered in its target's place, with a
// certificate for the name that it asked for. The authority is made once on each
// host and never leaves it; who trusts it trusts this headgate and nothing else.
// Its certificate is for everybody, its key for nobody but the daemon.
//
// Sources: RFC 5280 for certificates, RFC 8446 for TLS 1.3, RFC 5929 for what the
// hash of a certificate binds a log-in to.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// The names of the authority's files in its directory.
const (
	// CertificateFile holds the certificate, in PEM. Everybody may read it.
	CertificateFile = "ca.pem"
	// KeyFile holds the key, as PKCS #8 in PEM, for its owner.
	KeyFile = "ca.key"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	// leafLife is how long a leaf is good for; it is made anew after half of it.
	leafLife = 24 * time.Hour
	// backdate allows for clocks that go after ours.
	backdate = time.Hour
	// maxLeaves bounds the leaves that are kept. Which one has to go matters to
	// nothing but time: it is made again.
	maxLeaves = 1024
)

// ErrNone is returned where there is no authority: nothing is certified then.
var ErrNone = errors.New("there is no certificate authority")

// Authority certifies this host's headgate. It is safe for concurrent use. A nil
// Authority certifies nothing.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	now         func() time.Time

	mu     sync.Mutex
	leaves map[string]*leaf
}

// Open returns the authority whose files are in dir, and makes it the first time:
// the directory with mode 0700, the key with 0600. What is made is on the disk
// when Open returns, and several callers at once get the same one. A key that
// others may read, a certificate of another key and one that has expired are
// errors, and nothing is changed then.
func Open(dir string) (*Authority, error) {
	a, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	return a, nil
}

func open(dir string) (*Authority, error) {
	if err := makeDirectory(dir); err != nil {
		return nil, err
	}
	key, err := openKey(filepath.Join(dir, KeyFile), filepath.Join(dir, CertificateFile))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, CertificateFile)
	text, err := readFile(path, anybodyReads)
	if errors.Is(err, fs.ErrNotExist) {
		// The key is new, or was all that came to the disk the last time.
		if err = issueAuthority(path, key); err == nil {
			text, err = readFile(path, anybodyReads)
		}
	}
	if err != nil {
		return nil, err
	}
	certificate, err := parseAuthority(text, key, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Authority{
		certificate: certificate, key: key, now: time.Now, leaves: map[string]*leaf{},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}),
	}, nil
}

// PEM returns the authority's certificate, for whoever shall trust it. The caller
// may change it. A nil Authority has none.
func (a *Authority) PEM() []byte {
	if a == nil {
		return nil
	}
	return bytes.Clone(a.pem)
}

// openKey reads the key, and makes one if neither it nor a certificate is there.
func openKey(path, certificate string) (*ecdsa.PrivateKey, error) {
	text, err := readFile(path, ownerReads)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := readFile(certificate, anybodyReads); !errors.Is(statErr, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w, but its certificate is there: put the key back, or move %s away to begin anew", err, certificate)
		}
		if err = makeKey(path); err == nil {
			text, err = readFile(path, ownerReads)
		}
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s: not one PEM block", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: not a key in PKCS #8", path) // the cause might quote it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s: not an ECDSA key on P-256", path)
	}
	return key, nil
}

func makeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	return writeOnce(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func issueAuthority(path string, key *ecdsa.PrivateKey) error {
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	sum := sha256.Sum256(public)
	now := time.Now()
	template := &x509.Certificate{
		// Two hosts must not have authorities of the same name: trust stores look
		// issuers up by it.
		Subject:               pkix.Name{Organization: []string{"headgate"}, CommonName: "headgate " + hex.EncodeToString(sum[:8])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	return writeOnce(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func parseAuthority(text []byte, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not a certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("the certificate is of another key")
	}
	if !certificate.IsCA {
		return nil, errors.New("the certificate is not an authority's")
	}
	if err := certificate.CheckSignatureFrom(certificate); err != nil {
		return nil, fmt.Errorf("the certificate is not signed by its key: %w", err)
	}
	if now.After(certificate.NotAfter) {
		return nil, fmt.Errorf("the certificate has expired on %s: move it away, and a new one is made for the same key",
			certificate.NotAfter.Format(time.DateOnly))
	}
	return certificate, nil
}
