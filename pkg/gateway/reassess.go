package gateway

import (
	"context"
	"maps"
	"slices"

	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// reasonPolicyChanged is the reason of a denial that ends a session which a new
// policy does not let exist as it is.
const reasonPolicyChanged = "policy_changed"

// admit lets the session exchange bytes, as the decision about the connection
// says: in observe mode nothing of it may be changed. If a new policy came into
// force meanwhile, that one decides.
func (s *session) admit(ctx context.Context, r protocol.Ruling) error {
	s.stage = metrics.StageExchange
	s.Observe = r.Decision.Mode == policy.Observe
	s.pinned = nil
	s.gateway.enter(s)
	if s.gateway.Engine().Generation() == r.Decision.Generation {
		return nil
	}
	return s.reassess(ctx)
}

func (g *Gateway) enter(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live[s] = struct{}{}
}

func (g *Gateway) leave(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.live, s)
}

// Reassess asks the policy in force about every running session's connection,
// and ends those that it does not let exist, with an error in their own
// protocol. It is to be called when a new policy came into force. Operations
// are decided by the new policy anyway; this is for sessions that have none,
// because their bytes are only relayed.
func (g *Gateway) Reassess(ctx context.Context) {
	g.mu.Lock()
	sessions := slices.Collect(maps.Keys(g.live))
	g.mu.Unlock()
	for _, s := range sessions {
		if err := s.reassess(ctx); err != nil {
			s.end(err)
		}
	}
}

// reassess returns a denial if the session may not go on.
func (s *session) reassess(ctx context.Context) error {
	s.stands.Store(nil) // an idle session must not keep an old policy in memory
	r, err := s.decide(ctx, connectTo(s.proto))
	if err == nil {
		err = s.settle() // perhaps nothing more goes to the target that would wait for it
	}
	if err != nil {
		return err
	}
	if (r.Decision.Mode == policy.Observe) == s.Observe {
		return nil
	}
	// What was relayed unread can't be understood from its middle, and the other
	// way round its state would be lost.
	return &protocol.Denial{
		ID: r.ID, Rule: r.Decision.Rule, Reason: reasonPolicyChanged,
		Detail: "the policy's mode has changed; connect again",
	}
}

// connectTo is the operation of opening a connection.
func connectTo(p protocol.Protocol) *policy.Operation {
	return &policy.Operation{Protocol: p.Name(), Verb: policy.Connect, Effects: []string{policy.Connect}}
}
