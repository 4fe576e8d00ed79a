// Package upstream opens connections to targets. It is the only package that
// dials, so that there is one place where timeouts, socket options and the
// verification of certificates are decided.
//
// A [Dialer] connects to an address, never to a name: what a name means was
// decided, and judged by the policy, before. [Secure] speaks TLS on top, with
// a configuration that [TLSConfig] made. [CopyBoth] forwards what nobody needs
// to understand.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	defaultTimeout   = 10 * time.Second
	defaultKeepAlive = 30 * time.Second
)

// Dialer opens connections. The zero Dialer is ready to use and has the
// defaults. A Dialer is safe for concurrent use as long as it is not changed.
type Dialer struct {
	// Timeout bounds a dial; zero means 10 s, there is no way to have none.
	Timeout time.Duration
	// KeepAlive is the interval of TCP keep-alive probes; zero means 30 s.
	KeepAlive time.Duration
}

// Dial connects to a TCP target, with TCP_NODELAY and keep-alive probes. The
// caller owns the connection, a [*net.TCPConn]. Errors read "dial upstream: …"
// and keep their cause; [Reason] sorts them.
func (d Dialer) Dial(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	if !target.IsValid() || target.Port() == 0 || target.Addr().IsUnspecified() {
		return nil, fmt.Errorf("dial upstream: %s is no target", target)
	}
	conn, err := d.dialer().DialContext(ctx, "tcp", target.String())
	if err != nil {
		return nil, fmt.Errorf("dial upstream: %w", err)
	}
	if err := conn.(*net.TCPConn).SetNoDelay(true); err != nil {
		return nil, errors.Join(fmt.Errorf("dial upstream: %w", err), conn.Close())
	}
	return conn, nil
}

// DialUnix connects to a unix stream socket. It serves headgate's own control
// socket and is no way to reach a target. The caller owns the connection.
func (d Dialer) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	conn, err := d.dialer().DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial control socket: %w", err)
	}
	return conn, nil
}

func (d Dialer) dialer() *net.Dialer {
	nd := &net.Dialer{Timeout: d.Timeout, KeepAlive: d.KeepAlive}
	if nd.Timeout <= 0 {
		nd.Timeout = defaultTimeout
	}
	if nd.KeepAlive <= 0 {
		nd.KeepAlive = defaultKeepAlive
	}
	nd.SetMultipathTCP(false)
	return nd
}

// ErrTLS is wrapped by every error of [Secure]: the handshake failed, the
// certificate was not good, or the configuration would not check it.
var ErrTLS = errors.New("TLS handshake failed")

// Reason sorts an error of this package for metrics: "timeout", "refused",
// "unreachable", "tls" or "other". It is empty if there is no error.
func Reason(err error) string {
	var netErr net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "unreachable"
	case errors.Is(err, ErrTLS), isCertificateError(err):
		return "tls"
	default:
		return "other"
	}
}

func isCertificateError(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		alert        tls.AlertError
		header       tls.RecordHeaderError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &alert) || errors.As(err, &header) ||
		errors.As(err, &authority) || errors.As(err, &hostname) || errors.As(err, &invalid)
}
