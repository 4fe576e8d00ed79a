package postgres

import (
	"context"
	"crypto/md5" // the protocol's own method, used only if the target asks for it
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// maxAuthentication bounds one message of a login.
const maxAuthentication = 64 << 10

// maxIterations bounds the work that a target can demand for SCRAM.
const maxIterations = 1_000_000

const scramMechanism = "SCRAM-SHA-256"

// errLogin means that the target did not let us in.
var errLogin = errors.New("log in upstream")

func loginLimits(typ byte) (limit int, known bool) {
	switch typ {
	case wire.Authentication, wire.ErrorResponse, wire.NoticeResponse, wire.ParameterStatus,
		wire.BackendKeyData, wire.ReadyForQuery, wire.NegotiateProtocolVersion:
		return maxAuthentication, true
	default:
		return 0, false
	}
}

func passwordLimits(typ byte) (limit int, known bool) {
	return maxAuthentication, typ == wire.Password
}

// login logs in upstream, with our credential or by relaying the agent's, and
// relays the rest of the start-up. It returns the first ReadyForQuery.
func (o *opening) login(ctx context.Context, start *wire.Startup) ([]byte, error) {
	var secret credential.Credential
	injected := false
	if !o.session.Observe {
		if err := o.dial(ctx); err != nil {
			return nil, err
		}
		if err := o.secure(ctx); err != nil {
			return nil, err
		}
		var err error
		if secret, injected, err = o.session.Credential(ctx); err != nil {
			return nil, o.refuseLogin(ctx, err)
		}
	}
	o.fromAgent = wire.NewReader(o.session.Downstream, passwordLimits)
	o.toAgent = wire.NewWriter(o.session.Downstream)
	o.fromTarget = wire.NewReader(o.target, loginLimits)
	o.toTarget = wire.NewWriter(o.target)
	if !o.session.Observe {
		if _, err := o.target.Write(wire.AppendStartup(nil, parameters(start, secret.Username, injected))); err != nil {
			return nil, fromUpstream(fmt.Errorf("send start-up packet: %w", err))
		}
	}
	if injected {
		a := &authenticator{opening: o, secret: secret}
		if err := a.run(); err != nil {
			return nil, o.refuseLogin(ctx, err)
		}
	}
	return o.relayLogin(ctx)
}

// parameters are the agent's without protocol options, and with our user. The
// database defaults to the agent's user, as it would without us.
func parameters(start *wire.Startup, username string, injected bool) []wire.Parameter {
	list := slices.DeleteFunc(slices.Clone(start.Parameters), func(p wire.Parameter) bool {
		return strings.HasPrefix(p.Name, "_pq_.") || p.Name == "replication" || injected && p.Name == "user"
	})
	if !injected {
		return list
	}
	if database, ok := start.Get("database"); !ok || database == "" {
		if user, ok := start.Get("user"); ok {
			list = append(list, wire.Parameter{Name: "database", Value: user})
		}
	}
	return append([]wire.Parameter{{Name: "user", Value: username}}, list...)
}

// refuseLogin tells the agent that the login failed, and nothing more. The cause
// is for the operator. A session that is being ended has a better reason.
func (o *opening) refuseLogin(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	o.refuse(refusal{
		code: codeIdentity, message: "headgate: the login to the database failed",
		detail: "session " + o.session.ID, hint: "Ask the operators of this host and quote the session.",
	})
	return &toldError{fmt.Errorf("%w: %w", errLogin, err)}
}

// relayLogin relays the target's side of the start-up up to the first
// ReadyForQuery, and the agent's answers to requests for authentication.
func (o *opening) relayLogin(ctx context.Context) ([]byte, error) {
	for {
		if !o.fromTarget.Buffered() {
			if err := o.toAgent.Flush(); err != nil {
				return nil, fromDownstream(fmt.Errorf("write messages: %w", err))
			}
		}
		typ, _, err := o.fromTarget.Next()
		if err != nil {
			return nil, fromUpstream(err)
		}
		raw, err := o.fromTarget.Raw(maxAuthentication)
		if err != nil {
			return nil, fromUpstream(err)
		}
		if typ == wire.ReadyForQuery {
			if _, err := wire.DecodeReadyForQuery(raw[5:]); err != nil {
				return nil, fromUpstream(err)
			}
			return slices.Clone(raw), nil
		}
		if err := o.note(typ, raw[5:]); err != nil {
			return nil, err
		}
		if _, err := o.toAgent.Write(raw); err != nil {
			return nil, fromDownstream(fmt.Errorf("write message: %w", err))
		}
		switch typ {
		case wire.ErrorResponse:
			if err := o.toAgent.Flush(); err != nil {
				return nil, fromDownstream(fmt.Errorf("write messages: %w", err))
			}
			return nil, &toldError{fmt.Errorf("%w: refused with %s", errLogin, sqlState(raw[5:]))}
		case wire.Authentication:
			if err := o.relayAnswer(ctx, raw[5:]); err != nil {
				return nil, err
			}
		}
	}
}

// note remembers what the start-up says and the session needs.
func (o *opening) note(typ byte, body []byte) error {
	switch typ {
	case wire.ParameterStatus:
		name, value, err := wire.DecodeParameterStatus(body)
		if err != nil {
			return fromUpstream(err)
		}
		if len(o.status) < maxRecordedRows {
			o.status = append(o.status, [2]string{name, value})
		}
	case wire.BackendKeyData:
		pid, key, err := wire.DecodeBackendKeyData(body)
		if err != nil {
			return fromUpstream(err)
		}
		if o.session.Process == nil || o.registered {
			return nil
		}
		o.key = cancelKey{target: o.session.Downstream.Origin.Target, pid: pid, key: string(key)}
		o.postgres.register(o.key, o.session.Process.Root)
		o.registered = true
	}
	return nil
}

// relayAnswer passes the agent's answer to a request for authentication on. It is
// looked at by nobody.
func (o *opening) relayAnswer(ctx context.Context, body []byte) error {
	code, _, err := wire.DecodeAuthentication(body)
	if err != nil {
		return fromUpstream(err)
	}
	switch code {
	case wire.AuthenticationOk, wire.AuthenticationSASLFinal:
		return nil
	case wire.AuthenticationCleartext, wire.AuthenticationMD5, wire.AuthenticationSASL, wire.AuthenticationSASLCont:
	default:
		if o.session.Observe {
			return o.relayRest(ctx)
		}
		o.refuse(refusal{code: codeUnsupported, message: "headgate: this method of authentication can't be mediated"})
		return &toldError{fmt.Errorf("%w: authentication request %d is not supported", errLogin, code)}
	}
	if err := o.toAgent.Flush(); err != nil {
		return fromDownstream(fmt.Errorf("write messages: %w", err))
	}
	if _, _, err := o.fromAgent.Next(); err != nil {
		return fromDownstream(err)
	}
	if _, err := o.fromAgent.CopyTo(o.toTarget); err != nil {
		return fromDownstream(err)
	}
	if err := o.toTarget.Flush(); err != nil {
		return fromUpstream(fmt.Errorf("write messages: %w", err))
	}
	return nil
}

// relayRest gives up looking: what follows is copied as it is.
func (o *opening) relayRest(ctx context.Context) error {
	if err := o.toAgent.Flush(); err != nil {
		return fromDownstream(fmt.Errorf("write messages: %w", err))
	}
	if err := o.relay(ctx); err != nil {
		return err
	}
	return errOver
}

// authenticator logs in with a credential of ours; the agent is asked nothing.
type authenticator struct {
	*opening
	secret       credential.Credential
	conversation *scram.ClientConversation
}

// run answers the target until it lets us in, and passes that on.
func (a *authenticator) run() error {
	for {
		typ, _, err := a.fromTarget.Next()
		if err != nil {
			return err
		}
		raw, err := a.fromTarget.Raw(maxAuthentication)
		if err != nil {
			return err
		}
		switch typ {
		case wire.Authentication:
		case wire.NoticeResponse:
			continue // before the login nothing of the target's reaches the agent
		case wire.ErrorResponse:
			return fmt.Errorf("refused with %s", sqlState(raw[5:]))
		default:
			return fmt.Errorf("%w: unexpected type %s", wire.ErrMalformed, wire.Name(typ))
		}
		code, data, err := wire.DecodeAuthentication(raw[5:])
		if err != nil {
			return err
		}
		if code == wire.AuthenticationOk {
			if a.conversation != nil && !a.conversation.Valid() {
				return errors.New("the target did not prove that it knows the password")
			}
			_, err := a.toAgent.Write(raw)
			return err
		}
		if err := a.answer(code, data); err != nil {
			return err
		}
	}
}

func (a *authenticator) answer(code uint32, data []byte) error {
	if a.conversation != nil && code != wire.AuthenticationSASLCont && code != wire.AuthenticationSASLFinal {
		return fmt.Errorf("%w: authentication request %d inside SASL", wire.ErrMalformed, code)
	}
	switch code {
	case wire.AuthenticationCleartext:
		if a.session.Resource.TLS.Verify == "" {
			return errors.New("the target asks for the password in the clear")
		}
		return a.password(a.secret.Secret.Reveal())
	case wire.AuthenticationMD5:
		if len(data) != 4 {
			return wire.ErrMalformed
		}
		return a.password(md5Password(a.secret.Username, a.secret.Secret.Reveal(), data))
	case wire.AuthenticationSASL:
		return a.beginSCRAM(data)
	case wire.AuthenticationSASLCont, wire.AuthenticationSASLFinal:
		return a.continueSCRAM(code, data)
	default:
		return fmt.Errorf("authentication request %d is not supported", code)
	}
}

// md5Password is "md5" and md5(md5(password + user) + salt), in hexadecimal.
func md5Password(user string, password, salt []byte) []byte {
	inner := md5.Sum(append(slices.Clip(password), user...))
	outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), salt...))
	return []byte("md5" + hex.EncodeToString(outer[:]))
}

// password sends a PasswordMessage.
func (a *authenticator) password(value []byte) error {
	out, mark := wire.Begin(nil, wire.Password)
	out = wire.Finish(append(append(out, value...), 0), mark)
	_, err := a.target.Write(out)
	return err
}

func (a *authenticator) beginSCRAM(data []byte) error {
	mechanisms, err := wire.DecodeMechanisms(data)
	if err != nil {
		return err
	}
	if !slices.Contains(mechanisms, scramMechanism) {
		return fmt.Errorf("no mechanism of %q is supported", mechanisms)
	}
	// The user name of SCRAM is not used by PostgreSQL, which knows it already.
	agent, err := scram.SHA256.NewClient("", string(a.secret.Secret.Reveal()), "")
	if err != nil {
		agent, err = scram.SHA256.NewClientUnprepped("", string(a.secret.Secret.Reveal()), "")
	}
	if err != nil {
		return errors.New("the password can't be used for SCRAM")
	}
	a.conversation = agent.NewConversation()
	first, err := a.conversation.Step("")
	if err != nil {
		return fmt.Errorf("begin SCRAM: %v", err)
	}
	out, mark := wire.Begin(nil, wire.Password)
	out = append(append(out, scramMechanism...), 0)
	out = binary.BigEndian.AppendUint32(out, uint32(len(first)))
	_, err = a.target.Write(wire.Finish(append(out, first...), mark))
	return err
}

func (a *authenticator) continueSCRAM(code uint32, data []byte) error {
	if a.conversation == nil || a.conversation.Done() {
		return fmt.Errorf("%w: SASL message that was not asked for", wire.ErrMalformed)
	}
	if tooManyIterations(string(data)) {
		return errors.New("the target demands too many iterations")
	}
	next, err := a.conversation.Step(string(data))
	if err != nil {
		return fmt.Errorf("continue SCRAM: %v", err)
	}
	if code == wire.AuthenticationSASLFinal {
		if !a.conversation.Valid() {
			return errors.New("the target did not prove that it knows the password")
		}
		return nil
	}
	out, mark := wire.Begin(nil, wire.Password)
	_, err = a.target.Write(wire.Finish(append(out, next...), mark))
	return err
}

func tooManyIterations(message string) bool {
	for _, part := range strings.Split(message, ",") {
		if n, ok := strings.CutPrefix(part, "i="); ok {
			count, err := strconv.Atoi(n)
			return err != nil || count > maxIterations
		}
	}
	return false
}

// sqlState returns the code of an ErrorResponse.
func sqlState(body []byte) string {
	fields, err := wire.DecodeFields(body)
	if err != nil {
		return "an error that is malformed"
	}
	return strings.ToValidUTF8(string(wire.Get(fields, 'C')), "?")
}
