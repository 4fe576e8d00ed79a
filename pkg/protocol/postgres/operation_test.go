package postgres

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// The facts of a text are shared by all sessions. An operation holds their lists,
// and gets more effects for one session.
func TestWhatIsAddedToAnOperationIsNotAddedToTheFacts(t *testing.T) {
	effects := append(make([]string, 0, 8), "select", "write") // room behind them
	objects := append(make([]statement.Object, 0, 8), statement.Object{Kind: "table", Name: "a"})
	fact := &statement.Statement{Verb: "select", Effects: effects, Objects: objects, Text: "select 1", Reason: "why"}
	var op policy.Operation
	describe(&op, []*statement.Statement{fact}, []string{"1"})
	want := policy.Operation{
		Protocol: Name, Verb: "select", Effects: []string{"select", "write"}, Objects: []policy.Object{{Kind: "table", Name: "a"}},
		Text: "select 1", Parameters: []string{"1"}, Reason: "why",
	}
	if diff := cmp.Diff(want, op); diff != "" {
		t.Error(diff)
	}
	op.Effects = append(op.Effects, statement.Opaque, statement.UserFunction)
	slices.Sort(op.Effects)
	op.Objects = append(op.Objects, policy.Object{Name: "b"})
	if got := effects[:4]; !slices.Equal(got, []string{"select", "write", "", ""}) || objects[:2][1].Name != "" {
		t.Errorf("the facts became %q, %v", got, objects[:2])
	}
}

// What may be several things has the effects and objects of all, and an operation
// that was asked about before leaves nothing behind.
func TestAnOperationIsTheUnionOfWhatItMayBe(t *testing.T) {
	op := policy.Operation{Text: "old", Announced: true, Reason: "old", Effects: []string{"old"}}
	describe(&op, []*statement.Statement{
		{Verb: "update", Effects: []string{"select", "update"}, Objects: []statement.Object{{Kind: "table", Name: "b"}, {Kind: "table", Name: "a"}}},
		nil,
		{Verb: "select", Effects: []string{"select"}, Objects: []statement.Object{{Kind: "table", Name: "a"}}},
	}, nil)
	want := policy.Operation{
		Protocol: Name, Verb: "update", Effects: []string{"select", policy.Unknown, "update"},
		Objects: []policy.Object{{Kind: "table", Name: "a"}, {Kind: "table", Name: "b"}}, Reason: "it is not known what the name stands for",
	}
	if diff := cmp.Diff(want, op); diff != "" {
		t.Error(diff)
	}
	describe(&op, []*statement.Statement{{}}, nil)
	if op.Verb != policy.Unknown || !slices.Equal(op.Effects, []string{policy.Unknown}) {
		t.Errorf("facts without effects are %+v", op)
	}
}

func TestParametersThatAreNotKeptWholeAreNoted(t *testing.T) {
	long, short := make([]byte, maxParameter+1), make([]byte, maxParameter)
	for _, tc := range []struct {
		name string
		bind wire.BindMessage
		want bool
	}{
		{"none", wire.BindMessage{}, false},
		{"as many as are kept", wire.BindMessage{Parameters: make([][]byte, maxParameters)}, false},
		{"one more", wire.BindMessage{Parameters: make([][]byte, maxParameters+1)}, true},
		{"as long as is kept", wire.BindMessage{Parameters: [][]byte{nil, short}}, false},
		{"longer", wire.BindMessage{Parameters: [][]byte{nil, long}}, true},
		{"in binary", wire.BindMessage{Parameters: [][]byte{short}, Formats: []int16{1}}, true},
		{"in binary, as long as is kept", wire.BindMessage{Parameters: [][]byte{short[:maxParameter/2]}, Formats: []int16{1}}, false},
	} {
		if got := overlong(&tc.bind); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
