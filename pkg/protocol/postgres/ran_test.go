package postgres

import (
	"errors"
	"testing"

	"github.com/headgate/headgate/pkg/protocol"
)

func TestAnIdleSessionHoldsNoStatementThatHasEnded(t *testing.T) {
	x := &exchange{pending: newPending()}
	r := &request{kind: askSync, sequence: 1}
	x.pending.push(r)
	x.remember(&step{})
	x.remember(&step{})
	if err := x.ready(r, []byte{'I'}); err != nil {
		t.Fatal(err)
	}
	for i, s := range x.ran[:2] {
		if s != nil {
			t.Errorf("statement %d is still held", i)
		}
	}
}

func TestACallThatHasReturnedIsRecordedWhenTheSessionEnds(t *testing.T) {
	for _, returned := range []bool{false, true} {
		var outcomes []protocol.Outcome
		session := &protocol.Session{Record: func(f protocol.Frame) error {
			outcomes = append(outcomes, *f.Outcome)
			return nil
		}}
		x := &exchange{pending: newPending(), session: session}
		r := &request{kind: askFunction, sequence: 1, returned: returned, steps: []*step{{op: "1", tally: tally{bytes: 7}}}}
		x.pending.push(r)
		lost := errors.New("the target is gone")
		for range 2 {
			if err := x.unfinished(lost); !errors.Is(err, lost) {
				t.Errorf("the session ends with %v", err)
			}
		}
		switch {
		case !returned && len(outcomes) > 0:
			t.Errorf("a call without a result has the outcome %+v", outcomes)
		case returned && (len(outcomes) != 1 || outcomes[0].Error != uncommitted || outcomes[0].Bytes != 7):
			t.Errorf("a call whose result was passed on has the outcomes %+v", outcomes)
		}
	}
}
