package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// unbind takes the mechanisms with channel binding out of a request for
// authentication that is relayed: an agent could bind its login to our certificate
// alone, and the target knows its own.
func (o *opening) unbind(raw []byte) ([]byte, error) {
	code, data, err := wire.DecodeAuthentication(raw[5:])
	if err != nil || code != wire.AuthenticationSASL {
		return raw, err
	}
	mechanisms, err := wire.DecodeMechanisms(data)
	if err != nil {
		return nil, err
	}
	out, mark := wire.Begin(nil, wire.Authentication)
	out = binary.BigEndian.AppendUint32(out, wire.AuthenticationSASL)
	left := 0
	for _, m := range mechanisms {
		if strings.HasSuffix(m, "-PLUS") {
			o.unbound = true
			continue
		}
		out = append(append(out, m...), 0)
		left++
	}
	if left == 0 {
		return nil, fmt.Errorf("%w: the target offers no mechanism that can be relayed", login.ErrMethod)
	}
	return wire.Finish(append(out, 0), mark), nil
}

// missesBinding reports whether the agent says in a SASLInitialResponse that it
// would have bound its login, which the target has to take for an attack: the flag
// "y" of RFC 5802 section 6. An agent without TLS says "n".
func missesBinding(body []byte) bool {
	_, rest, ok := bytes.Cut(body, []byte{0})
	return ok && len(rest) > 4 && rest[4] == 'y'
}

var errBinding = errors.New("the agent's own login can't be relayed from one TLS to another: " +
	"give the policy's resource a credential, or tls: {agent: refuse}")

// refuseBinding says what the target would call an attack. Agents that do not
// insist on TLS try again without it after an error of that class.
func (o *opening) refuseBinding() error {
	o.refuse(refusal{
		code: codeIdentity, message: "headgate: a login that is bound to TLS can't be passed on to the database",
		detail: "session " + o.session.ID,
		hint:   "Connect with channel_binding=disable or sslmode=disable, or ask the operators of this host to configure a credential.",
	})
	return &toldError{fmt.Errorf("%w: %w", errLogin, errBinding)}
}
