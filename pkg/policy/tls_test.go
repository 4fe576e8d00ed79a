package policy

import (
	"strings"
	"testing"
)

// Anybody can have a certificate of a public authority, so that without the name it
// says nothing: libpq refuses that combination as well.
func TestAChainAloneIsOnlyVerifiedToAnAuthorityThatIsNamed(t *testing.T) {
	for tls, good := range map[string]bool{
		"verify: ca": false, "verify: ca, ca: system": false, "verify: ca, server_name: db.internal": false,
		"verify: ca, ca: /etc/db.pem": true, "verify: full": true, "verify: full, ca: system": true,
	} {
		_, err := Parse("p.yaml", []byte("version: 1\nresources:\n  - {name: r, protocol: p, hosts: [\"192.0.2.1:5432\"], tls: {"+tls+"}}\n"))
		if (err == nil) != good || !good && !strings.Contains(err.Error(), "needs a ca of your own") {
			t.Errorf("tls: {%s}: %v", tls, err)
		}
	}
}
