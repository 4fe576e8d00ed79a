package credential

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAClientCertificateComesWithItsKey(t *testing.T) {
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key")
	writeSecret(t, certificate, "the chain", 0o644)
	writeSecret(t, key, canary, 0o600)
	s := mustStore(t, nil, Spec{Name: "f", Username: "u", Certificate: certificate, Key: "file:" + key, Hosts: []string{"10.0.3.7:5432"}})
	c, err := s.For(t.Context(), "f", target)
	if err != nil {
		t.Fatal(err)
	}
	if string(c.Certificate) != "the chain" || string(c.Key.Reveal()) != canary || !c.Secret.IsZero() || c.Token {
		t.Errorf("got a certificate of %d bytes, a key of %d, a secret of %d", len(c.Certificate), len(c.Key.Reveal()), len(c.Secret.Reveal()))
	}
	writeSecret(t, key, canary, 0o604)
	if _, err := s.For(t.Context(), "f", target); err == nil || leaks(err.Error()) {
		t.Errorf("a key that everybody may read is used: %v", err)
	}
	writeSecret(t, key, canary, 0o600)
	writeSecret(t, certificate, "the chain", 0o646)
	if err := s.Check("f"); err == nil {
		t.Error("a certificate that everybody may write is used")
	}
}

func TestTokensAreMadeForTheNameOfTheDestination(t *testing.T) {
	var asked []string
	mint := func(ctx context.Context, region, endpoint, account string) ([]byte, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the making of a token is not bounded")
		}
		asked = append(asked, region, endpoint, account)
		return []byte(canary), nil
	}
	other := netip.MustParseAddrPort("10.0.3.8:5432")
	spec := Spec{
		Name: "f", Username: "u", From: "rds-iam:eu-central-1", Hosts: []string{"10.0.3.7:5432", "10.0.3.8:5432"},
		Endpoints: map[netip.AddrPort]string{target: "db.example:5432"},
	}
	s, err := New([]Spec{spec}, WithRDS(mint))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []netip.AddrPort{target, netip.MustParseAddrPort("[::ffff:10.0.3.7]:5432")} {
		asked = nil
		c, err := s.For(t.Context(), "f", at)
		if err != nil || !c.Token || string(c.Secret.Reveal()) != canary {
			t.Fatalf("got a token: %v, of %d bytes, %v", c.Token, len(c.Secret.Reveal()), err)
		}
		if diff := cmp.Diff([]string{"eu-central-1", "db.example:5432", "u"}, asked); diff != "" {
			t.Errorf("asked for (-want +got):\n%s", diff)
		}
	}
	asked = nil
	if _, err := s.For(t.Context(), "f", other); err == nil || !strings.Contains(err.Error(), "hosts") || asked != nil {
		t.Errorf("a token for an address without a name: %v, %v", asked, err)
	}
	if err := s.Check("f"); err != nil || asked != nil {
		t.Errorf("a check makes a token: %v, %v", asked, err)
	}
	cause := errors.New("no keys")
	s, err = New([]Spec{spec}, WithRDS(func(context.Context, string, string, string) ([]byte, error) { return nil, cause }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.For(t.Context(), "f", target); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestThePlaceholderIsNotTheSecret(t *testing.T) {
	spec := Spec{Name: "f", From: "env:X", Placeholder: "harmless", Hosts: []string{"10.0.3.7:5432"}}
	c, err := mustStore(t, map[string]string{"X": canary}, spec).For(t.Context(), "f", target)
	if err != nil || string(c.Placeholder.Reveal()) != "harmless" {
		t.Fatalf("got %v", err)
	}
	if _, err := mustStore(t, map[string]string{"X": "harmless"}, spec).For(t.Context(), "f", target); err == nil {
		t.Error("agents have the secret itself")
	}
}

func TestACredentialSaysHowItMayBeUsed(t *testing.T) {
	s := mustStore(t, map[string]string{"X": canary}, Spec{Name: "f", From: "env:X", Methods: []string{"scram-sha-256"}, Hosts: []string{"10.0.3.7:5432"}})
	c, err := s.For(t.Context(), "f", target)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"scram-sha-256"}, c.Methods); diff != "" {
		t.Errorf("methods (-want +got):\n%s", diff)
	}
}
