package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/transparent"
)

// alpn is the protocol's name in TLS: registered by PostgreSQL 17.
const alpn = "postgresql"

// maxRounds bounds the start-up packets of one connection: a request for GSS
// encryption, one for TLS, and the StartupMessage.
const maxRounds = 4

// entrance is the agent's side of a session until it has said what it wants.
type entrance struct {
	// session is the gateway's, and a copy whose Downstream is the connection
	// inside TLS once there is one.
	session *protocol.Session
	// secured is the agent's connection if TLS is spoken on it, and knows the
	// certificate that the agent was shown.
	secured *certs.Conn
}

// ask reads start-up packets until the agent says what it wants, and grants or
// refuses the encryption that it asks for. io.EOF means that it left without a
// word.
func (e *entrance) ask(ctx context.Context) (*wire.Startup, error) {
	for range maxRounds {
		direct, err := speaksTLS(e.session.Downstream)
		if err != nil {
			return nil, err
		}
		if direct && e.secured == nil {
			// What is asked for without a request has to say what it is for, so that
			// no other protocol's agent is taken for one of ours.
			if err := e.speak(ctx, certs.Terms{Protocols: []string{alpn}, Demand: true}); err != nil {
				return nil, err
			}
			continue
		}
		start, _, err := wire.ReadStartup(e.session.Downstream)
		if err != nil {
			return nil, fromDownstream(err)
		}
		switch start.Code {
		case wire.SSLCode, wire.GSSCode:
			if err := e.encrypt(ctx, start.Code); err != nil {
				return nil, err
			}
		default:
			return start, nil
		}
	}
	return nil, fromDownstream(fmt.Errorf("read start-up packet: %w: too many requests for encryption", wire.ErrMalformed))
}

// recordHandshake is the first byte of TLS; that of a start-up packet is 0.
const recordHandshake = 0x16

// speaksTLS waits for the agent's next byte, and takes nothing.
func speaksTLS(down *transparent.Conn) (bool, error) {
	ahead := down.Peeked()
	for len(ahead) == 0 {
		var err error
		if ahead, err = down.Fill(); err != nil {
			if errors.Is(err, io.EOF) {
				return false, io.EOF
			}
			return false, fromDownstream(fmt.Errorf("read start-up packet: %w", err))
		}
	}
	return ahead[0] == recordHandshake, nil
}

var errStuffed = fmt.Errorf("%w: bytes in the clear behind the request for TLS", wire.ErrMalformed)

// encrypt answers a request for encryption.
func (e *entrance) encrypt(ctx context.Context, code uint32) error {
	if e.secured != nil {
		return fromDownstream(fmt.Errorf("read start-up packet: %w: a request for encryption inside TLS", wire.ErrMalformed))
	}
	if code == wire.GSSCode || e.session.Certify == nil {
		return e.write([]byte{'N'})
	}
	// What was said before the answer was not said inside TLS, and must not be
	// taken for it. That of a hasty hello goes where it belongs.
	if ahead := e.session.Downstream.Peeked(); len(ahead) > 0 && ahead[0] != recordHandshake {
		return fromDownstream(errStuffed)
	}
	if err := e.write([]byte{'S'}); err != nil {
		return err
	}
	return e.speak(ctx, certs.Terms{Protocols: []string{alpn}})
}

func (e *entrance) write(p []byte) error {
	if _, err := e.session.Downstream.Write(p); err != nil {
		return fromDownstream(fmt.Errorf("answer request for encryption: %w", err))
	}
	return nil
}

var errUncertified = errors.New("the agent insists on TLS, and there is no certificate for it or the policy refuses it")

// speak speaks TLS with the agent from now on. If that fails the agent was told by
// an alert, and can be told nothing more.
func (e *entrance) speak(ctx context.Context, t certs.Terms) error {
	if e.session.Certify == nil {
		_, err := e.session.Downstream.Write([]byte{21, 3, 3, 0, 2, 2, alertHandshakeFailure})
		return &toldError{fromDownstream(errors.Join(errUncertified, err))}
	}
	secured, err := e.session.Certify(ctx, e.session.Downstream, t)
	if err != nil {
		return &toldError{fromDownstream(err)}
	}
	inside := *e.session
	inside.Downstream = transparent.NewConn(secured, e.session.Downstream.Origin)
	e.session, e.secured = &inside, secured
	return nil
}

const alertHandshakeFailure = 40 // RFC 8446 section 6

// leave ends TLS in order: without that an agent has to take the end of the stream
// for an attack.
func (e *entrance) leave() {
	if e.secured == nil {
		return
	}
	err := e.secured.SetWriteDeadline(time.Now().Add(partingPatience))
	if err == nil {
		err = e.secured.CloseWrite()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		e.session.Log.Debug().Err(err).Msg("TLS with the agent was not ended in order")
	}
}
