package tls

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/protocoltest"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestProtocol(t *testing.T) {
	protocoltest.Run(t, func() protocol.Protocol { return New() }, codec{}, "../../../testdata/tls")
}

func TestMatchKnowsAHelloByItsFirstSixBytes(t *testing.T) {
	for prefix, want := range map[string]protocol.Match{
		"\x16":                     protocol.More,
		"\x16\x03\x01\x02\x00":     protocol.More,
		"\x16\x03\x01\x02\x00\x01": protocol.Yes,
		"\x16\x03\x01\x40\x00\x01": protocol.Yes, // the longest record there is
		"\x16\x03\x01\x40\x01":     protocol.No,  // a longer one
		"\x16\x03\x01\x00\x00":     protocol.No,  // an empty one
		"\x16\x03\x05":             protocol.No,
		"\x16\x02":                 protocol.No,
		"\x16\x03\x01\x02\x00\x02": protocol.No, // ServerHello
		"\x15\x03\x01":             protocol.No, // an alert
		"\x80\x2e\x01\x03\x01":     protocol.No, // the hello of SSL 2
		"GET / HTTP/1.1\r\n":       protocol.No,
		"\x00\x00\x00\x08\x04":     protocol.No,
	} {
		if got := New().Match([]byte(prefix)); got != want {
			t.Errorf("Match(%q) = %v, want %v", prefix, got, want)
		}
	}
}

func TestOperationBoundsWhatIsRecorded(t *testing.T) {
	h := hello{alpn: make([]string, 1000)}
	if n := len(operation(h).Parameters); n != maxParameters+1 {
		t.Errorf("the operation has %d parameters, want %d", n, maxParameters+1)
	}
	op := operation(hello{alpn: []string{"a\n\x00b"}})
	if got := op.Parameters[1]; strings.ContainsAny(got, "\n\x00") {
		t.Errorf("the parameter %q has control characters", got)
	}
}

func TestADeniedHandshakeEndsWithItsDenial(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	agent, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	down, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	if _, err := agent.Write(inRecords(message(nil), 1)); err != nil {
		t.Fatal(err)
	}
	denial := &protocol.Denial{ID: "op-1", Rule: "no-tls", Reason: policy.ReasonRule}
	err = New().Serve(t.Context(), &protocol.Session{
		Downstream: transparent.NewConn(down, transparent.Origin{}),
		Decide: func(context.Context, *policy.Operation) (protocol.Ruling, error) {
			return protocol.Ruling{}, denial
		},
	})
	var got *protocol.Denial
	if !errors.As(err, &got) || got != denial {
		t.Errorf("the session ended with %v, want the denial", err)
	}
	if said, err := io.ReadAll(agent); err != nil || string(said) != string(alert(accessDenied)) {
		t.Errorf("the agent was told %x (%v)", said, err)
	}
}
