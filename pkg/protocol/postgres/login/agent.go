package login

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/xdg-go/scram"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// maxAnswer bounds what an agent may say in one message of its login.
const maxAnswer = 4 << 10

// iterations is what agents are asked for: PostgreSQL's own, and the least that
// RFC 7677 allows. More would protect nothing, since a placeholder is no secret.
const iterations = 4096

// maxPlaceholders bounds what a [Gate] remembers. Beyond it each login is computed.
const maxPlaceholders = 256

// Why an agent was not let in.
var (
	// ErrPassword means that the agent knows another password than the
	// placeholder.
	ErrPassword = errors.New("password is not the placeholder")
	// ErrBinding means that the agent and we see different certificates, or
	// different offers: what somebody in between would cause.
	ErrBinding = errors.New("channel binding does not agree")
)

// AgentLimits are the messages that an agent may send while it logs in.
func AgentLimits(typ byte) (limit int, known bool) { return maxAnswer, typ == wire.Password }

// Gate asks agents for the placeholder: it is SCRAM's server. Its zero value asks
// for nothing that anybody could know; use [NewGate]. It is safe for concurrent use.
type Gate struct {
	salt string

	mu    sync.Mutex
	known map[string]scram.StoredCredentials
}

// NewGate returns a Gate with a salt of its own.
func NewGate() *Gate {
	return &Gate{salt: random(16), known: make(map[string]scram.StoredCredentials)}
}

func random(n int) string {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err)) // documented never to happen
	}
	return string(b)
}

// Agent is the agent's side of a session that was sent nothing since its
// StartupMessage.
type Agent struct {
	// Reader reads what the agent says, within [AgentLimits].
	Reader *wire.Reader
	// Writer takes what it is told, and is flushed before its answer is awaited.
	Writer *wire.Writer
	// Certificate is, in DER, the one that the agent was shown in TLS; nil without.
	Certificate []byte
}

// Admission tells how an agent's login went.
type Admission struct {
	// Method is [SCRAM] or [SCRAMPlus].
	Method Method
	// HoldsSecret says that the agent does not know the placeholder, but has proven
	// that it knows the secret in whose stead it should have it.
	HoldsSecret bool
}

// Admit lets the agent in if it proves that it knows the credential's placeholder,
// and proves to it that we do. It ends in front of AuthenticationOk, which is up to
// the caller. Errors wrap [ErrPassword] or [ErrBinding] where that is why, and
// [wire.ErrMalformed]. The agent was not told then. What it is told must not depend
// on HoldsSecret: it could guess.
func (g *Gate) Admit(a Agent, c credential.Credential) (Admission, error) {
	talk, err := g.begin(a, c)
	if err != nil {
		return Admission{}, fmt.Errorf("admit agent: %w", err)
	}
	admission, err := talk.run()
	if err != nil {
		return admission, fmt.Errorf("admit agent: %w", err)
	}
	return admission, nil
}

// admission is one login of an agent.
type admission struct {
	Agent
	gate    *Gate
	c       credential.Credential
	nonce   string
	binding scram.ChannelBinding
	bound   bool // whether there is one
	talk    *scram.ServerConversation
	outcome Admission
}

func (g *Gate) begin(a Agent, c credential.Credential) (*admission, error) {
	if g == nil || g.known == nil || c.Placeholder.IsZero() {
		return nil, errors.New("there is no placeholder")
	}
	t := &admission{Agent: a, gate: g, c: c, nonce: base64.StdEncoding.EncodeToString([]byte(random(18)))}
	if len(a.Certificate) > 0 {
		leaf, err := x509.ParseCertificate(a.Certificate)
		if err != nil {
			return nil, fmt.Errorf("read our certificate: %w", err)
		}
		t.binding, t.bound = endpoint(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
	}
	stored, err := g.verifier(c.Placeholder)
	if err != nil {
		return nil, err
	}
	t.talk, err = t.conversation(stored)
	return t, err
}

// verifier returns what the gate keeps of a placeholder.
func (g *Gate) verifier(placeholder credential.Secret) (scram.StoredCredentials, error) {
	key := string(placeholder.Reveal())
	g.mu.Lock()
	stored, ok := g.known[key]
	g.mu.Unlock()
	if ok {
		return stored, nil
	}
	stored, err := g.derive(placeholder)
	if err != nil {
		return stored, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) < maxPlaceholders {
		g.known[key] = stored
	}
	return stored, nil
}

func (g *Gate) derive(password credential.Secret) (scram.StoredCredentials, error) {
	keys, err := newKeys(password)
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return keys.GetStoredCredentialsWithError(scram.KeyFactors{Salt: g.salt, Iters: iterations})
}

// conversation is one with whoever knows what stored was derived from. All of one
// login say the same until the proof, which tells them apart.
func (t *admission) conversation(stored scram.StoredCredentials) (*scram.ServerConversation, error) {
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
	if err != nil {
		return nil, fmt.Errorf("begin SCRAM: %w", err)
	}
	server = server.WithNonceGenerator(func() string { return t.nonce })
	if t.bound {
		return server.NewConversationWithChannelBinding(t.binding), nil
	}
	return server.NewConversation(), nil
}

func (t *admission) run() (Admission, error) {
	offer := mechanism + "\x00\x00"
	if t.bound {
		offer = mechanismPlus + "\x00" + offer
	}
	if err := t.tell(wire.AuthenticationSASL, offer); err != nil {
		return t.outcome, err
	}
	first, err := t.first()
	if err != nil {
		return t.outcome, err
	}
	challenge, err := t.talk.Step(first)
	if err != nil {
		return t.outcome, refused(challenge)
	}
	if err := t.tell(wire.AuthenticationSASLCont, challenge); err != nil {
		return t.outcome, err
	}
	final, err := t.hear()
	if err != nil {
		return t.outcome, err
	}
	proof, err := t.talk.Step(string(final))
	if err != nil || !t.talk.Valid() {
		if err := refused(proof); !errors.Is(err, ErrPassword) {
			return t.outcome, err
		}
		return t.suspect(first, string(final))
	}
	return t.outcome, t.say(wire.AuthenticationSASLFinal, proof)
}

// suspect finds out whether the agent, which does not know the placeholder, knows
// the secret. It takes as long either way.
func (t *admission) suspect(first, final string) (Admission, error) {
	if t.c.Secret.IsZero() || t.c.Token {
		return t.outcome, ErrPassword
	}
	stored, err := t.gate.derive(t.c.Secret)
	if err != nil {
		return t.outcome, fmt.Errorf("%w: %w", ErrPassword, err)
	}
	again, err := t.conversation(stored)
	if err != nil {
		return t.outcome, fmt.Errorf("%w: %w", ErrPassword, err)
	}
	if _, err = again.Step(first); err == nil {
		_, err = again.Step(final)
	}
	t.outcome.HoldsSecret = err == nil && again.Valid()
	return t.outcome, ErrPassword
}

// refused sorts what the library answers, RFC 5802 section 7.
func refused(answer string) error {
	switch answer {
	case scram.ErrInvalidProof:
		return ErrPassword
	case scram.ErrChannelBindingsDontMatch, scram.ErrServerDoesSupportChannelBinding,
		scram.ErrChannelBindingNotSupported, scram.ErrUnsupportedChannelBindingType:
		return ErrBinding
	default:
		return fmt.Errorf("SCRAM: %w", wire.ErrMalformed)
	}
}

// first reads the agent's choice and its first message.
func (t *admission) first() (string, error) {
	body, err := t.hear()
	if err != nil {
		return "", err
	}
	name, data, err := wire.DecodeSASLInitial(body)
	if err != nil {
		return "", err
	}
	// The library does not know which mechanism was chosen, and the header has to
	// agree with it.
	binds := strings.HasPrefix(string(data), "p=")
	switch {
	case name == mechanism && !binds:
		t.outcome.Method = SCRAM
	case name == mechanismPlus && t.bound && binds:
		t.outcome.Method = SCRAMPlus
	default:
		return "", ErrBinding
	}
	return string(data), nil
}

// hear reads one message of the agent's.
func (t *admission) hear() ([]byte, error) {
	if _, _, err := t.Reader.Next(); err != nil {
		return nil, err
	}
	raw, err := t.Reader.Raw(maxAnswer)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), raw[5:]...), nil
}

// tell sends a request to which the agent has to answer.
func (t *admission) tell(code uint32, data string) error {
	if err := t.say(code, data); err != nil {
		return err
	}
	if err := t.Writer.Flush(); err != nil {
		return fmt.Errorf("write messages: %w", err)
	}
	return nil
}

func (t *admission) say(code uint32, data string) error {
	out, mark := wire.Begin(nil, wire.Authentication)
	out = append(binary.BigEndian.AppendUint32(out, code), data...)
	if _, err := t.Writer.Write(wire.Finish(out, mark)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}
