// Package all is the list of the protocols that headgate speaks.
package all

import (
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/dns"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/tcp"
	"github.com/headgate/headgate/pkg/protocol/tls"
)

// Protocols returns new values of all protocols, for the life of a daemon: what
// crosses connections lives in them.
//
// The order is that of detection: a protocol is asked about a connection's
// first bytes once all before it have said that these are not theirs. A
// protocol whose first bytes could be another's too comes after it.
func Protocols(settings protocol.Settings) []protocol.Protocol {
	return []protocol.Protocol{
		postgres.New(postgres.Options{MaxStatement: settings.Operation, MaxBind: settings.Message, Shortcuts: settings.Shortcuts}),
		tls.New(),
		dns.New(dns.Options{}),
		tcp.New(),
	}
}

// Vocabulary returns the words of every protocol in the list, by its name: what
// a policy is checked against.
func Vocabulary(protocols []protocol.Protocol) map[string][]string {
	words := make(map[string][]string, len(protocols))
	for _, p := range protocols {
		words[p.Name()] = p.Operations()
	}
	return words
}

// Metered returns the names of the protocols in the list that count what their
// operations return; it is not nil.
func Metered(protocols []protocol.Protocol) []string {
	names := []string{}
	for _, p := range protocols {
		if _, ok := p.(protocol.Meter); ok {
			names = append(names, p.Name())
		}
	}
	return names
}

// Opaque returns the protocol that passes bytes on without understanding them:
// what a connection falls back to that may be observed but not altered.
func Opaque() protocol.Protocol { return tcp.New() }

// Datagram returns the one of protocols that is spoken over UDP: a flow of
// datagrams is not detected, it is DNS or it is nothing. It returns nil where
// the list lacks it.
func Datagram(protocols []protocol.Protocol) protocol.Protocol {
	p, _ := protocol.ByName(protocols, dns.Name)
	return p
}
