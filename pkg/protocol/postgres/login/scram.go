package login

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// The names of the mechanisms, RFC 7677.
const (
	mechanism     = "SCRAM-SHA-256"
	mechanismPlus = "SCRAM-SHA-256-PLUS"
)

// maxIterations bounds the work that a target can demand. Fewer than 4096, the
// least of RFC 7677, are refused by the library: they make guessing cheap.
const maxIterations = 200_000

// conversation is our half of SCRAM.
type conversation struct {
	*scram.ClientConversation
	keys    *scram.Client
	factors scram.KeyFactors
	asked   bool // whether the target has sent its salt
}

// newKeys derives nothing yet. A password that SASLprep refuses is taken as it
// is, as PostgreSQL does.
func newKeys(password credential.Secret) (*scram.Client, error) {
	// The user name of SCRAM is not used by PostgreSQL, which knows it already.
	keys, err := scram.SHA256.NewClient("", string(password.Reveal()), "")
	if err != nil {
		keys, err = scram.SHA256.NewClientUnprepped("", string(password.Reveal()), "")
	}
	if err != nil {
		return nil, errors.New("the password can't be used for SCRAM") // the cause may quote it
	}
	return keys, nil
}

// beginSCRAM chooses a mechanism and sends the first message.
func (a *authenticator) beginSCRAM(data []byte) error {
	offered, err := wire.DecodeMechanisms(data)
	if err != nil {
		return err
	}
	chosen, method, err := a.choose(offered)
	if err != nil {
		return err
	}
	if err := a.begin(method); err != nil {
		return err
	}
	keys, err := newKeys(a.secret.Secret)
	if err != nil {
		return err
	}
	a.scram = &conversation{keys: keys}
	binding, bound := endpoint(a.TLS)
	switch {
	case method == SCRAMPlus:
		a.scram.ClientConversation = keys.NewConversationWithChannelBinding(binding)
	case bound && !slices.Contains(offered, mechanismPlus):
		// A target that did offer it learns from this that somebody took it away.
		a.scram.ClientConversation = keys.NewConversationAdvertisingChannelBinding()
	default:
		a.scram.ClientConversation = keys.NewConversation()
	}
	first, err := a.scram.Step("")
	if err != nil {
		return fmt.Errorf("begin SCRAM: %w", err)
	}
	out, mark := wire.Begin(nil, wire.Password)
	out = append(append(out, chosen...), 0)
	out = binary.BigEndian.AppendUint32(out, uint32(len(first)))
	return a.send(wire.Finish(append(out, first...), mark))
}

// choose returns the strongest mechanism that is offered, possible and allowed.
func (a *authenticator) choose(offered []string) (name string, m Method, err error) {
	plus, plain := slices.Contains(offered, mechanismPlus), slices.Contains(offered, mechanism)
	if plus && a.TLS == nil {
		return "", "", fmt.Errorf("%w: the target offers %s without TLS", ErrMethod, mechanismPlus)
	}
	_, bound := endpoint(a.TLS)
	switch {
	case plus && bound && slices.Contains(a.methods, SCRAMPlus):
		return mechanismPlus, SCRAMPlus, nil
	case plain:
		return mechanism, SCRAM, nil
	case plus && !bound:
		return "", "", fmt.Errorf("%w: the target offers only %s, and there is no hash for a certificate signed with %s",
			ErrMethod, mechanismPlus, signature(a.TLS))
	default:
		return "", "", fmt.Errorf("%w: no mechanism of %d that are offered is supported", ErrMethod, len(offered))
	}
}

// endpoint returns the binding to the target's certificate. ok is false where
// there is none: without TLS, and for signatures without a hash (Ed25519), for
// which RFC 5929 defines nothing.
func endpoint(state *tls.ConnectionState) (binding scram.ChannelBinding, ok bool) {
	if state == nil {
		return scram.ChannelBinding{}, false
	}
	binding, err := scram.NewTLSServerEndpointBinding(state)
	return binding, err == nil
}

func signature(state *tls.ConnectionState) x509.SignatureAlgorithm {
	if state == nil || len(state.PeerCertificates) == 0 {
		return x509.UnknownSignatureAlgorithm
	}
	return state.PeerCertificates[0].SignatureAlgorithm
}

// continueSCRAM takes the target's salt, and then its proof.
func (a *authenticator) continueSCRAM(code uint32, data []byte) error {
	s := a.scram
	if s.Done() || (code == wire.AuthenticationSASLFinal) != s.asked {
		return fmt.Errorf("%w: SASL message that was not asked for", wire.ErrMalformed)
	}
	if code == wire.AuthenticationSASLFinal {
		if _, err := s.Step(string(data)); err != nil || !s.Valid() {
			return errNoProof
		}
		return nil
	}
	var err error
	if s.factors, err = factors(string(data)); err != nil {
		return err
	}
	s.asked = true
	next, err := s.Step(string(data))
	if err != nil {
		return errors.New("continue SCRAM: the target's message is malformed, or demands less than 4096 iterations")
	}
	out, mark := wire.Begin(nil, wire.Password)
	return a.send(wire.Finish(append(out, next...), mark))
}

// factors reads the salt and the iterations of a server-first-message, RFC 5802
// section 7: r=nonce,s=salt,i=iterations. The library reads it again.
func factors(message string) (scram.KeyFactors, error) {
	parts := strings.Split(message, ",")
	if len(parts) < 3 || !strings.HasPrefix(parts[1], "s=") || !strings.HasPrefix(parts[2], "i=") {
		return scram.KeyFactors{}, fmt.Errorf("decode SCRAM salt: %w", wire.ErrMalformed)
	}
	count, err := strconv.Atoi(parts[2][2:])
	if err != nil {
		return scram.KeyFactors{}, fmt.Errorf("decode SCRAM iterations: %w", wire.ErrMalformed)
	}
	if count > maxIterations {
		return scram.KeyFactors{}, fmt.Errorf("the target demands %d iterations, more than %d", count, maxIterations)
	}
	salt, err := base64.StdEncoding.DecodeString(parts[1][2:])
	if err != nil {
		return scram.KeyFactors{}, fmt.Errorf("decode SCRAM salt: %w", wire.ErrMalformed)
	}
	return scram.KeyFactors{Salt: string(salt), Iters: count}, nil
}

// verifier returns what the target must have of the password; the library has
// derived it already.
func (s *conversation) verifier() *scram.StoredCredentials {
	stored, err := s.keys.GetStoredCredentialsWithError(s.factors)
	if err != nil {
		return nil
	}
	return &stored
}

// SCRAMVerifier is what a target keeps of a password that was set under
// password_encryption scram-sha-256, as pg_authid has it.
func SCRAMVerifier(stored scram.StoredCredentials) string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", stored.Iters, encode([]byte(stored.Salt)), encode(stored.StoredKey), encode(stored.ServerKey))
}
