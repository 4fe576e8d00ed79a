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
	origins  Origins
	refusals atomic.Uint64
	// Refused, if set, is told of every connection that had no origin and was
	// reset. It is called from Accept and must not block.
	Refused func(remote net.Addr, cause error)
}

// NewListener returns a Listener that owns tcp: Close closes it. The socket may
// listen in any network namespace.
func NewListener(tcp *net.TCPListener, origins Origins) *Listener {
	return &Listener{tcp: tcp, origins: origins}
}

// Accept waits for the next connection that has an origin. A connection that
// has none is reset and never returned: whoever can reach the port must not get
// at what is behind it. The error is that of the listening socket.
func (l *Listener) Accept() (*Conn, error) {
	for {
		tcp, err := l.tcp.AcceptTCP()
		if err != nil {
			return nil, fmt.Errorf("accept: %w", err)
		}
		conn, err := l.take(tcp)
		if err == nil {
			return conn, nil
		}
		if resetErr := reset(tcp); resetErr != nil {
			err = errors.Join(err, resetErr)
		}
		l.refusals.Add(1)
		if l.Refused != nil {
			l.Refused(tcp.RemoteAddr(), err)
		}
	}
}

// take makes a Conn of an accepted socket. After an error that is the caller's.
func (l *Listener) take(tcp *net.TCPConn) (*Conn, error) {
	origin, err := l.originOf(tcp)
	if err != nil {
		return nil, err
	}
	conn, err := socket.New(tcp)
	if err != nil {
		return nil, err
	}
	return NewConn(conn, origin), nil
}

func (l *Listener) originOf(tcp *net.TCPConn) (Origin, error) {
	if l.origins == nil {
		return Origin{}, errors.New("look up origin: no source of origins")
	}
	origin, err := l.origins.Origin(tcp)
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
func (l *Listener) SetDeadline(t time.Time) error { return l.tcp.SetDeadline(t) }

// Addr returns the address that the listener is bound to.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Close stops listening. Accepted connections are not touched.
func (l *Listener) Close() error { return l.tcp.Close() }
