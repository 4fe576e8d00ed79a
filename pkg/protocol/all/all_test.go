package all

import (
	"net"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestProtocolsHaveNamesOfTheirOwnInTheOrderOfDetection(t *testing.T) {
	var names []string
	for _, p := range Protocols(protocol.Settings{}) {
		names = append(names, p.Name())
	}
	if d := cmp.Diff([]string{"postgres", "tls", "dns", "tcp"}, names); d != "" {
		t.Errorf("other protocols (-want +got):\n%s", d)
	}
	if found, ok := protocol.ByName(Protocols(protocol.Settings{}), Opaque().Name()); !ok || found.Name() != "tcp" {
		t.Errorf("the opaque protocol %q is not in the list", Opaque().Name())
	}
}

func TestProtocolsTakeNoShortcutsWhereTheyAreToldNotTo(t *testing.T) {
	found, _ := protocol.ByName(Protocols(protocol.Settings{Shortcuts: protocol.ShortcutsAvoided}), postgres.Name)
	// Nothing but the cost tells from outside.
	if got := protocol.Shortcuts(reflect.ValueOf(found).Elem().FieldByName("options").FieldByName("Shortcuts").Uint()); got.Taken() {
		t.Error("shortcuts are taken")
	}
}

func TestNoTwoProtocolsClaimTheSameBytes(t *testing.T) {
	for prefix, want := range map[string]string{
		"\x00\x00\x00\x08\x04\xd2\x16\x2f":                                             "postgres", // SSLRequest
		"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x07key!":                         "postgres", // CancelRequest
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03":                                 "tls",
		"\x00\x11\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01": "dns",
		"GET / HTTP/1.1\r\n\r\n":                                                       "",
		"SSH-2.0-agent\r\n":                                                            "",
	} {
		var claimed []string
		for _, p := range Protocols(protocol.Settings{}) {
			if p.Match([]byte(prefix)) == protocol.Yes {
				claimed = append(claimed, p.Name())
			}
		}
		if want == "" && len(claimed) > 0 || want != "" && !slices.Equal(claimed, []string{want}) {
			t.Errorf("%q is claimed by %v, want %q", prefix, claimed, want)
		}
	}
}

func TestDetectionEndsForBytesOfNobody(t *testing.T) {
	agent, down := net.Pipe()
	defer func() { _, _ = agent.Close(), down.Close() }()
	go func() {
		// The other end stops to read once it has seen enough.
		_, _ = agent.Write([]byte("HELO agent.example\r\n"))
	}()
	found, err := protocol.Detect(t.Context(), transparent.NewConn(down, transparent.Origin{}), Protocols(protocol.Settings{}), time.Minute)
	if err == nil {
		t.Errorf("it was taken for %s", found.Name())
	}
}

func TestTheProtocolOfDatagramsIsTheOneInTheList(t *testing.T) {
	protocols := Protocols(protocol.Settings{})
	if p := Datagram(protocols); p == nil || !slices.Contains(protocols, p) {
		t.Errorf("the protocol of datagrams is %v, and not in the list", p)
	}
	if p := Datagram(nil); p != nil {
		t.Errorf("an empty list has %v", p)
	}
}

func TestStartingWarmsWhatIsSlowToStart(t *testing.T) {
	for _, p := range Protocols(protocol.Settings{}) {
		if p.Name() != "postgres" {
			continue
		}
		if _, ok := p.(interface{ Warm() error }); !ok {
			t.Errorf("%s parses with a sandbox and can't be warmed", p.Name())
		}
	}
}
