package login_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
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

// hostile is a target that says what a test makes it say.
type hostile struct {
	conn  net.Conn
	heard []string // what it was told
}

func (h *hostile) ask(code uint32, data string) {
	out, mark := wire.Begin(nil, wire.Authentication)
	out = wire.Finish(append(binary.BigEndian.AppendUint32(out, code), data...), mark)
	_, _ = h.conn.Write(out) // the other end tells what came of it
}

// listen reads one answer.
func (h *hostile) listen() string {
	var head [5]byte
	if _, err := io.ReadFull(h.conn, head[:]); err != nil {
		return ""
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	if _, err := io.ReadFull(h.conn, body); err != nil {
		return ""
	}
	h.heard = append(h.heard, string(body))
	return string(body)
}

// first returns the mechanism and the message of a SASLInitialResponse.
func (h *hostile) first() (name, message string) {
	name, rest, _ := strings.Cut(h.listen(), "\x00")
	if len(rest) < 4 {
		return name, ""
	}
	return name, rest[4:]
}

// against logs in at a target that does what play says.
func against(t *testing.T, c credential.Credential, state *tls.ConnectionState, play func(*hostile)) (login.Outcome, []string, error) {
	t.Helper()
	near, far := net.Pipe()
	for _, conn := range []net.Conn{near, far} {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	h := &hostile{conn: far}
	done := make(chan struct{})
	go func() {
		defer close(done)
		play(h)
		_ = far.Close()
	}()
	conn := login.NewConn(near, "")
	if state != nil {
		conn.TLS, conn.Verify = state, "full"
	}
	outcome, err := login.Upstream(testContext(t), conn, c)
	_ = near.Close()
	<-done
	for _, heard := range h.heard {
		if strings.Contains(heard, password) {
			t.Error("the target was told the password")
		}
	}
	return outcome, h.heard, err
}

// certified is the state of TLS with a target that has a certificate.
func certified(t *testing.T) *tls.ConnectionState {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := newIssuer(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, _, err := ca.issue(&x509.Certificate{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
}

const (
	plainSCRAM = "SCRAM-SHA-256\x00\x00"
	bothSCRAM  = "SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"
)

// serve plays a real server's SCRAM with the password.
func serve(h *hostile, mechanisms string) {
	keys, err := scram.SHA256.NewClientUnprepped("", password, "")
	if err != nil {
		panic(err)
	}
	stored, err := keys.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	if err != nil {
		panic(err)
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
	if err != nil {
		panic(err)
	}
	talk := server.NewConversation()
	h.ask(wire.AuthenticationSASL, mechanisms)
	_, first := h.first()
	challenge, err := talk.Step(first)
	if err != nil {
		return
	}
	h.ask(wire.AuthenticationSASLCont, challenge)
	proof, err := talk.Step(h.listen())
	if err != nil {
		return
	}
	h.ask(wire.AuthenticationSASLFinal, proof)
	h.ask(wire.AuthenticationOk, "")
}

func TestAnHonestTargetIsBelieved(t *testing.T) {
	outcome, _, err := against(t, account("app", password), nil, func(h *hostile) { serve(h, plainSCRAM) })
	if err != nil || outcome.Method != login.SCRAM || outcome.Verifier == nil {
		t.Errorf("got %v, %v", outcome.Method, err)
	}
}

func TestATargetThatWasRobbedOfItsBindingIsTold(t *testing.T) {
	var header string
	_, _, err := against(t, account("app", password), certified(t), func(h *hostile) {
		h.ask(wire.AuthenticationSASL, plainSCRAM)
		_, first := h.first()
		header, _, _ = strings.Cut(first, "n=")
	})
	if header != "y,," || err == nil {
		t.Errorf("the header is %q, %v", header, err)
	}
	_, heard, err := against(t, account("app", password, "scram-sha-256-plus"), certified(t), func(h *hostile) {
		h.ask(wire.AuthenticationSASL, plainSCRAM)
		h.listen()
	})
	if !errors.Is(err, login.ErrMethod) || len(heard) > 0 {
		t.Errorf("where the binding is demanded: told %q, %v", heard, err)
	}
}

func TestTheBindingIsPreferred(t *testing.T) {
	var name, first string
	_, _, err := against(t, account("app", password), certified(t), func(h *hostile) {
		h.ask(wire.AuthenticationSASL, bothSCRAM)
		name, first = h.first()
	})
	if name != "SCRAM-SHA-256-PLUS" || !strings.HasPrefix(first, "p=tls-server-end-point,,") || err == nil {
		t.Errorf("chose %q, %q, %v", name, first, err)
	}
	_, heard, err := against(t, account("app", password), nil, func(h *hostile) {
		h.ask(wire.AuthenticationSASL, bothSCRAM)
		h.listen()
	})
	if !errors.Is(err, login.ErrMethod) || len(heard) > 0 {
		t.Errorf("offered without TLS: told %q, %v", heard, err)
	}
}

func TestHostileTargetsGetNothing(t *testing.T) {
	challenge := func(h *hostile, format string) {
		h.ask(wire.AuthenticationSASL, plainSCRAM)
		_, first := h.first()
		_, nonce, _ := strings.Cut(first, ",r=")
		h.ask(wire.AuthenticationSASLCont, fmt.Sprintf(format, nonce))
	}
	for name, play := range map[string]func(*hostile){
		"lets us in before it has proven anything": func(h *hostile) {
			h.ask(wire.AuthenticationSASL, plainSCRAM)
			h.listen()
			h.ask(wire.AuthenticationOk, "")
		},
		"lets us in without its proof": func(h *hostile) {
			challenge(h, "r=%sx,s=c2FsdA==,i=4096")
			h.listen()
			h.ask(wire.AuthenticationOk, "")
		},
		"makes a proof up": func(h *hostile) {
			challenge(h, "r=%sx,s=c2FsdA==,i=4096")
			h.listen()
			h.ask(wire.AuthenticationSASLFinal, "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
			h.ask(wire.AuthenticationOk, "")
		},
		"asks for the password after SCRAM": func(h *hostile) {
			challenge(h, "r=%sx,s=c2FsdA==,i=4096")
			h.listen()
			h.ask(wire.AuthenticationCleartext, "")
			h.listen()
		},
		"asks for md5 after SCRAM has begun": func(h *hostile) {
			h.ask(wire.AuthenticationSASL, plainSCRAM)
			h.listen()
			h.ask(wire.AuthenticationMD5, "salt")
			h.listen()
		},
		"asks for the password in the clear": func(h *hostile) {
			h.ask(wire.AuthenticationCleartext, "")
			h.listen()
		},
		"asks twice": func(h *hostile) {
			h.ask(wire.AuthenticationMD5, "salt")
			h.listen()
			h.ask(wire.AuthenticationMD5, "tlas")
			h.listen()
			h.ask(wire.AuthenticationOk, "")
		},
		"demands the work of years":  func(h *hostile) { challenge(h, "r=%sx,s=c2FsdA==,i=2000000000"); h.listen() },
		"makes guessing cheap":       func(h *hostile) { challenge(h, "r=%sx,s=c2FsdA==,i=1"); h.listen() },
		"has a nonce of its own":     func(h *hostile) { challenge(h, "r=mine,s=c2FsdA==,i=4096"); h.listen() },
		"ends SCRAM before it began": func(h *hostile) { h.ask(wire.AuthenticationSASLFinal, "v=AAAA") },
		"goes on without beginning":  func(h *hostile) { h.ask(wire.AuthenticationSASLCont, "r=x,s=c2FsdA==,i=4096") },
		"ends SCRAM at once": func(h *hostile) {
			h.ask(wire.AuthenticationSASL, plainSCRAM)
			h.listen()
			h.ask(wire.AuthenticationSASLFinal, "r=x,s=c2FsdA==,i=4096")
			h.ask(wire.AuthenticationOk, "")
		},
		"offers what nobody speaks": func(h *hostile) { h.ask(wire.AuthenticationSASL, "PLAIN\x00\x00"); h.listen() },
		"offers nothing":            func(h *hostile) { h.ask(wire.AuthenticationSASL, "\x00"); h.listen() },
		"asks for a ticket":         func(h *hostile) { h.ask(7, ""); h.listen() },
		"has a salt of one byte":    func(h *hostile) { h.ask(wire.AuthenticationMD5, "x"); h.listen() },
		"says something else":       func(h *hostile) { _, _ = h.conn.Write([]byte("Z\x00\x00\x00\x05I")) },
		"is gone":                   func(*hostile) {},
		"tells a story in its error": func(h *hostile) {
			out, mark := wire.Begin(nil, wire.ErrorResponse)
			_, _ = h.conn.Write(wire.Finish(append(out, "SFATAL\x00C28000: no pg_hba.conf entry for host \"10.1.2.3\"\x00\x00"...), mark))
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := against(t, account("app", password), nil, play)
			if err == nil {
				t.Fatal("let in")
			}
			if strings.Contains(err.Error(), "10.1.2.3") || strings.Contains(err.Error(), password) {
				t.Errorf("the error says too much: %v", err)
			}
		})
	}
}

func FuzzUpstream(f *testing.F) {
	for _, seed := range []string{
		"R\x00\x00\x00\x08\x00\x00\x00\x00", "R\x00\x00\x00\x0c\x00\x00\x00\x05salt", "E\x00\x00\x00\x05\x00",
		"R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00R\x00\x00\x00\x1c\x00\x00\x00\x0br=x,s=c2FsdA==,i=4096",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, said []byte, verified bool) {
		c := &login.Conn{Reader: wire.NewReader(strings.NewReader(string(said)), login.Limits), Writer: io.Discard}
		if verified {
			c.Verify = "full"
		}
		outcome, err := login.Upstream(t.Context(), c, account("app", password, "scram-sha-256"))
		if err == nil {
			t.Fatalf("let in by %q with %s, without a proof", said, outcome.Method)
		}
	})
}
