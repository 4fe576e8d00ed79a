package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// errNoCredential means that the policy configures nothing to log in with: the
// agent's own login was relayed, and can't be used a second time.
var errNoCredential = errors.New("the resource has no credential to log in with")

// openOwn opens a session of headgate's own with the target of s, with the
// credential that is injected into s and no option of the agent's. It is not
// announced to the agent, and nothing of it is relayed. The caller closes it; to
// end it from outside, end ctx while it opens and close the connection after.
func openOwn(ctx context.Context, s *protocol.Session, database string, parameters ...wire.Parameter) (*login.Session, error) {
	secret, ok, err := s.Credential(ctx)
	if err == nil && !ok {
		err = errNoCredential
	}
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	return login.Open(ctx, login.Target{
		Dial: s.Dial, Secure: s.Secure, Verify: verification(s.Resource.TLS),
		Credential: secret, Database: database, Parameters: parameters,
	})
}
