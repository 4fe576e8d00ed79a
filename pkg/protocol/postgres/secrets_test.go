package postgres

import (
	"bytes"
	"errors"
	"testing"

	"github.com/jackc/pgproto3/v2"
	"github.com/xdg-go/scram"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

func keeper(secret string, found func(protocol.FindingKind) error) *secrets {
	return newSecrets(nil, credential.Credential{Name: "n", Username: "u", Secret: credential.NewSecret([]byte(secret))}, login.Outcome{}, found)
}

func described(columns ...wire.Column) *request { return &request{result: newResult(columns)} }

func TestOnlyWhatCouldHoldASecretIsLookedInto(t *testing.T) {
	const text, int8, uuid, user, system = 25, 20, 2950, 16384, 1260
	s, number := keeper("a secret of words", nil), keeper("12345678", nil)
	for name, test := range map[string]struct {
		columns      []wire.Column
		words, digit bool
	}{
		"a user's text":           {[]wire.Column{{Table: user, Type: text}}, false, false},
		"a computed text":         {[]wire.Column{{Type: text}}, true, true},
		"a catalog's text":        {[]wire.Column{{Table: system, Type: text}}, true, true},
		"a computed number":       {[]wire.Column{{Type: int8}}, false, true},
		"a user's number":         {[]wire.Column{{Table: user, Type: int8}}, false, false},
		"a computed uuid":         {[]wire.Column{{Type: uuid}}, true, true},
		"nothing":                 {[]wire.Column{}, false, false},
		"a user's and a computed": {[]wire.Column{{Table: user, Type: text}, {Type: text}}, true, true},
	} {
		if got := s.sieve(described(test.columns...)) != nil; got != test.words {
			t.Errorf("%s: %v for words", name, got)
		}
		if got := number.sieve(described(test.columns...)) != nil; got != test.digit {
			t.Errorf("%s: %v for digits", name, got)
		}
	}
	if s.sieve(&request{}) == nil {
		t.Error("a result that nobody described is not looked into")
	}
	var none *secrets
	if none.sieve(&request{}) != nil || none.message(wire.ErrorResponse, []byte("E\x00\x00\x00\x04")) != nil || none.holds([]byte("x")) {
		t.Error("without a secret something is looked into")
	}
}

func TestWhatCannotBeRecordedEndsTheSession(t *testing.T) {
	broken := errors.New("no room")
	s := keeper("the-secret", func(protocol.FindingKind) error { return broken })
	raw := encode(nil, &pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: "it is the-secret"})
	if err := s.message(wire.ErrorResponse, raw); !errors.Is(err, broken) || bytes.Contains(raw, []byte("the-secret")) {
		t.Errorf("got %v, %q", err, raw)
	}
	s = keeper("the-secret", func(protocol.FindingKind) error { return broken })
	if !s.holds([]byte("the-secret")) || !errors.Is(s.trouble(), broken) {
		t.Error("trouble is forgotten")
	}
}

func TestAShortSecretIsHiddenAsAWholeText(t *testing.T) {
	s := keeper("app", func(protocol.FindingKind) error { return nil })
	raw := encode(nil, &pgproto3.ParameterStatus{Name: "application_name", Value: "app"})
	if err := s.message(wire.ParameterStatus, raw); err != nil || !bytes.Contains(raw, []byte("application_name\x00***\x00")) {
		t.Errorf("%q, %v", raw, err)
	}
}

func FuzzSecrets(f *testing.F) {
	f.Add([]byte("the-secret"), []byte("before the-secret behind"), []byte(nil), true)
	f.Add([]byte("0"), []byte("000"), []byte(nil), true)
	f.Fuzz(func(t *testing.T, secret, a, b []byte, known bool) {
		if len(secret) == 0 {
			return
		}
		s := keeper(string(secret), func(protocol.FindingKind) error { return nil })
		row := encode(nil, &pgproto3.DataRow{Values: [][]byte{a, nil, b}})
		r := &request{}
		if known {
			r = described(wire.Column{Type: 25}, wire.Column{Type: 3802}, wire.Column{Type: 3802})
		}
		v := s.sieve(r)
		if v == nil {
			return
		}
		out, hidden, err := s.row(v, row)
		if err != nil {
			t.Fatal(err)
		}
		got, n, err := wire.DecodeDataRow(out[5:])
		if err != nil || n != 3 {
			t.Fatalf("%d columns, %v", n, err)
		}
		for _, value := range [][]byte{a, nil, b} {
			shown := got.Next()
			if s.traces.Find(value) == bytes.Equal(shown, value) && value != nil {
				t.Fatalf("%q became %q", value, shown)
			}
		}
		if got.Err() != nil || (hidden > 0) == bytes.Equal(out, row) {
			t.Fatalf("%d hidden, %v", hidden, got.Err())
		}
	})
}

func BenchmarkSift(b *testing.B) {
	s := keeper("agent-password-93XvTz", func(protocol.FindingKind) error { return nil })
	values := [][]byte{[]byte("Ada Lovelace"), []byte("ada@example.com"), []byte("4111 1111 1111 1111"), []byte("123-45-6789"), []byte("12.50")}
	raw := encode(nil, &pgproto3.DataRow{Values: values})
	v := s.sieve(described(wire.Column{Type: 25}, wire.Column{Type: 25}, wire.Column{Type: 25}, wire.Column{Type: 25}, wire.Column{Type: 1700}))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, hidden, err := s.row(v, raw); hidden != 0 || err != nil {
			b.Fatal(hidden, err)
		}
	}
}

func BenchmarkNewSecrets(b *testing.B) {
	b.ReportAllocs()
	secret := credential.Credential{Name: "n", Username: "u", Secret: credential.NewSecret([]byte("agent-password-93XvTz"))}
	outcome := login.Outcome{Verifier: &scram.StoredCredentials{StoredKey: make([]byte, 32), ServerKey: bytes.Repeat([]byte("x"), 32)}}
	for b.Loop() {
		if newSecrets(nil, secret, outcome, nil) == nil {
			b.Fatal("nothing")
		}
	}
}
