package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// maxSettings bounds what is kept of the settings that a target reports.
const maxSettings = 100

// Target is where [Open] opens a session, and as whom. Dial and Secure are those
// of the protocol's session.
type Target struct {
	// Dial opens the plain connection.
	Dial func(ctx context.Context) (net.Conn, error)
	// Secure starts TLS on it, and takes it over. It is used unless Verify is empty.
	Secure func(ctx context.Context, conn net.Conn) (net.Conn, error)
	// Verify is how Secure verifies the target: "full", "ca", or empty for no TLS.
	Verify string
	// Credential is what to log in with.
	Credential credential.Credential
	// Database is the one to use; empty means the account's name.
	Database string
	// Parameters are settings for the StartupMessage beside user and database.
	Parameters []wire.Parameter
}

// Session is a session of headgate's own that waits for its first statement.
type Session struct {
	Conn net.Conn
	// Reader has read up to the first ReadyForQuery. Its limits are [Limits];
	// whoever goes on sets those that it needs.
	Reader *wire.Reader
	// Settings are what the target reported, at most 100.
	Settings []wire.Parameter
	// PID and Key are what a CancelRequest for the session must carry. The key is
	// nil where the target gave none.
	PID uint32
	Key []byte
	// State is the transaction's, as ReadyForQuery has it.
	State byte
	Outcome
}

// Open opens a session: it dials, starts TLS, sends the StartupMessage, logs in
// and reads up to the first ReadyForQuery. It gives up, and closes what it opened,
// when ctx ends. The caller closes the session.
func Open(ctx context.Context, t Target) (*Session, error) {
	conn, err := t.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	stop := interruptible(ctx, conn)
	if t.Verify != "" {
		if conn, err = Secure(ctx, conn, t.Secure); err != nil {
			stop()
			return nil, fmt.Errorf("open session: %w", err)
		}
	}
	s, err := t.start(ctx, conn)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return nil, fmt.Errorf("open session: %w", errors.Join(err, conn.Close()))
	}
	return s, nil
}

// interruptible makes whatever waits for conn return when ctx ends, until stop is
// called, which reports false if that has happened.
func interruptible(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
			_ = conn.Close() // it is gone already, or waits for nothing now
		}
	})
}

func (t Target) start(ctx context.Context, conn net.Conn) (*Session, error) {
	parameters := []wire.Parameter{{Name: "user", Value: t.Credential.Username}}
	if t.Database != "" {
		parameters = append(parameters, wire.Parameter{Name: "database", Value: t.Database})
	}
	if _, err := conn.Write(wire.AppendStartup(nil, append(parameters, t.Parameters...))); err != nil {
		return nil, fmt.Errorf("send start-up packet: %w", err)
	}
	c := NewConn(conn, t.Verify)
	outcome, err := Upstream(ctx, c, t.Credential)
	if err != nil {
		return nil, err
	}
	s := &Session{Conn: conn, Reader: c.Reader, Outcome: outcome}
	for s.State == 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.next(); err != nil {
			return nil, fmt.Errorf("start session: %w", err)
		}
	}
	return s, nil
}

// next takes one message between AuthenticationOk and ReadyForQuery.
func (s *Session) next() error {
	typ, _, err := s.Reader.Next()
	if err != nil {
		return err
	}
	raw, err := s.Reader.Raw(MaxMessage)
	if err != nil {
		return err
	}
	body := raw[5:]
	switch typ {
	case wire.ParameterStatus:
		name, value, err := wire.DecodeParameterStatus(body)
		if len(s.Settings) < maxSettings {
			s.Settings = append(s.Settings, wire.Parameter{Name: name, Value: value})
		}
		return err
	case wire.BackendKeyData:
		pid, key, err := wire.DecodeBackendKeyData(body)
		s.PID, s.Key = pid, append([]byte(nil), key...)
		return err
	case wire.ReadyForQuery:
		s.State, err = wire.DecodeReadyForQuery(body)
		return err
	case wire.ErrorResponse:
		return fmt.Errorf("%w with %s", ErrRefused, SQLState(body))
	case wire.NoticeResponse, wire.NegotiateProtocolVersion:
		return nil
	default:
		return fmt.Errorf("%w: unexpected type %s", wire.ErrMalformed, wire.Name(typ))
	}
}

// Close tells the target goodbye, without waiting for anything, and closes the
// connection.
func (s *Session) Close() error {
	out, mark := wire.Begin(nil, wire.Terminate)
	err := s.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	if err == nil {
		_, err = s.Conn.Write(wire.Finish(out, mark))
	}
	return errors.Join(err, s.Conn.Close())
}

// ErrPlain means that a target speaks no TLS.
var ErrPlain = errors.New("the target speaks no TLS: turn it on there, or write tls: {verify: off} " +
	"for the policy's resource to have logins and data go to it in the clear")

// Secure asks the target for TLS and starts it with start, which takes over conn.
// If it fails, conn is closed.
func Secure(ctx context.Context, conn net.Conn, start func(context.Context, net.Conn) (net.Conn, error)) (net.Conn, error) {
	if err := requestTLS(conn); err != nil {
		return nil, errors.Join(fmt.Errorf("request TLS: %w", err), conn.Close())
	}
	secured, err := start(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("start TLS: %w", err)
	}
	return secured, nil
}

func requestTLS(conn net.Conn) error {
	if _, err := conn.Write(wire.AppendRequest(nil, wire.SSLCode)); err != nil {
		return err
	}
	// Exactly one byte is read: what follows belongs to TLS.
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	switch answer[0] {
	case 'S':
		return nil
	case 'N':
		return ErrPlain
	default:
		return fmt.Errorf("%w: the answer is neither S nor N", wire.ErrMalformed)
	}
}
