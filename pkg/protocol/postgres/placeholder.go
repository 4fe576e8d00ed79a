package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// challenge asks the agent for the credential's placeholder, where it has one. An
// agent that proves that it knows the secret instead is refused like any other
// that does not know the placeholder, so that nobody can try secrets here, and is
// a finding.
func (o *opening) challenge(secret credential.Credential) error {
	if secret.Placeholder.IsZero() {
		return nil
	}
	o.fromAgent.SetLimits(login.AgentLimits)
	admission, err := o.postgres.gate.Admit(login.Agent{Reader: o.fromAgent, Writer: o.toAgent, Certificate: o.certificate()}, secret)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%w: %w", errLogin, err)
	switch {
	case errors.Is(err, login.ErrPassword):
		o.refuse(refusal{
			code: codePassword, message: "headgate: the password is not the placeholder for this database",
			detail: "session " + o.session.ID,
			hint:   "Log in with the placeholder that the operators of this host gave out. headgate logs in with the real password, which nobody else needs.",
		})
	case errors.Is(err, login.ErrBinding):
		o.refuse(refusal{
			code: codeIdentity, message: "headgate: channel binding can't be agreed on",
			detail: "session " + o.session.ID,
		})
	default:
		return fromDownstream(err)
	}
	if admission.HoldsSecret {
		// To write that down takes time. The agent is gone by then, or could tell
		// from how long it takes that it has guessed the secret.
		o.leave()
		err = errors.Join(err, o.session.Downstream.Close(), o.found(protocol.FindingHoldsSecret, secret.Name, secret.Secret))
	}
	return &toldError{fromDownstream(err)}
}

// certificate returns the one that the agent was shown in TLS, in DER, or nil.
func (o *opening) certificate() []byte {
	if o.secured == nil {
		return nil
	}
	return o.secured.Leaf()
}

// found records that a secret is where it should not be. The record can tell it
// apart from others, and no more.
func (o *opening) found(kind protocol.FindingKind, name string, secret credential.Secret) error {
	finding := &protocol.Finding{Kind: kind, Credential: name, Fingerprint: secret.Fingerprint()}
	if err := o.session.Record(protocol.Frame{Kind: protocol.FrameFinding, Finding: finding}); err != nil {
		return fmt.Errorf("record finding: %w", err)
	}
	return nil
}

// welcome tells the agent that it is in.
func (o *opening) welcome() error {
	out, mark := wire.Begin(nil, wire.Authentication)
	if _, err := o.toAgent.Write(wire.Finish(binary.BigEndian.AppendUint32(out, wire.AuthenticationOk), mark)); err != nil {
		return fromDownstream(fmt.Errorf("write message: %w", err))
	}
	return nil
}
