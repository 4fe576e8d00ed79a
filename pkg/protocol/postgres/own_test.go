package postgres_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestASessionOfOurOwnLogsInWithTheInjectedCredential(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.secret = &credential.Credential{Username: "agent", Secret: credential.NewSecret([]byte("agent-password"))}
	})
	here, there := net.Pipe()
	defer there.Close()
	down := transparent.NewConn(here, transparent.Origin{Target: netip.MustParseAddrPort(g.target)})
	defer down.Close()
	s, err := postgres.OpenOwn(testContext(t), g.session(down), testDatabase, wire.Parameter{Name: "application_name", Value: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, p := range s.Settings {
		settings[p.Name] = p.Value
	}
	if s.State != 'I' || s.PID == 0 || len(s.Key) < 4 || settings["session_authorization"] != "agent" || settings["application_name"] != "ours" {
		t.Errorf("session is in state %q, pid %d, key of %d bytes, %v", s.State, s.PID, len(s.Key), settings)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	g.set(func() { g.secret = nil })
	if _, err := postgres.OpenOwn(testContext(t), g.session(down), testDatabase); err == nil {
		t.Error("a session was opened without a credential")
	}
}
