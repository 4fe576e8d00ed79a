package gateway

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/transparent"
)

// A host may trust headgate's authority for the sake of its agents. What it signs is
// for any name that an agent asks for, and says nothing of a target: an agent could
// lead our own connection into another one of ours.
func TestNoTargetIsVerifiedByOurOwnAuthority(t *testing.T) {
	dir := t.TempDir()
	own, err := certs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, verify := range []string{policy.TLSFull, policy.TLSChain} {
		for authority, good := range map[*certs.Authority]bool{own: false, other: true} {
			near, far := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				if secured, err := own.Handshake(t.Context(), far, certs.Terms{}); err == nil {
					// TLS 1.3: whether we are believed is seen by the next read.
					_, _ = secured.Read(make([]byte, 1))
				}
				_ = far.Close()
			}()
			s := &session{gateway: &Gateway{Options: Options{Authority: authority}}}
			s.Downstream = transparent.NewConn(far, transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432")})
			s.Resource = policy.Resource{TLS: policy.TLS{Verify: verify, CA: filepath.Join(dir, certs.CertificateFile), ServerName: "db.internal"}}
			conn, err := s.secure(t.Context(), near)
			if (err == nil) != good {
				t.Errorf("verify %s: got %v, want success: %t", verify, err, good)
			}
			if conn != nil {
				_ = near.Close()
			}
			<-done
		}
	}
}
