package suggest

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
)

// enforced compiles what is suggested, so that it decides.
func enforced(t *testing.T, list []policy.Observation) (*policy.Engine, string) {
	t.Helper()
	text := strings.Replace(suggested(t, list), "{mode: observe", "{mode: enforce", 1)
	f, err := policy.Parse("suggested.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	e, err := policy.Compile(1, f)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return e, text
}

func TestEachAgentMayAskForTheNamesThatItAskedFor(t *testing.T) {
	const server = "10.0.0.53:53"
	deep := asks(by(1, "other", server, ""), "a.b.cdn.example.com")
	text := asks(by(1, "ci", server, ""), "text.example.org")
	text.Request.Operation.Verb, text.Request.Operation.Effects = "text", []string{"text"}
	list := []policy.Observation{
		asks(by(1, "ci", server, ""), "one.example.org"), asks(by(1, "ci", server, ""), "both.example.org"),
		asks(by(1, "other", server, ""), "both.example.org"), asks(by(1, "other", server, ""), "two.example.org"), deep, text,
		// To this one both connect, and only one is seen to ask for it.
		saw(by(2, "ci", "10.0.3.7:443", "db.example.net"), "tls", "", "tls"), saw(by(2, "other", "10.0.3.7:443", "db.example.net"), "tls", "", "tls"),
		asks(by(2, "ci", server, ""), "db.example.net"), asks(by(2, "third", server, ""), "db.example.net"),
	}
	for _, name := range []string{"a.cdn.example.com", "b.cdn.example.com", "c.cdn.example.com", "a.co.uk", "b.co.uk", "c.co.uk"} {
		list = append(list, asks(by(1, "ci", server, ""), name))
	}
	e, written := enforced(t, list)
	for i := range list {
		if d := e.Decide(&list[i].Request); d.Verdict != policy.Allow {
			t.Errorf("%s of %s: %+v\n%s", list[i].Request.Operation.Text, list[i].Request.Agent, d, written)
		}
	}
	for _, wrong := range []policy.Observation{
		asks(by(3, "ci", server, ""), "two.example.org"), asks(by(3, "other", server, ""), "one.example.org"),
		asks(by(3, "other", server, ""), "a.cdn.example.com"), asks(by(3, "ci", server, ""), "text.example.org"),
		asks(by(3, "ci", server, ""), "d.co.uk"), asks(by(3, "ci", server, ""), "d.cdn.example.com"),
	} {
		if d := e.Decide(&wrong.Request); d.Verdict != policy.Deny {
			t.Errorf("%s of %s: %+v\n%s", wrong.Request.Operation.Text, wrong.Request.Agent, d, written)
		}
	}
}

func TestOnePlainSessionTakesNobodysEncryption(t *testing.T) {
	const target = "10.0.3.7:5432"
	plain := []policy.Observation{saw(by(0, "ci", target, ""), "postgres", "", policy.Connect), saw(by(0, "ci", target, ""), "postgres", "", "select")}
	sealed := saw(by(1, "ci", target, ""), "postgres", "", policy.Connect)
	plain[0].Session, plain[1].Session, sealed.Session = "a", "a", "b"
	if text := suggested(t, plain); !strings.Contains(text, `hosts: ["10.0.3.7:5432"], tls: {verify: "off"}}`) {
		t.Errorf("all of it was plain, and it will be refused:\n%s", text)
	}
	text := suggested(t, append(plain, sealed))
	if strings.Contains(text, `hosts: ["10.0.3.7:5432"], tls`) || !strings.Contains(text, "in 1 of 2 sessions") {
		t.Errorf("one session of two was plain:\n%s", text)
	}
}

func TestHowMuchOfARuleWasRefusedIsSaid(t *testing.T) {
	refused := saw(by(0, "ci", "10.0.3.7:5432", ""), "postgres", "", "select")
	refused.Verdict, refused.Mode, refused.Reason = policy.Deny, policy.Enforce, policy.ReasonUnmatched
	text := suggested(t, []policy.Observation{refused, saw(by(1, "ci", "10.0.3.7:5432", ""), "postgres", "", "select")})
	if !strings.Contains(text, "# 1 of them were refused") {
		t.Errorf("got\n%s", text)
	}
}
