package gateway

import (
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
)

// standing is what one policy says of a session as such, whatever it does. It
// depends on nothing but the engine and on what was fixed when the session began:
// its principal, its agent, its target and the names of that. It is immutable.
type standing struct {
	engine  *policy.Engine
	request policy.Request
	masks   *mask.Set
	answers []answer
}

// answer is what the engine said to [session.refuses].
type answer struct {
	effects []string
	refused bool
}

// maxAnswers bounds the questions that are remembered: a protocol has one.
const maxAnswers = 8

// standing returns what the policy in force says. Protocols ask for each message,
// and the answer is the same until another policy is in force.
func (s *session) standing() *standing {
	engine := s.gateway.Engine()
	if known := s.stands.Load(); known != nil && known.engine == engine {
		return known
	}
	now := &standing{engine: engine, request: s.request(&policy.Operation{}, time.Time{})}
	now.masks = engine.Masks(&now.request)
	s.stands.Store(now)
	return now
}

// masks asks the policy in force. Observing masks nothing.
func (s *session) masks() *mask.Set {
	if s.Observe {
		return nil
	}
	return s.standing().masks
}

// refuses asks the policy in force.
func (s *session) refuses(effects ...string) bool {
	known := s.standing()
	for i := range known.answers {
		if slices.Equal(known.answers[i].effects, effects) {
			return known.answers[i].refused
		}
	}
	refused := known.engine.Refuses(&known.request, effects...)
	if len(known.answers) < maxAnswers {
		more := *known
		more.answers = append(slices.Clip(known.answers), answer{slices.Clone(effects), refused})
		s.stands.CompareAndSwap(known, &more)
	}
	return refused
}
