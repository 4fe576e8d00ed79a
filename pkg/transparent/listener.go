package transparent

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate/headgate/pkg/socket"
)

// Origins tells the origin of an accepted connection. It is implemented by
// pkg/kernel.
type Origins interface {
	// Origin returns what the kernel recorded for the socket. Any error means
	// that the connection was not redirected by us and must not be served.
	Origin(accepted syscall.Conn) (Origin, error)
}

// Listener accepts redirected connections. Its methods may be called
// concurrently.
type Listener struct {
	tcp      *net.TCPListener
	acceptor *socket.Acceptor // of the same socket
	origins  Origins
	refusals atomic.Uint64
	// Refused, if set, is told of every connection that had no origin and was
	// reset. It is called from Accept and must not block.
	Refused func(remote net.Addr, cause error)
}

// NewListener returns a Listener that owns tcp: Close closes it, unless Release
// gave it back. The socket may listen in any network namespace. The error is that
// of a socket that is closed, or there are no descriptors left: one more is needed.
func NewListener(tcp *net.TCPListener, origins Origins) (*Listener, error) {
	acceptor, err := socket.NewAcceptor(tcp)
	if err != nil {
		return nil, err
	}
	return &Listener{tcp: tcp, acceptor: acceptor, origins: origins}, nil
}

// Accept waits for the next connection that has an origin. A connection that
// has none is reset and never returned: whoever can reach the port must not get
// at what is behind it. The error is that of the listening socket.
func (l *Listener) Accept() (*Conn, error) {
	for {
		conn, err := l.acceptor.Accept()
		if err != nil {
			return nil, fmt.Errorf("accept: %w", err)
		}
		origin, err := l.originOf(conn)
		if err == nil {
			return NewConn(conn, origin), nil
		}
		remote := conn.RemoteAddr()
		if resetErr := reset(conn); resetErr != nil {
			err = errors.Join(err, resetErr)
		}
		l.refusals.Add(1)
		if l.Refused != nil {
			l.Refused(remote, err)
		}
	}
}

func (l *Listener) originOf(conn *socket.Conn) (Origin, error) {
	if l.origins == nil {
		return Origin{}, errors.New("look up origin: no source of origins")
	}
	origin, err := l.origins.Origin(conn)
	if err != nil {
		return Origin{}, err
	}
	return origin, origin.complete()
}

// Refusals counts the connections that had no origin and were reset.
func (l *Listener) Refusals() uint64 { return l.refusals.Load() }

// SetDeadline makes Accept fail with [os.ErrDeadlineExceeded] from t on, until
// it is set again; the zero time means never. The socket goes on listening, and
// what waits in its queue stays there for the next Accept, in whichever process
// that is.
func (l *Listener) SetDeadline(t time.Time) error { return l.acceptor.SetDeadline(t) }

// Addr returns the address that the listener is bound to.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Release gives the socket back, which goes on listening. Accept must not be
// running, nor be called any more.
func (l *Listener) Release() error { return l.acceptor.Close() }

// Close stops listening. Accepted connections are not touched.
func (l *Listener) Close() error { return errors.Join(l.acceptor.Close(), l.tcp.Close()) }
