package login_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

const harmless = "harmless-placeholder"

// guarded is a credential for which agents have a placeholder.
func guarded() credential.Credential {
	c := account("app", password)
	c.Placeholder = credential.NewSecret([]byte(harmless))
	return c
}

// caller is an agent that logs in.
type caller struct {
	t      *testing.T
	conn   net.Conn
	reader *wire.Reader
	offers []string
	proven bool // whether the gate has proven that it knows the placeholder
}

// hear returns the data of the next request, or nothing at the end.
func (c *caller) hear(code uint32) (string, bool) {
	if _, _, err := c.reader.Next(); err != nil {
		return "", false
	}
	raw, err := c.reader.Raw(login.MaxMessage)
	if err != nil {
		c.t.Error(err)
		return "", false
	}
	got, data, err := wire.DecodeAuthentication(raw[5:])
	if err != nil || got != code {
		c.t.Errorf("got request %d, %v, want %d", got, err, code)
		return "", false
	}
	return string(data), true
}

func (c *caller) say(body string) {
	out, mark := wire.Begin(nil, wire.Password)
	_, _ = c.conn.Write(wire.Finish(append(out, body...), mark)) // the gate's error tells
}

func initial(mechanism, first string) string {
	return mechanism + "\x00" + string(binary.BigEndian.AppendUint32(nil, uint32(len(first)))) + first
}

// login plays SCRAM with talk; bend changes the agent's two messages.
func (c *caller) login(mechanism string, talk *scram.ClientConversation, bend func(first, final string) (string, string)) {
	offered, ok := c.hear(wire.AuthenticationSASL)
	if !ok {
		return
	}
	list, err := wire.DecodeMechanisms([]byte(offered))
	if err != nil {
		c.t.Error(err)
	}
	c.offers = list
	first, err := talk.Step("")
	if err != nil {
		c.t.Error(err)
	}
	bent, _ := bend(first, "")
	c.say(initial(mechanism, bent))
	challenge, ok := c.hear(wire.AuthenticationSASLCont)
	if !ok {
		return
	}
	final, err := talk.Step(challenge)
	if err != nil {
		c.t.Error(err)
	}
	_, final = bend(first, final)
	c.say(final)
	proof, ok := c.hear(wire.AuthenticationSASLFinal)
	if !ok {
		return
	}
	_, err = talk.Step(proof)
	c.proven = err == nil && talk.Valid()
}

// admit lets an agent log in at gate as play does it.
func admit(t *testing.T, gate *login.Gate, certificate []byte, play func(*caller)) (*caller, login.Admission, error) {
	t.Helper()
	near, far := net.Pipe()
	for _, conn := range []net.Conn{near, far} {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	c := &caller{t: t, conn: far, reader: wire.NewReader(far, nil)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		play(c)
		_ = far.Close()
	}()
	writer := wire.NewWriter(near)
	got, err := gate.Admit(login.Agent{Reader: wire.NewReader(near, login.AgentLimits), Writer: writer, Certificate: certificate}, guarded())
	if err == nil {
		err = writer.Flush()
	}
	_ = near.Close()
	<-done
	return c, got, err
}

func keys(t *testing.T, secret string) *scram.Client {
	t.Helper()
	k, err := scram.SHA256.NewClientUnprepped("app", secret, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func straight(first, final string) (string, string) { return first, final }

func TestThePlaceholderLetsIn(t *testing.T) {
	state := certified(t)
	leaf := state.PeerCertificates[0].Raw
	binding, err := scram.NewTLSServerEndpointBinding(state)
	if err != nil {
		t.Fatal(err)
	}
	gate := login.NewGate()
	for name, test := range map[string]struct {
		certificate []byte
		mechanism   string
		talk        *scram.ClientConversation
		offers      int
		want        login.Method
	}{
		"without TLS":                         {nil, "SCRAM-SHA-256", keys(t, harmless).NewConversation(), 1, login.SCRAM},
		"by an agent that could bind":         {nil, "SCRAM-SHA-256", keys(t, harmless).NewConversationAdvertisingChannelBinding(), 1, login.SCRAM},
		"over TLS, by an agent that does not": {leaf, "SCRAM-SHA-256", keys(t, harmless).NewConversation(), 2, login.SCRAM},
		"over TLS, bound":                     {leaf, "SCRAM-SHA-256-PLUS", keys(t, harmless).NewConversationWithChannelBinding(binding), 2, login.SCRAMPlus},
	} {
		t.Run(name, func(t *testing.T) {
			c, got, err := admit(t, gate, test.certificate, func(c *caller) { c.login(test.mechanism, test.talk, straight) })
			if err != nil || got.Method != test.want || got.HoldsSecret || !c.proven || len(c.offers) != test.offers {
				t.Errorf("got %+v, %v; offered %q, proven %v", got, err, c.offers, c.proven)
			}
		})
	}
}

func TestWhatIsNotThePlaceholderIsRefused(t *testing.T) {
	gate := login.NewGate()
	for name, test := range map[string]struct {
		secret string
		holds  bool
	}{
		"another password": {"hunter2", false},
		"no password":      {"", false},
		"the secret":       {password, true},
	} {
		c, got, err := admit(t, gate, nil, func(c *caller) { c.login("SCRAM-SHA-256", keys(t, test.secret).NewConversation(), straight) })
		if !errors.Is(err, login.ErrPassword) || got.HoldsSecret != test.holds || c.proven {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), harmless) {
			t.Errorf("%s: the error says too much: %v", name, err)
		}
	}
}

func TestAnAgentThatWasToldOtherThingsIsRefused(t *testing.T) {
	state, other := certified(t), certified(t)
	leaf := state.PeerCertificates[0].Raw
	binding, err := scram.NewTLSServerEndpointBinding(state)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := scram.NewTLSServerEndpointBinding(other)
	if err != nil {
		t.Fatal(err)
	}
	const plain, plus = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
	gate := login.NewGate()
	for name, test := range map[string]struct {
		certificate []byte
		mechanism   string
		talk        *scram.ClientConversation
		bend        func(first, final string) (string, string)
		want        error
	}{
		"the offer of a binding was taken away":         {leaf, plain, keys(t, harmless).NewConversationAdvertisingChannelBinding(), straight, login.ErrBinding},
		"another certificate was shown":                 {leaf, plus, keys(t, harmless).NewConversationWithChannelBinding(wrong), straight, login.ErrBinding},
		"a binding where none was offered":              {nil, plus, keys(t, harmless).NewConversationWithChannelBinding(binding), straight, login.ErrBinding},
		"a binding under the name of the other":         {leaf, plain, keys(t, harmless).NewConversationWithChannelBinding(binding), straight, login.ErrBinding},
		"no binding under the name of one":              {leaf, plus, keys(t, harmless).NewConversation(), straight, login.ErrBinding},
		"another kind of binding":                       {leaf, plus, keys(t, harmless).NewConversationWithChannelBinding(scram.NewTLSUniqueBinding([]byte("x"))), straight, login.ErrBinding},
		"a mechanism of another kind":                   {nil, "PLAIN", keys(t, harmless).NewConversation(), straight, login.ErrBinding},
		"a header that is not the one it began with":    {nil, plain, keys(t, harmless).NewConversation(), func(first, final string) (string, string) { return "y" + first[1:], final }, login.ErrBinding},
		"a nonce that is not the one it began with":     {nil, plain, keys(t, harmless).NewConversation(), func(first, final string) (string, string) { return first, strings.Replace(final, ",r=", ",r=x", 1) }, wire.ErrMalformed},
		"a proof that is none":                          {nil, plain, keys(t, harmless).NewConversation(), func(first, final string) (string, string) { return first, final[:max(0, len(final)-4)] }, wire.ErrMalformed},
		"a first message that is none":                  {nil, plain, keys(t, harmless).NewConversation(), func(_, final string) (string, string) { return "hello", final }, wire.ErrMalformed},
		"a first message that is larger than it may be": {nil, plain, keys(t, harmless).NewConversation(), func(first, final string) (string, string) { return first + strings.Repeat("x", 5000), final }, wire.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			c, got, err := admit(t, gate, test.certificate, func(c *caller) { c.login(test.mechanism, test.talk, test.bend) })
			if !errors.Is(err, test.want) || got.HoldsSecret || c.proven {
				t.Errorf("got %+v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestSaltsAndNoncesAreNotGivenOutTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		gate := login.NewGate()
		salts := map[string]bool{}
		for range 2 {
			_, _, err := admit(t, gate, nil, func(c *caller) {
				if _, ok := c.hear(wire.AuthenticationSASL); !ok {
					return
				}
				c.say(initial("SCRAM-SHA-256", "n,,n=,r=same"))
				challenge, _ := c.hear(wire.AuthenticationSASLCont)
				nonce, rest, _ := strings.Cut(challenge, ",")
				if seen[nonce] || len(nonce) < len("r=same")+20 {
					t.Errorf("nonce %s", nonce)
				}
				seen[nonce] = true
				salts[rest] = true
			})
			if !errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		}
		for salt := range salts {
			if len(salts) != 1 || seen[salt] {
				t.Errorf("salts of one gate: %v", salts)
			}
			seen[salt] = true
		}
	}
}

func TestAZeroGateLetsNobodyIn(t *testing.T) {
	for _, gate := range []*login.Gate{nil, {}} {
		if _, _, err := admit(t, gate, nil, func(*caller) {}); err == nil {
			t.Error("let in")
		}
	}
	var out bytes.Buffer
	a := login.Agent{Reader: wire.NewReader(strings.NewReader(""), login.AgentLimits), Writer: wire.NewWriter(&out)}
	if _, err := login.NewGate().Admit(a, account("app", password)); err == nil || out.Len() > 0 {
		t.Errorf("without a placeholder: %v, said %q", err, out.String())
	}
}

func FuzzAdmit(f *testing.F) {
	gate := login.NewGate()
	message := func(body string) []byte {
		out, mark := wire.Begin(nil, wire.Password)
		return wire.Finish(append(out, body...), mark)
	}
	first := message(initial("SCRAM-SHA-256", "n,,n=app,r=abc"))
	f.Add(first)
	f.Add(append(first, message("c=biws,r=abc,p=AAAA")...))
	f.Add(message(initial("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=abc")))
	f.Add(message(initial("SCRAM-SHA-256", "y,a=x,n==2C,r=abc")))
	f.Add(message("SCRAM-SHA-256\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, said []byte) {
		a := login.Agent{Reader: wire.NewReader(bytes.NewReader(said), login.AgentLimits), Writer: wire.NewWriter(io.Discard)}
		if got, err := gate.Admit(a, guarded()); err == nil || got.HoldsSecret {
			t.Fatalf("let in by %q, without knowing our nonce", said)
		}
	})
}
