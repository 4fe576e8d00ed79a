package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustOpen(tb testing.TB, dir string) *Authority {
	tb.Helper()
	a, err := Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestAnAuthorityIsMadeOnceAndItsKeyIsForNobody(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first := mustOpen(t, dir)
	for name, want := range map[string]fs.FileMode{"": 0o700, KeyFile: 0o600, CertificateFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %q is %#o, want %#o", name, got, want)
		}
	}
	if second := mustOpen(t, dir); !bytes.Equal(first.PEM(), second.PEM()) {
		t.Error("another authority was made")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("the directory holds %v (%v)", left, err)
	}
	if strings.Contains(string(first.PEM()), "PRIVATE") {
		t.Error("the key is shown")
	}
}

func TestEverybodyWhoOpensAtOnceGetsTheSameAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	var wg sync.WaitGroup
	got := make([]*Authority, 16)
	errs := make([]error, len(got))
	for i := range got {
		wg.Go(func() { got[i], errs[i] = Open(dir) })
	}
	wg.Wait()
	for i := range got {
		if errs[i] != nil || !bytes.Equal(got[i].PEM(), got[0].PEM()) {
			t.Errorf("opener %d got another authority (%v)", i, errs[i])
		}
	}
}

func TestAKeyThatSurvivedAloneIsUsed(t *testing.T) {
	dir := t.TempDir()
	first := mustOpen(t, dir)
	if err := os.Remove(filepath.Join(dir, CertificateFile)); err != nil {
		t.Fatal(err)
	}
	if second := mustOpen(t, dir); !first.key.Equal(second.key) {
		t.Error("another key was made")
	}
}

func TestWhatIsWrongWithTheFilesIsAnErrorThatChangesNothing(t *testing.T) {
	other := t.TempDir()
	mustOpen(t, other)
	for name, tc := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"a key that others read": {func(dir string) error { return os.Chmod(filepath.Join(dir, KeyFile), 0o640) }, "is open to others"},
		"a certificate that others write": {
			func(dir string) error { return os.Chmod(filepath.Join(dir, CertificateFile), 0o666) }, "is open to others",
		},
		"a directory that others write": {func(dir string) error { return os.Chmod(dir, 0o777) }, "can be written by others"},
		"a key that is gone":            {func(dir string) error { return os.Remove(filepath.Join(dir, KeyFile)) }, "put the key back"},
		"half a key": {func(dir string) error {
			return os.Truncate(filepath.Join(dir, KeyFile), 60)
		}, "not one PEM block"},
		"a certificate of another key": {func(dir string) error {
			text, err := os.ReadFile(filepath.Join(other, CertificateFile))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, CertificateFile), text, 0o600))
		}, "of another key"},
		"a key behind a link": {func(dir string) error {
			path := filepath.Join(dir, KeyFile)
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		}, "too many levels of symbolic links"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			mustOpen(t, dir)
			if err := tc.harm(dir); err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
			if diff := cmp.Diff(before, listing(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
		})
	}
}

func listing(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

func TestAnAuthorityThatHasExpiredIsNotUsed(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	_, err := parseAuthority(a.PEM(), a.key, time.Now().Add(authorityLife+time.Hour))
	if err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("got error %v", err)
	}
}

// meet performs both sides of a handshake.
func meet(tb testing.TB, a *Authority, t Terms, agent *tls.Config) (server *Conn, client *tls.Conn, serverErr, clientErr error) {
	tb.Helper()
	down, up := net.Pipe()
	tb.Cleanup(func() {
		_ = down.Close()
		_ = up.Close()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	tb.Cleanup(cancel)
	client = tls.Client(up, agent)
	done := make(chan error, 1)
	go func() {
		err := client.HandshakeContext(ctx)
		if err != nil {
			_ = up.Close()
		}
		done <- err
	}()
	server, serverErr = a.Handshake(ctx, down, t)
	if serverErr != nil {
		_ = down.Close()
	}
	return server, client, serverErr, <-done
}

func trusting(tb testing.TB, a *Authority, name string) *tls.Config {
	tb.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.PEM()) {
		tb.Fatal("the certificate of the authority is none")
	}
	return &tls.Config{RootCAs: pool, ServerName: name}
}

func TestAnAgentThatTrustsTheAuthorityAcceptsTheNameThatItAskedFor(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	terms := Terms{Names: []string{"db.internal", "192.0.2.1", "::ffff:198.51.100.1", "2001:db8::1"}}
	for name, wanted := range map[string]string{
		"by its name": "Other.Example.", "default name": "db.internal", "IPv4 address": "192.0.2.1",
		"mapped address": "198.51.100.1", "IPv6 address": "2001:db8::1", "a long name": strings.Repeat("a.", 40) + "test",
	} {
		for version, v := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
			t.Run(name+", "+version, func(t *testing.T) {
				config := trusting(t, a, wanted)
				config.MinVersion, config.MaxVersion = v, v
				server, client, serverErr, err := meet(t, a, terms, config)
				if serverErr != nil || err != nil {
					t.Fatal(serverErr, err)
				}
				leaf := client.ConnectionState().PeerCertificates[0]
				if !bytes.Equal(leaf.Raw, server.Leaf()) {
					t.Error("the leaf is not the certificate that the agent was shown")
				}
				if leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 || leaf.NotAfter.After(time.Now().Add(leafLife)) {
					t.Errorf("the leaf is signed with %v and good until %v", leaf.SignatureAlgorithm, leaf.NotAfter)
				}
			})
		}
	}
}

func TestAnAgentThatDoesNotTrustTheAuthorityIsNotDeceived(t *testing.T) {
	a, other := mustOpen(t, t.TempDir()), mustOpen(t, t.TempDir())
	_, _, serverErr, err := meet(t, a, Terms{Names: []string{"db.internal"}}, trusting(t, other, "db.internal"))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) || serverErr == nil {
		t.Errorf("the agent got %v, we got %v", err, serverErr)
	}
}

func TestTheNameOfAnotherTargetIsNotCertified(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	terms := Terms{Names: []string{"db.internal"}, Foreign: func(name string) bool { return name == "other.internal" }}
	_, _, _, err := meet(t, a, terms, trusting(t, a, "other.internal"))
	var wrong x509.HostnameError
	if !errors.As(err, &wrong) {
		t.Errorf("the agent got %v, want another name", err)
	}
	if _, _, serverErr, err := meet(t, a, terms, trusting(t, a, "alias.internal")); serverErr != nil || err != nil {
		t.Errorf("a name that nobody else has: %v, %v", serverErr, err)
	}
}

func TestApplicationProtocolsAreAgreedOnOrRefusedWithTheirAlert(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	for name, tc := range map[string]struct {
		asked  []string
		demand bool
		agreed string
		ok     bool
	}{
		"ours":                      {[]string{"h2", "ours"}, true, "ours", true},
		"none":                      {nil, false, "", true},
		"none where one is needed":  {nil, true, "", false},
		"another":                   {[]string{"http/1.1"}, false, "", false},
		"another where one is need": {[]string{"http/1.1"}, true, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			config := trusting(t, a, "db.internal")
			config.NextProtos = tc.asked
			_, client, serverErr, err := meet(t, a, Terms{Names: []string{"x"}, Protocols: []string{"ours"}, Demand: tc.demand}, config)
			if tc.ok {
				if got := client.ConnectionState().NegotiatedProtocol; err != nil || serverErr != nil || got != tc.agreed {
					t.Errorf("agreed on %q (%v, %v)", got, err, serverErr)
				}
				return
			}
			if serverErr == nil || err == nil || !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("the agent got %v, we got %v", err, serverErr)
			}
		})
	}
}

func TestZeroValueDenies(t *testing.T) {
	var none *Authority
	if none.PEM() != nil {
		t.Error("a nil authority has a certificate")
	}
	if _, err := none.Handshake(t.Context(), nil, Terms{}); !errors.Is(err, ErrNone) {
		t.Errorf("a nil authority certifies: %v", err)
	}
	if _, _, err, _ := meet(t, mustOpen(t, t.TempDir()), Terms{}, &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("no name was certified")
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	config := trusting(t, a, "db.internal")
	kept := &tickets{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	config.ClientSessionCache = kept
	for range 3 {
		server, client, serverErr, err := meet(t, a, Terms{Names: []string{"x"}}, config)
		if serverErr != nil || err != nil {
			t.Fatal(serverErr, err)
		}
		go func() { _, _ = io.WriteString(server, "x") }()
		if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if client.ConnectionState().DidResume || len(server.Leaf()) == 0 {
			t.Error("a session was resumed")
		}
	}
	if kept.put > 0 {
		t.Errorf("%d tickets were given, to resume by", kept.put)
	}
}

// tickets counts what an agent is given to resume a session by.
type tickets struct {
	tls.ClientSessionCache
	put int
}

func (c *tickets) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.put++
	}
	c.ClientSessionCache.Put(key, s)
}

func TestNamesThatAreNoHostNamesAreNotCertified(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	for _, name := range []string{
		"", ".", "a..b", "*.example.com", "a b", "ä.example", "a/b", "a\x00b", strings.Repeat("a", 64),
		strings.Repeat("abc.", 64) + "test", "a,b",
	} {
		if _, err := a.leafFor([]string{name}); err == nil {
			t.Errorf("%q was certified", name)
		}
	}
	c, err := a.leafFor(append([]string{"*", "db.internal", "DB.internal"}, strings.Split(strings.Repeat("h-", 30), "-")...))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if diff := cmp.Diff([]string{"db.internal", "h"}, leaf.DNSNames); err != nil || diff != "" {
		t.Errorf("names (-want +got):\n%s (%v)", diff, err)
	}
	if subjects, err := subjectsOf(numbered(maxNames + 5)); err != nil || len(subjects) != maxNames {
		t.Errorf("%d names (%v)", len(subjects), err)
	}
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("h%d.test", i)
	}
	return names
}

func TestALeafIsMadeOnceAndAnewBeforeItExpires(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	now := time.Now()
	a.now = func() time.Time { return now }
	var wg sync.WaitGroup
	got := make([]*tls.Certificate, 32)
	for i := range got {
		wg.Go(func() { got[i], _ = a.leafFor([]string{"DB.internal"}) })
	}
	wg.Wait()
	for _, c := range got {
		if c == nil || c != got[0] {
			t.Fatal("more than one leaf was made")
		}
	}
	now = now.Add(leafLife/2 + time.Second)
	if again, err := a.leafFor([]string{"db.internal"}); err != nil || again == got[0] {
		t.Errorf("an old leaf was used (%v)", err)
	}
}

func TestTheLeavesThatAreKeptAreBounded(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	for _, name := range numbered(maxLeaves + 50) {
		if _, err := a.leafFor([]string{name}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.leaves); n > maxLeaves {
		t.Errorf("%d are kept", n)
	}
}

func TestTheAuthoritySignsNoOtherAuthority(t *testing.T) {
	a := mustOpen(t, t.TempDir())
	block, _ := pem.Decode(a.PEM())
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !c.IsCA || !c.MaxPathLenZero || c.SignatureAlgorithm != x509.ECDSAWithSHA256 || len(c.SubjectKeyId) == 0 {
		t.Errorf("the authority's certificate is %+v", c)
	}
}

// BenchmarkHandshake compares key exchanges for an agent that offers all of them.
func BenchmarkHandshake(b *testing.B) {
	a := mustOpen(b, b.TempDir())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	for name, curves := range map[string][]tls.CurveID{
		"ours":     (&handshake{}).config().CurvePreferences,
		"default":  nil,
		"MLKEM768": {tls.X25519MLKEM768},
	} {
		b.Run(name, func(b *testing.B) {
			config := trusting(b, a, "db.internal")
			for b.Loop() {
				up, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				down, err := listener.Accept()
				if err != nil {
					b.Fatal(err)
				}
				h := &handshake{authority: a, terms: Terms{Names: []string{"db.internal"}}}
				server := h.config()
				server.CurvePreferences = curves
				go func() { _ = tls.Server(down, server).HandshakeContext(b.Context()) }()
				if err := tls.Client(up, config).HandshakeContext(b.Context()); err != nil {
					b.Fatal(err)
				}
				_, _ = down.Close(), up.Close()
			}
		})
	}
}

func TestTheCertificateIsPublishedForEverybodyAndInPlaceOfALink(t *testing.T) {
	a, dir := mustOpen(t, t.TempDir()), t.TempDir()
	path, precious := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Publish(path); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("mode of the file is %v (%v)", info.Mode(), err)
		}
	}
	want := map[string]string{"ca.pem": string(a.PEM()), "precious": "mine"}
	if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if err := a.Publish(filepath.Join(dir, "nowhere", "ca.pem")); err == nil {
		t.Error("a directory that is not there is no error")
	}
	if err := (*Authority)(nil).Publish(path); !errors.Is(err, ErrNone) {
		t.Errorf("a nil authority publishes: %v", err)
	}
}

// Who may write where the daemon keeps its state, or could once, must not be able to
// give it a key that he knows.
func TestPrivilegedAnAuthorityThatSomebodyElseMadeIsNotUsed(t *testing.T) {
	if os.Getenv("HEADGATE_PRIVILEGED") != "1" {
		t.Skip("needs root; set HEADGATE_PRIVILEGED=1")
	}
	const nobody = 65534
	for _, name := range []string{"", KeyFile, CertificateFile} {
		dir := t.TempDir()
		if _, err := Open(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, name), nobody, nobody); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
			t.Errorf("%q of somebody else: %v", name, err)
		}
	}
}
