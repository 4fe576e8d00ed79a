package upstream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/socket"
)

func mustListen(tb testing.TB) (net.Listener, netip.AddrPort) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() }) // may be closed by the test
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

// mustPair returns the two ends of a TCP connection over loopback.
func mustPair(tb testing.TB) (dialled *socket.Conn, accepted *net.TCPConn) {
	tb.Helper()
	l, addr := mustListen(tb)
	d, err := Dialer{}.Dial(tb.Context(), Target{Addr: addr})
	if err != nil {
		tb.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = d.Close(), a.Close() }) // may be closed by the test
	return d.(*socket.Conn), a.(*net.TCPConn)
}

func TestDialConnectsWithNoDelayAndKeepAlive(t *testing.T) {
	conn, _ := mustPair(t)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for name, option := range map[string][2]int{
			"TCP_NODELAY": {syscall.IPPROTO_TCP, syscall.TCP_NODELAY}, "SO_KEEPALIVE": {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE},
		} {
			if v, err := syscall.GetsockoptInt(int(fd), option[0], option[1]); err != nil || v == 0 {
				t.Errorf("%s is %d, %v", name, v, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDialRefusesWhatIsNoTarget(t *testing.T) {
	for _, target := range []netip.AddrPort{{}, netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("[::]:80"), netip.MustParseAddrPort("[::ffff:0.0.0.0]:80")} {
		if conn, err := (Dialer{}).Dial(t.Context(), Target{Addr: target}); err == nil {
			_ = conn.Close()
			t.Errorf("%s was dialled", target)
		}
	}
}

func TestReasonSortsRealErrors(t *testing.T) {
	l, addr := mustListen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, refused := Dialer{}.Dial(t.Context(), Target{Addr: addr})
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, timeout := Dialer{}.Dial(ctx, Target{Addr: addr})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, other := Dialer{}.Dial(canceled, Target{Addr: addr})
	for want, err := range map[string]error{"refused": refused, "timeout": timeout, "other": other, "": nil,
		"tls": fmt.Errorf("x: %w", x509.UnknownAuthorityError{})} {
		if got := Reason(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
	if got := Reason(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}); got != "unreachable" {
		t.Errorf("EHOSTUNREACH: got %q", got)
	}
}

func TestDialUnixReachesASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dialer{}.DialUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (Dialer{}).DialUnix(t.Context(), path+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// authority signs certificates and writes its own to a file.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	path string
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{path: filepath.Join(tb.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := a.sign(tb, template)
	if err := os.WriteFile(a.path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
	return a
}

func (a *authority) sign(tb testing.TB, template *x509.Certificate) []byte {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			tb.Fatal(err)
		}
	}
	a.key = key
	return der
}

// leaf returns a certificate for db.internal; change makes it a bad one.
func leaf(tb testing.TB, signer *authority, change func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	a := *signer
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"db.internal"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der := a.sign(tb, template)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

func TestSecureAcceptsOnlyWhatTheConfigurationVerifies(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	good := leaf(t, ca, nil)
	full := TLS{Verify: "full", CA: ca.path, ServerName: "db.internal"}
	for name, tc := range map[string]struct {
		tls  TLS
		cert tls.Certificate
		want string
	}{
		"full":                    {full, good, ""},
		"full, another name":      {TLS{Verify: "full", CA: ca.path, ServerName: "other"}, good, "tls"},
		"full, another authority": {TLS{Verify: "full", CA: stranger.path, ServerName: "db.internal"}, good, "tls"},
		"full, the system's":      {TLS{Verify: "full", CA: "system", ServerName: "db.internal"}, good, "tls"},
		"ca, no name":             {TLS{Verify: "ca", CA: ca.path}, good, ""},
		"ca, another name":        {TLS{Verify: "ca", CA: ca.path, ServerName: "other"}, good, ""},
		"ca, another authority":   {TLS{Verify: "ca", CA: stranger.path}, good, "tls"},
		"ca, the system's":        {TLS{Verify: "ca"}, good, "tls"},
		"ca, expired":             {TLS{Verify: "ca", CA: ca.path}, leaf(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), "tls"},
		"ca, wrong purpose": {TLS{Verify: "ca", CA: ca.path}, leaf(t, ca, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), "tls"},
		"ca, self-signed": {TLS{Verify: "ca", CA: ca.path}, leaf(t, &authority{}, nil), "tls"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := TLSConfig(tc.tls)
			if err != nil {
				t.Fatal(err)
			}
			near, far := mustPair(t)
			go func() {
				// The outcome is judged at the near end.
				_ = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{tc.cert}}).Handshake()
			}()
			conn, err := Secure(t.Context(), near, config)
			if got := Reason(err); got != tc.want {
				t.Fatalf("got %q, want %q: %v", got, tc.want, err)
			}
			if err == nil {
				return
			}
			if conn != nil || !errors.Is(err, ErrTLS) {
				t.Errorf("got %v, %v", conn, err)
			}
			if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is still open: %v", err)
			}
		})
	}
}

func TestATargetThatAsksForACertificateIsShownOurs(t *testing.T) {
	ca := newAuthority(t)
	mine := leaf(t, ca, func(c *x509.Certificate) {
		c.Subject, c.ExtKeyUsage = pkix.Name{CommonName: "app"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	der, err := x509.MarshalPKCS8PrivateKey(mine.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mine.Certificate[0]})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, bad := range map[string]TLS{
		"no key":         {Verify: "ca", Certificate: certificate},
		"no certificate": {Verify: "ca", Key: key},
		"another key":    {Verify: "ca", Certificate: certificate, Key: certificate},
	} {
		if _, err := TLSConfig(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	config, err := TLSConfig(TLS{Verify: "ca", CA: ca.path, Certificate: certificate, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	near, far := mustPair(t)
	shown := make(chan string, 1)
	go func() {
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{leaf(t, ca, nil)}, ClientAuth: tls.RequireAnyClientCert})
		if err := server.Handshake(); err != nil {
			shown <- err.Error()
			return
		}
		shown <- server.ConnectionState().PeerCertificates[0].Subject.CommonName
	}()
	conn, err := Secure(t.Context(), near, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := <-shown; got != "app" {
		t.Errorf("the target saw %q", got)
	}
}

func TestResumedSessionsAreVerifiedToo(t *testing.T) {
	ca := newAuthority(t)
	config, err := TLSConfig(TLS{Verify: "ca", CA: ca.path, ServerName: "x"})
	if err != nil {
		t.Fatal(err)
	}
	verified := 0
	inner := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error { verified++; return inner(s) }
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	served := &tls.Config{Certificates: []tls.Certificate{leaf(t, ca, nil)}, MaxVersion: tls.VersionTLS12}
	for round := 1; round <= 2; round++ {
		near, far := mustPair(t)
		go func() { _ = tls.Server(far, served).Handshake() }() // judged at the near end
		conn, err := Secure(t.Context(), near, config)
		if err != nil {
			t.Fatal(err)
		}
		if resumed := conn.(*tls.Conn).ConnectionState().DidResume; resumed != (round == 2) || verified != round {
			t.Errorf("round %d: resumed %v, verified %d times", round, resumed, verified)
		}
	}
}

func TestZeroValueDenies(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range []TLS{{}, {Verify: "none"}, {Verify: "full"}, {Verify: "ca", CA: bad}, {Verify: "ca", CA: bad + "x"}} {
		if c, err := TLSConfig(v); err == nil {
			t.Errorf("%+v gave %v", v, c)
		}
	}
	for name, config := range map[string]*tls.Config{"nil": nil, "blind": {InsecureSkipVerify: true}} {
		near, far := mustPair(t)
		cert := leaf(t, &authority{}, nil)
		go func() { _ = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake() }() // judged at the near end
		if _, err := Secure(t.Context(), near, config); !errors.Is(err, ErrTLS) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the connection is still open: %v", name, err)
		}
	}
}

func TestSecureEndsWithItsContext(t *testing.T) {
	ca := newAuthority(t)
	config, err := TLSConfig(TLS{Verify: "ca", CA: ca.path})
	if err != nil {
		t.Fatal(err)
	}
	near, far := mustPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		// The first bytes of the handshake are there: it is waiting for ours.
		if _, err := io.ReadFull(far, make([]byte, 5)); err != nil {
			t.Error(err)
		}
		cancel()
	}()
	if _, err := Secure(ctx, near, config); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

type outcome struct {
	up, down int64
	err      error
}

// relay runs CopyBoth between two connections and returns their far ends.
func relay(tb testing.TB, ctx context.Context) (agent *socket.Conn, target *net.TCPConn, result <-chan outcome) {
	tb.Helper()
	agent, downstream := mustPair(tb)
	up, target := mustPair(tb)
	c := make(chan outcome, 1)
	go func() {
		n, m, err := CopyBoth(ctx, downstream, up)
		_, _ = downstream.Close(), up.Close() // the far ends judge
		c <- outcome{n, m, err}
	}()
	return agent, target, c
}

func TestCopyBothHalfClosesEachWay(t *testing.T) {
	agent, target, result := relay(t, t.Context())
	request, response := bytes.Repeat([]byte("q"), 300<<10), bytes.Repeat([]byte("r"), 3<<20)
	go func() {
		_, err := agent.Write(request)
		if err := errors.Join(err, agent.CloseWrite()); err != nil {
			t.Error(err)
		}
	}()
	// The target answers only after it saw the end of the request.
	got, err := io.ReadAll(target)
	if err != nil || !bytes.Equal(got, request) {
		t.Fatalf("target got %d bytes, %v", len(got), err)
	}
	go func() {
		_, err := target.Write(response)
		if err := errors.Join(err, target.CloseWrite()); err != nil {
			t.Error(err)
		}
	}()
	if got, err = io.ReadAll(agent); err != nil || !bytes.Equal(got, response) {
		t.Fatalf("agent got %d bytes, %v", len(got), err)
	}
	if r := <-result; r != (outcome{int64(len(request)), int64(len(response)), nil}) {
		t.Errorf("got %+v", r)
	}
}

func TestCopyBothEndsWithItsContext(t *testing.T) {
	before := runtime.NumGoroutine()
	cause := errors.New("session was ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	agent, target, result := relay(t, ctx)
	if _, err := agent.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(target, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	if r := <-result; !errors.Is(r.err, cause) || r.up != 5 {
		t.Errorf("got %+v", r)
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestCopyBothEndsWhenItsContextHasEndedBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, result := relay(t, ctx)
	if r := <-result; !errors.Is(r.err, context.Canceled) {
		t.Errorf("got %+v", r)
	}
}

func TestCopyBothEndsBothWaysOnAReset(t *testing.T) {
	agent, target, result := relay(t, t.Context())
	if err := target.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-result; !errors.Is(r.err, syscall.ECONNRESET) {
		t.Errorf("got %+v", r)
	}
	if n, err := agent.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("agent read %d bytes, %v", n, err)
	}
}

func TestCopyBothEndsWhenAWriterIsStuck(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	agent, target, result := relay(t, ctx)
	// Nobody reads at the target: fill everything between until a write blocks.
	if err := agent.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<20); ; {
		if _, err := agent.Write(chunk); err != nil {
			break
		}
	}
	cancel()
	if r := <-result; !errors.Is(r.err, context.Canceled) {
		t.Errorf("got %+v", r)
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}
}

func TestCopyBothEndsWithoutHalfClose(t *testing.T) {
	agent, downstream := net.Pipe()
	up, target := net.Pipe()
	c := make(chan outcome, 1)
	go func() {
		n, m, err := CopyBoth(t.Context(), downstream, up)
		c <- outcome{n, m, err}
	}()
	if _, err := agent.Write([]byte("hello")[:0]); err != nil {
		t.Fatal(err)
	}
	if err := agent.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-c; r != (outcome{}) {
		t.Errorf("got %+v", r)
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkCopyBoth(b *testing.B) {
	agent, target, result := relay(b, b.Context())
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	go func() { _, _ = io.Copy(io.Discard, target); _ = target.Close() }() // the benchmark measures the other side
	for b.Loop() {
		if _, err := agent.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	_ = agent.CloseWrite()
	<-result
}
