package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
)

// Terms are what an agent is offered.
type Terms struct {
	// Names are the host names and addresses of the target, for an agent that
	// does not say which server it wants (RFC 6066 section 3). Required.
	Names []string
	// Protocols are the names by which the application's protocol may be asked
	// for (RFC 7301). An agent that asks for others only gets the alert
	// no_application_protocol.
	Protocols []string
	// Demand gives that alert to an agent that asks for none, too.
	Demand bool
	// Foreign reports whether a name that an agent asks for belongs to another
	// target. It is shown Names then: whoever leads a connection of somebody else
	// into one of its own gets no certificate for where that was meant to go. It
	// may be nil: no name does.
	Foreign func(name string) bool
}

// Conn is a connection over which TLS is spoken with an agent.
type Conn struct {
	*tls.Conn
	leaf []byte
}

// Leaf returns the certificate that the agent was shown, in DER. It is what the
// channel binding tls-server-end-point is computed from (RFC 5929 section 4.1).
// The slice must not be changed.
func (c *Conn) Leaf() []byte { return c.leaf }

// Handshake speaks TLS 1.2 or later on an agent's connection, in the server's
// place. The caller keeps conn, and closes it whatever comes of it; if ctx ends
// first, it is closed already. After an error the agent was told with an alert,
// where there was one to tell.
func (a *Authority) Handshake(ctx context.Context, conn net.Conn, t Terms) (*Conn, error) {
	if a == nil {
		return nil, fmt.Errorf("secure downstream: %w", ErrNone)
	}
	h := &handshake{authority: a, terms: t}
	secured := tls.Server(&line{Conn: conn}, h.config())
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("secure downstream: %w", err)
	}
	return &Conn{Conn: secured, leaf: h.leaf}, nil
}

// handshake belongs to one connection.
type handshake struct {
	authority *Authority
	terms     Terms
	leaf      []byte
}

func (h *handshake) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Both ends are on one machine: nobody can keep what they say for a day on
		// which it can be broken, so ML-KEM would only cost time (see
		// BenchmarkHandshake).
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
		NextProtos:       h.terms.Protocols,
		GetCertificate:   h.certificate, GetConfigForClient: h.check,
		// A session that is resumed shows no certificate, and could not be bound
		// to one.
		SessionTicketsDisabled: true,
	}
}

func (h *handshake) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	names := h.terms.Names
	if asked := hello.ServerName; asked != "" && (h.terms.Foreign == nil || !h.terms.Foreign(asked)) {
		names = []string{hello.ServerName}
	}
	c, err := h.authority.leafFor(names)
	if err != nil {
		return nil, err
	}
	h.leaf = bytes.Clone(c.Certificate[0])
	return c, nil
}

var errNoProtocol = errors.New("agent names no application protocol")

// check refuses a hello with the alert that crypto/tls has only for those that
// ask for another protocol.
func (h *handshake) check(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if !h.terms.Demand || len(hello.SupportedProtos) > 0 {
		return nil, nil // go on as configured
	}
	if l, ok := hello.Conn.(*line); ok {
		return nil, errors.Join(errNoProtocol, l.alert(alertNoProtocol))
	}
	return nil, errNoProtocol
}

// line is an agent's connection in front of TLS. After an alert of ours that of
// crypto/tls is kept back.
type line struct {
	net.Conn
	ended atomic.Bool
}

const alertNoProtocol = 120 // RFC 7301 section 3.2

// alert sends a fatal alert in the clear: RFC 8446 sections 5.1 and 6.
func (l *line) alert(description byte) error {
	l.ended.Store(true)
	_, err := l.Conn.Write([]byte{21, 3, 3, 0, 2, 2, description})
	return err
}

func (l *line) Write(p []byte) (int, error) {
	if l.ended.Load() {
		return len(p), nil
	}
	return l.Conn.Write(p)
}
