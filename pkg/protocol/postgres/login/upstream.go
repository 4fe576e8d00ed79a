package login

import (
	"context"
	"crypto/md5" // the protocol's own method, used only if the target asks for it
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// MaxMessage bounds one message of a login, in bytes.
const MaxMessage = 64 << 10

// ErrMethod means that the target asked for a method that is not allowed, or that
// nobody can answer. ErrRefused means that the target did not accept what it was
// told.
var (
	ErrMethod  = errors.New("method of authentication is not allowed")
	ErrRefused = errors.New("target refuses the login")
)

// errNoProof means that the target may be anybody.
var errNoProof = errors.New("the target did not prove that it knows the password")

// Limits are the messages that a target may send up to the first ReadyForQuery.
func Limits(typ byte) (limit int, known bool) {
	switch typ {
	case wire.Authentication, wire.ErrorResponse, wire.NoticeResponse, wire.ParameterStatus,
		wire.BackendKeyData, wire.ReadyForQuery, wire.NegotiateProtocolVersion:
		return MaxMessage, true
	default:
		return 0, false
	}
}

// Conn is a connection to a target that was sent a StartupMessage. It belongs to
// one goroutine.
type Conn struct {
	// Reader reads what the target says, within [Limits].
	Reader *wire.Reader
	// Writer takes what the target is told. Nothing may wait in front of it.
	Writer io.Writer
	// TLS is the state of the connection's TLS, nil where there is none.
	TLS *tls.ConnectionState
	// Verify is how the target's certificate was verified: "full", "ca", or
	// empty where it was not.
	Verify string
}

// NewConn returns a Conn of a connection from which nothing was read yet. verify
// is what [Conn.Verify] holds.
func NewConn(conn net.Conn, verify string) *Conn {
	return &Conn{Reader: wire.NewReader(conn, Limits), Writer: conn, TLS: StateOf(conn), Verify: verify}
}

// StateOf returns the state of a connection's TLS, or nil.
func StateOf(conn net.Conn) *tls.ConnectionState {
	secured, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	state := secured.ConnectionState()
	return &state
}

// Outcome tells how a target let us in.
type Outcome struct {
	// Method is the one that the target asked for.
	Method Method
	// Verifier is, after SCRAM, what the target has of the password: whoever reads
	// it can guess at the password in private.
	Verifier *scram.StoredCredentials
}

// Upstream answers the target's requests for authentication until AuthenticationOk,
// which is the last message that it reads. ctx is looked at between messages;
// interrupting a read is up to whoever owns the connection. Errors wrap
// [ErrMethod] or [ErrRefused] where that is why, and never hold the secret or the
// target's own words, of which there may be any.
func Upstream(ctx context.Context, c *Conn, secret credential.Credential) (Outcome, error) {
	methods, err := usable(c, secret)
	if err != nil {
		return Outcome{}, fmt.Errorf("log in: %w", err)
	}
	a := &authenticator{Conn: c, secret: secret, methods: methods}
	a.outcome.Method = None
	for {
		if err := ctx.Err(); err != nil {
			return Outcome{}, fmt.Errorf("log in: %w", err)
		}
		done, err := a.next()
		if err != nil {
			return Outcome{}, fmt.Errorf("log in: %w", err)
		}
		if done {
			return a.outcome, nil
		}
	}
}

// usable returns the methods that may be answered with the credential over the
// connection.
func usable(c *Conn, secret credential.Credential) ([]Method, error) {
	if len(secret.Certificate) > 0 && c.Verify == "" {
		return nil, fmt.Errorf("%w: credential %s has a certificate, and the resource demands no TLS to show it in: set tls.verify", ErrMethod, secret.Name)
	}
	if !secret.Token {
		return allowed(secret.Methods)
	}
	if c.Verify != "full" {
		return nil, fmt.Errorf("%w: the secret of credential %s is sent as it is, over TLS with tls.verify full and not otherwise", ErrMethod, secret.Name)
	}
	return []Method{Cleartext}, nil
}

// authenticator logs in with a credential of ours.
type authenticator struct {
	*Conn
	secret   credential.Credential
	methods  []Method
	outcome  Outcome
	answered bool
	scram    *conversation
}

// next takes one message. done tells that it let us in.
func (a *authenticator) next() (done bool, err error) {
	typ, _, err := a.Reader.Next()
	if err != nil {
		return false, err
	}
	raw, err := a.Reader.Raw(MaxMessage)
	if err != nil {
		return false, err
	}
	switch typ {
	case wire.Authentication:
	case wire.NoticeResponse, wire.NegotiateProtocolVersion:
		return false, nil
	case wire.ErrorResponse:
		state := SQLState(raw[5:])
		return false, fmt.Errorf("%w with %s%s", ErrRefused, state, a.remedy(state))
	default:
		return false, fmt.Errorf("%w: unexpected type %s", wire.ErrMalformed, wire.Name(typ))
	}
	code, data, err := wire.DecodeAuthentication(raw[5:])
	if err != nil {
		return false, err
	}
	if code == wire.AuthenticationOk {
		return true, a.finish()
	}
	return false, a.answer(code, data)
}

// remedy says what an operator can do about a refusal. The target's own words are
// in its log.
func (a *authenticator) remedy(state string) string {
	switch state {
	case "28P01":
		return fmt.Sprintf(": the password of credential %s is not that of account %q", a.secret.Name, a.secret.Username)
	case "28000":
		return fmt.Sprintf(": the target does not let account %q in from this host, like this: see its pg_hba.conf, and its log", a.secret.Username)
	case "53300":
		return ": the target has no connection left"
	default:
		return ": the target's log says why"
	}
}

// finish is asked when the target says that we are in.
func (a *authenticator) finish() error {
	if a.scram != nil {
		if !a.scram.Valid() {
			return errNoProof
		}
		a.outcome.Verifier = a.scram.verifier()
	}
	return a.allow(a.outcome.Method)
}

func (a *authenticator) allow(m Method) error {
	if slices.Contains(a.methods, m) {
		return nil
	}
	if m == None {
		return fmt.Errorf("%w: the target lets us in without a login, and could be any", ErrMethod)
	}
	return fmt.Errorf("%w: the target asks for %s, the credential allows %s", ErrMethod, m, join(a.methods))
}

func join(methods []Method) string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = string(m)
	}
	return strings.Join(names, ", ")
}

func (a *authenticator) answer(code uint32, data []byte) error {
	switch code {
	case wire.AuthenticationSASLCont, wire.AuthenticationSASLFinal:
		if a.scram == nil {
			return fmt.Errorf("%w: SASL message that was not asked for", wire.ErrMalformed)
		}
		return a.continueSCRAM(code, data)
	}
	if a.answered {
		return fmt.Errorf("%w: a second request for authentication (%d)", wire.ErrMalformed, code)
	}
	a.answered = true
	switch code {
	case wire.AuthenticationCleartext:
		return a.cleartext()
	case wire.AuthenticationMD5:
		return a.md5(data)
	case wire.AuthenticationSASL:
		return a.beginSCRAM(data)
	default:
		return fmt.Errorf("%w: authentication request %d is not supported", ErrMethod, code)
	}
}

func (a *authenticator) cleartext() error {
	if a.Verify == "" {
		return fmt.Errorf("%w: the target asks for the password in the clear, over a connection without verified TLS: "+
			"set tls.verify on the resource, or let the target ask for scram-sha-256", ErrMethod)
	}
	if err := a.begin(Cleartext); err != nil {
		return err
	}
	return a.password(a.secret.Secret.Reveal())
}

func (a *authenticator) md5(salt []byte) error {
	if len(salt) != 4 {
		return fmt.Errorf("decode salt: %w", wire.ErrMalformed)
	}
	if err := a.begin(MD5); err != nil {
		return err
	}
	inner := MD5Verifier(a.secret.Username, a.secret.Secret)
	outer := md5.Sum(append([]byte(inner[len("md5"):]), salt...))
	return a.password([]byte("md5" + hex.EncodeToString(outer[:])))
}

// begin makes sure that a method may be answered, and with what.
func (a *authenticator) begin(m Method) error {
	if err := a.allow(m); err != nil {
		return err
	}
	if a.secret.Secret.IsZero() {
		return fmt.Errorf("%w: the target asks for a password (%s), and credential %s has none", ErrMethod, m, a.secret.Name)
	}
	a.outcome.Method = m
	return nil
}

// MD5Verifier is what a target keeps of a password that was set under
// password_encryption md5: "md5" and md5(password + user), in hexadecimal. It is
// worth as much as the password.
func MD5Verifier(user string, password credential.Secret) string {
	sum := md5.Sum(append(password.Reveal(), user...))
	return "md5" + hex.EncodeToString(sum[:])
}

// password sends a PasswordMessage.
func (a *authenticator) password(value []byte) error {
	if slices.Contains(value, 0) {
		return errors.New("the password has a zero byte, which the protocol can't carry")
	}
	out, mark := wire.Begin(nil, wire.Password)
	return a.send(wire.Finish(append(append(out, value...), 0), mark))
}

func (a *authenticator) send(message []byte) error {
	if _, err := a.Writer.Write(message); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// SQLState returns the code of an ErrorResponse, and nothing else of it.
func SQLState(body []byte) string {
	fields, err := wire.DecodeFields(body)
	if err != nil {
		return "an error that is malformed"
	}
	code := wire.Get(fields, 'C')
	if len(code) != 5 {
		return "an error without a code"
	}
	for _, c := range code {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') {
			return "an error without a code"
		}
	}
	return string(code)
}
