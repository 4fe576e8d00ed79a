package postgres

import "testing"

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
