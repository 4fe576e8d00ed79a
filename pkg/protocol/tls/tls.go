package tls

import (
	"strconv"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

const name = "tls"

// Verb is the one operation of the protocol, and its one effect.
const Verb = "handshake"

// Protocol is the protocol "tls". It has no state; one value serves any number
// of sessions at the same time.
type Protocol struct{}

// New returns the protocol.
func New() *Protocol { return &Protocol{} }

// Name returns "tls".
func (*Protocol) Name() string { return name }

// Operations returns [Verb].
func (*Protocol) Operations() []string { return []string{Verb} }

// Match says Yes to the first six bytes of a ClientHello's record: its type,
// its version, a length that is possible, and the type of the message.
func (*Protocol) Match(prefix []byte) protocol.Match {
	record, _, err := fragment(prefix[:min(len(prefix), recordHeader)])
	switch {
	case err != nil || record != nil:
		return protocol.No
	case len(prefix) > 2 && prefix[2] > 4:
		return protocol.No
	case len(prefix) <= recordHeader:
		return protocol.More
	case prefix[recordHeader] != clientHello:
		return protocol.No
	default:
		return protocol.Yes
	}
}

// maxParameters bounds how many of a hello's facts are recorded.
const maxParameters = 32

// operation is the handshake as the policy sees it.
func operation(h hello) *policy.Operation {
	op := &policy.Operation{Protocol: name, Verb: Verb, Effects: []string{Verb}, Text: "ClientHello"}
	if h.serverName != "" {
		op.Text += " " + h.serverName
		op.Objects = append(op.Objects, policy.Object{Kind: "server_name", Name: h.serverName})
	}
	if h.encrypted {
		op.Objects = append(op.Objects, policy.Object{Kind: "encrypted_hello", Name: "offered"})
	}
	op.Parameters = append(op.Parameters, "version="+versionName(h.version))
	if h.grease {
		op.Parameters = append(op.Parameters, "grease")
	}
	for _, p := range h.alpn {
		if len(op.Parameters) == maxParameters {
			op.Parameters = append(op.Parameters, "…")
			break
		}
		op.Parameters = append(op.Parameters, "alpn="+printable(p))
	}
	return op
}

// unknown is a first message that is no hello.
func unknown(cause error) *policy.Operation {
	return &policy.Operation{Protocol: name, Verb: Verb, Effects: []string{policy.Unknown}, Reason: cause.Error()}
}

func printable(s string) string {
	quoted := strconv.QuoteToASCII(s)
	return quoted[1 : len(quoted)-1]
}
