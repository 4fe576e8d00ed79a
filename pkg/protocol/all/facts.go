package all

import (
	"fmt"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// Facts returns the variables that the protocols in the list have in conditions, by
// the protocols' names: what a policy is compiled with.
func Facts(protocols []protocol.Protocol) map[string]policy.FactType {
	facts := map[string]policy.FactType{}
	for _, p := range protocols {
		if d, ok := p.(protocol.Describer); ok {
			facts[p.Name()] = d.Facts()
		}
	}
	return facts
}

// Read returns the operations of a text in the language of the protocol of that
// name; see [protocol.Reader]. It is an error if the list has no such protocol, or
// if nobody can tell what a text of it does.
func Read(protocols []protocol.Protocol, name, text string) ([]policy.Operation, error) {
	p, ok := protocol.ByName(protocols, name)
	if !ok {
		return nil, fmt.Errorf("read text: unknown protocol %q", name)
	}
	reader, ok := p.(protocol.Reader)
	if !ok {
		return nil, fmt.Errorf("read text: what a text of protocol %s does can't be told; give the operation's verb, effects and objects instead", name)
	}
	operations, err := reader.Read(text)
	if err != nil {
		return nil, fmt.Errorf("read text of protocol %s: %w", name, err)
	}
	return operations, nil
}
