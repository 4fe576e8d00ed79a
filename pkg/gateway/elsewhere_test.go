package gateway

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/transparent"
)

// An agent can make a network namespace (user namespaces), give its loopback the
// target's address and answer there itself: we dial from where it is.
func TestWithoutVerifiedTLSNoCredentialGoesToAnAddressInANamespaceOfTheAgents(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hunter22"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := credential.New([]credential.Spec{{Name: "app", Username: "app", From: "file:" + secret, Hosts: []string{"192.0.2.1:5432"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{gateway: &Gateway{Options: Options{Credentials: store}}}
	s.Downstream = transparent.NewConn(nil, transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432"), Netns: 4026})
	s.Resource = policy.Resource{Credential: "app", TLS: policy.TLS{Verify: policy.TLSOff}}
	if _, ok, err := s.credential(t.Context()); ok || err == nil {
		t.Errorf("the credential is revealed for a server that may be the agent's own: %v", err)
	}
}
