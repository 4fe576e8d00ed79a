// Package upstream opens connections to targets. It is the only package that
// dials, so that there is one place where timeouts, socket options and the
// verification of certificates are decided.
//
// A [Dialer] connects to an address, never to a name: what a name means was
// decided, and judged by the policy, before. It does so from the network
// namespace of the agent, since the same address can be somebody else's in
// another one. [Secure] speaks TLS on top, with
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

// Network is what carries a connection. The zero Network is TCP.
type Network uint8

// The networks. Over UDP a connection's bytes are datagrams, each behind its
// length; see package datagram.
const (
	TCP Network = iota
	UDP
)

// String returns "tcp" or "udp".
func (n Network) String() string {
	if n == UDP {
		return "udp"
	}
	return "tcp"
}

// Target is what a [Dialer] connects to.
type Target struct {
	Addr    netip.AddrPort
	Network Network
	// Netns is the cookie of the network namespace from which the target is
	// reached (SO_NETNS_COOKIE). Zero means that of the dialler, and is refused
	// by one that knows others: there, whose namespace it is must be said.
	Netns uint64
}

// String returns the address, with the network if that is not TCP.
func (t Target) String() string {
	if t.Network == TCP {
		return t.Addr.String()
	}
	return t.Network.String() + " " + t.Addr.String()
}

// Dialer opens connections. The zero Dialer is ready to use, has the defaults
// and knows no network namespace but its own. A Dialer is safe for concurrent
// use as long as it is not changed.
type Dialer struct {
	// Timeout bounds a dial; zero means 10 s, there is no way to have none.
	Timeout time.Duration
	// KeepAlive is the interval of TCP keep-alive probes; zero means 30 s.
	KeepAlive time.Duration
	// Namespaces finds the network namespace of a cookie that is not the
	// dialler's own: a descriptor of it, as of /proc/PID/ns/net, that is used
	// until release is called, once and soon. It may be called concurrently. Nil
	// finds none.
	Namespaces func(cookie uint64) (fd int, release func(), err error)
}

// ErrNamespace is wrapped by the errors of a dial from a network namespace that
// is not known, or could not be entered. Nothing was dialled then: the host's
// own namespace never takes the place of another.
var ErrNamespace = errors.New("network namespace cannot be used")

// Dial connects to a target: over TCP with TCP_NODELAY and keep-alive probes,
// over UDP from a connected socket, whose refusals by ICMP are errors of Read
// and Write. The caller owns the connection, a [*socket.Conn] or a
// [*datagram.Conn]. Errors read "dial upstream: …" and keep their cause;
// [Reason] sorts them.
func (d Dialer) Dial(ctx context.Context, target Target) (net.Conn, error) {
	if !target.Addr.IsValid() || target.Addr.Port() == 0 || target.Addr.Addr().Unmap().IsUnspecified() || target.Network > UDP {
		return nil, fmt.Errorf("dial upstream: %s is no target", target)
	}
	conn, err := d.dial(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("dial upstream: %w", err)
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
// "unreachable", "namespace", "tls" or "other". It is empty if there is no error.
func Reason(err error) string {
	var netErr net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	case errors.Is(err, ErrNamespace):
		return "namespace"
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
