package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// errLogin means that the target did not let us in.
var errLogin = errors.New("log in upstream")

func passwordLimits(typ byte) (limit int, known bool) {
	return login.MaxMessage, typ == wire.Password
}

// login logs in upstream, with our credential or by relaying the agent's, and
// relays the rest of the start-up. It returns the first ReadyForQuery.
func (o *opening) login(ctx context.Context, start *wire.Startup) ([]byte, error) {
	var secret credential.Credential
	injected := false
	o.database = databaseOf(start)
	o.fromAgent = wire.NewReader(o.session.Downstream, passwordLimits)
	o.toAgent = wire.NewWriter(o.session.Downstream)
	if !o.session.Observe {
		var err error
		if secret, injected, err = o.reach(ctx, start); err != nil {
			return nil, err
		}
	}
	o.fromTarget = wire.NewReader(o.target, login.Limits)
	o.toTarget = wire.NewWriter(o.target)
	if !o.session.Observe {
		packet := wire.AppendStartupVersion(nil, versionFor(start), parameters(start, secret.Username, injected))
		if _, err := o.target.Write(packet); err != nil {
			return nil, fromUpstream(fmt.Errorf("send start-up packet: %w", err))
		}
		if err := o.agree(start); err != nil {
			return nil, err
		}
	}
	if o.injected = injected; injected {
		if o.database == "" {
			o.database = secret.Username
		}
		if err := o.inject(ctx, secret); err != nil {
			return nil, err
		}
	}
	return o.relayLogin(ctx)
}

// reach connects to the target, for an agent that may have our credential used
// there. injected is false where its own login is relayed.
func (o *opening) reach(ctx context.Context, start *wire.Startup) (secret credential.Credential, injected bool, err error) {
	if secret, injected, err = o.session.Credential(ctx); err != nil {
		return secret, false, o.refuseLogin(ctx, err)
	}
	// The target may let us in at once. Who does not know the placeholder gets no
	// session there, unless the version has to be agreed on first.
	if injected && start.Minor() == 0 && len(options(start)) == 0 {
		if err := o.challenge(secret); err != nil {
			return secret, false, err
		}
		o.admitted = true
	}
	if err := o.dial(ctx); err != nil {
		return secret, false, err
	}
	return secret, injected, o.secure(ctx)
}

// databaseOf returns the database that a StartupMessage asks for: by default the
// one that has the user's name.
func databaseOf(start *wire.Startup) string {
	if name, ok := start.Get("database"); ok && name != "" {
		return name
	}
	name, _ := start.Get("user")
	return name
}

// inject logs in upstream with our credential, for an agent that may have that
// done, and tells the agent that it is in.
func (o *opening) inject(ctx context.Context, secret credential.Credential) error {
	if !o.admitted {
		if err := o.challenge(secret); err != nil {
			return err
		}
	}
	c := &login.Conn{Reader: o.fromTarget, Writer: o.target, TLS: login.StateOf(o.target), Verify: verification(o.session.Resource.TLS)}
	outcome, err := login.Upstream(ctx, c, secret)
	if err != nil {
		return o.refuseLogin(ctx, err)
	}
	o.keepSecrets(secret, outcome)
	return o.welcome()
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
		raw, err := o.fromTarget.Raw(login.MaxMessage)
		if err != nil {
			return nil, fromUpstream(err)
		}
		if typ == wire.ReadyForQuery {
			if _, err := wire.DecodeReadyForQuery(raw[5:]); err != nil {
				return nil, fromUpstream(err)
			}
			return slices.Clone(raw), nil
		}
		if err := o.secrets.message(typ, raw); err != nil {
			return nil, err
		}
		if raw, err = o.note(typ, raw); err != nil {
			return nil, fromUpstream(err)
		}
		if _, err := o.toAgent.Write(raw); err != nil {
			return nil, fromDownstream(fmt.Errorf("write message: %w", err))
		}
		switch typ {
		case wire.ErrorResponse:
			if err := o.toAgent.Flush(); err != nil {
				return nil, fromDownstream(fmt.Errorf("write messages: %w", err))
			}
			return nil, &toldError{fmt.Errorf("%w: refused with %s", errLogin, login.SQLState(raw[5:]))}
		case wire.Authentication:
			if err := o.relayAnswer(ctx, raw[5:]); err != nil {
				return nil, err
			}
		}
	}
}

// note remembers what the start-up says and the session needs, and returns what
// the agent is told of it.
func (o *opening) note(typ byte, raw []byte) ([]byte, error) {
	switch typ {
	case wire.Authentication:
		if o.injected {
			return nil, fmt.Errorf("%w: a request for authentication after the login", wire.ErrMalformed)
		}
		if !o.session.Observe {
			return o.unbind(raw)
		}
	case wire.ParameterStatus:
		name, value, err := wire.DecodeParameterStatus(raw[5:])
		if err != nil {
			return nil, err
		}
		if len(o.status) < maxRecordedRows {
			o.status = append(o.status, [2]string{name, value})
		}
	case wire.BackendKeyData:
		if !o.session.Observe {
			return o.keyed(raw[5:])
		}
	case wire.NegotiateProtocolVersion:
		if !o.session.Observe {
			return nil, fmt.Errorf("%w: the version was agreed on before", wire.ErrMalformed)
		}
	}
	return raw, nil
}

// relayAnswer passes the agent's answer to a request for authentication on. No
// more is looked at than whether it can succeed.
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
	answer, err := o.fromAgent.Raw(login.MaxMessage)
	if err != nil {
		return fromDownstream(err)
	}
	if o.unbound && code == wire.AuthenticationSASL && missesBinding(answer[5:]) {
		return o.refuseBinding()
	}
	if _, err := o.toTarget.Write(answer); err != nil {
		return fromUpstream(fmt.Errorf("write message: %w", err))
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
