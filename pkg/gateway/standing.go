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
	answers []answer // of refuses
	asked   []answer // of asks
}

// answer is what the engine said to [session.refuses] about effects, or to
// [session.asks] about facts.
type answer struct {
	words []string
	yes   bool
}

// given returns the answer that was given about the words.
func given(answers []answer, words []string) (yes, ok bool) {
	for i := range answers {
		if slices.Equal(answers[i].words, words) {
			return answers[i].yes, true
		}
	}
	return false, false
}

// with returns the answers and one more, if there is room for it.
func with(answers []answer, words []string, yes bool) []answer {
	if len(answers) >= maxAnswers {
		return answers
	}
	return append(slices.Clip(answers), answer{slices.Clone(words), yes})
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
	stands := s.standing()
	if yes, ok := given(stands.answers, effects); ok {
		return yes
	}
	more := *stands
	refused := stands.engine.Refuses(&stands.request, effects...)
	more.answers = with(stands.answers, effects, refused)
	s.stands.CompareAndSwap(stands, &more)
	return refused
}

// asks asks the policy in force.
func (s *session) asks(facts []string) bool {
	stands := s.standing()
	if yes, ok := given(stands.asked, facts); ok {
		return yes
	}
	more := *stands
	looks := stands.engine.Asks(&stands.request, facts)
	more.asked = with(stands.asked, facts, looks)
	s.stands.CompareAndSwap(stands, &more)
	return looks
}
