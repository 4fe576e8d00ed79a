package suggest

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
)

func TestASuggestionOnTopOfASuggestionCompiles(t *testing.T) {
	first := suggested(t, workload())
	f, err := policy.Parse("first.yaml", []byte(first))
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Existing: []*policy.File{f}})
	o := asks(by(1, "ci", "10.0.0.53:53", ""), "two.example.org")
	s.Add(&o)
	var text strings.Builder
	if err := s.Write(&text); err != nil {
		t.Fatal(err)
	}
	again, err := policy.Parse("again.yaml", []byte(text.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	if _, err := policy.Compile(1, again); err != nil {
		t.Errorf("%v\n%s", err, text.String())
	}
}
