package dns

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/protocoltest"
)

// learning gives sessions that have none a Learn.
type learning struct {
	*DNS
	learned func(names.Answer)
}

func (l learning) Serve(ctx context.Context, s *protocol.Session) error {
	s.Learn = l.learned
	return l.DNS.Serve(ctx, s)
}

// counting returns ids from 1000 on.
func counting() func() uint16 {
	var last atomic.Uint32
	last.Store(999)
	return func() uint16 { return uint16(last.Add(1)) }
}

func TestProtocol(t *testing.T) {
	newProtocol := func() protocol.Protocol {
		return learning{New(Options{QueryID: counting(), IdleTCP: 20 * time.Second}), func(names.Answer) {}}
	}
	protocoltest.Run(t, newProtocol, codec{}, "../../../testdata/dns")
}
