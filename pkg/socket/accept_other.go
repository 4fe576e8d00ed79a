//go:build !linux

package socket

import "net"

// Acceptor takes connections from a listening socket.
type Acceptor struct{ *net.TCPListener }

// NewAcceptor returns an Acceptor for what tcp listens to. tcp stays the caller's.
func NewAcceptor(tcp *net.TCPListener) (*Acceptor, error) { return &Acceptor{tcp}, nil }

// Accept waits for the next connection.
func (a *Acceptor) Accept() (*Conn, error) {
	tcp, err := a.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return New(tcp)
}

// Close does nothing: there is no descriptor of its own.
func (a *Acceptor) Close() error { return nil }
