package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

const maskedPolicy = testPolicy + `
masks:
  - {name: ids, resources: [db], columns: ["*.*.ssn"], with: redact}
`

// What a policy says of a session is asked for each message: it has to be the
// policy in force that answers, and the question that was asked.
func TestANewPolicyIsInForceForTheNextMessage(t *testing.T) {
	plain, masked := compile(t, 7, testPolicy), compile(t, 7, maskedPolicy) // the same generation: it is not what tells them apart
	writes := strings.Replace(testPolicy, "operations: [drop]", "operations: [write]", 1)
	other := compile(t, 7, writes)
	engine := plain
	served := false
	r := newRig(t, func(_ context.Context, s *protocol.Session) error {
		served = true
		for i, want := range []struct {
			engine               *policy.Engine
			masked, drop, writes bool
		}{
			{plain, false, true, false}, {masked, true, true, false}, {masked, true, true, false},
			{plain, false, true, false}, {other, false, false, true}, {nil, false, false, false}, {masked, true, true, false},
		} {
			engine = want.engine
			if got := s.Mask(); got.Empty() == want.masked || want.masked && got != want.engine.Masks(&policy.Request{Target: s.Downstream.Origin.Target, Agent: "ci"}) {
				t.Errorf("step %d: masks are %v", i, got)
			}
			for range 2 { // the second one may be remembered
				if got := s.Refuses("drop"); got != want.drop {
					t.Errorf("step %d: drop may be refused: %v", i, got)
				}
				if got := s.Refuses("write"); got != want.writes {
					t.Errorf("step %d: write may be refused: %v", i, got)
				}
				if got := s.Refuses("write", "drop"); got != (want.drop || want.writes) {
					t.Errorf("step %d: one of the two may be refused: %v", i, got)
				}
			}
		}
		s.Observe = true
		engine = masked
		if got := s.Mask(); !got.Empty() {
			t.Errorf("masks while only observing: %v", got)
		}
		engine = plain
		return nil
	})
	r.Engine = func() *policy.Engine { return engine }
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
	if !served {
		t.Error("the session was not served")
	}
}

// More questions than are remembered are still answered by the policy.
func TestQuestionsThatAreNotRememberedAreAnswered(t *testing.T) {
	r := newRig(t, func(_ context.Context, s *protocol.Session) error {
		for i := range 2 * maxAnswers {
			if s.Refuses(strings.Repeat("x", i+1)) || !s.Refuses(strings.Repeat("x", i+1), "drop") {
				t.Errorf("question %d: the answer is not the policy's", i)
			}
		}
		return nil
	})
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
}

// A condition may look at something else in the next policy, and a refusal that it
// makes because a fact is not known says so.
func TestTheFactsThatAPolicyLooksAtAreThoseOfThePolicyInForce(t *testing.T) {
	condition := func(when string) *policy.Engine {
		file, err := policy.Parse("test.yaml", []byte(strings.Replace(testPolicy, "operations: [drop]", "operations: [drop], when: \""+when+"\"", 1)))
		if err != nil {
			t.Fatal(err)
		}
		facts := policy.FactType{Variable: "said", Fields: []policy.FactField{{Name: "loud", Kind: policy.FactBool}, {Name: "words", Kind: policy.FactStrings}}}
		engine, err := policy.Options{Facts: map[string]policy.FactType{"line": facts}}.Compile(file)
		if err != nil {
			t.Fatal(err)
		}
		return engine
	}
	loud, words, engine := condition("said.loud"), condition("said.words.exists(w, w == 'x')"), compile(t, 7, testPolicy)
	r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
		for i, want := range []struct {
			engine      *policy.Engine
			loud, words bool
		}{{engine, false, false}, {loud, true, false}, {words, false, true}, {loud, true, false}, {nil, false, false}} {
			engine = want.engine
			for range 2 {
				if got := s.Asks([]string{"loud"}); got != want.loud {
					t.Errorf("step %d: loud is looked at: %v", i, got)
				}
				if got := s.Asks([]string{"words", "more"}); got != want.words {
					t.Errorf("step %d: words are looked at: %v", i, got)
				}
			}
		}
		engine = loud
		_, err := s.Decide(ctx, &policy.Operation{Verb: "drop", Effects: []string{"drop"}})
		var denial *protocol.Denial
		if !errors.As(err, &denial) || denial.Rule != "no-drops" || !strings.Contains(denial.Detail, "said: not known") {
			t.Errorf("the refusal is %+v", denial)
		}
		engine = words
		return nil
	})
	r.Engine = func() *policy.Engine { return engine }
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
}
