package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// leaf is a certificate that is made by whoever needs it first.
type leaf struct {
	renew       time.Time
	once        sync.Once
	certificate *tls.Certificate
	err         error
}

// leafFor returns a certificate that carries all of names that are host names or
// addresses. There has to be one.
func (a *Authority) leafFor(names []string) (*tls.Certificate, error) {
	subjects, err := subjectsOf(names)
	if err != nil {
		return nil, err
	}
	key, now := strings.Join(subjects, " "), a.now()
	a.mu.Lock()
	l := a.leaves[key]
	if l == nil || now.After(l.renew) {
		a.makeRoom(now)
		l = &leaf{renew: now.Add(leafLife / 2)}
		a.leaves[key] = l
	}
	a.mu.Unlock()
	l.once.Do(func() { l.certificate, l.err = a.mint(subjects, now) })
	if l.err != nil {
		a.forget(key, l)
	}
	return l.certificate, l.err
}

// makeRoom drops what is too old and, if that is not enough, anything. mu is held.
func (a *Authority) makeRoom(now time.Time) {
	if len(a.leaves) < maxLeaves {
		return
	}
	for key, l := range a.leaves {
		if now.After(l.renew) {
			delete(a.leaves, key)
		}
	}
	for key := range a.leaves {
		if len(a.leaves) < maxLeaves {
			return
		}
		delete(a.leaves, key)
	}
}

// forget lets the next one try again.
func (a *Authority) forget(key string, l *leaf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaves[key] == l {
		delete(a.leaves, key)
	}
}

func (a *Authority) mint(subjects []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: now.Add(leafLife),
		// A log-in is bound to the certificate by the hash of its signature, which
		// some algorithms do not have.
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	for _, s := range subjects {
		if addr, err := netip.ParseAddr(s); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, s)
		}
	}
	if len(subjects[0]) <= maxCommonName {
		template.Subject = pkix.Name{CommonName: subjects[0]}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key}, nil
}

// maxCommonName is the upper bound of RFC 5280, appendix A.1.
const maxCommonName = 64

// maxNames bounds the names of one certificate.
const maxNames = 16

// subjectsOf returns names as certificates have them, without what is no name. An
// agent, or a name server, chose some of them.
func subjectsOf(names []string) ([]string, error) {
	var subjects []string
	for _, name := range names {
		subject := strings.ToLower(strings.TrimSuffix(name, "."))
		if addr, err := netip.ParseAddr(name); err == nil {
			subject = addr.Unmap().WithZone("").String()
		} else if !isHostName(subject) {
			continue
		}
		if !slices.Contains(subjects, subject) && len(subjects) < maxNames {
			subjects = append(subjects, subject)
		}
	}
	if len(subjects) == 0 {
		return nil, fmt.Errorf("certify %.64q: not a host name", strings.Join(names, " "))
	}
	return subjects, nil
}

// isHostName reports whether name is labels of lower case letters, digits, "-"
// and "_", as resolvers take it: RFC 1123 section 2.1, and what is found beyond.
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
