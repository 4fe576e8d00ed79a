package protocol

import (
	"errors"
	"strings"
	"testing"
)

func TestGuardTurnsAPanicIntoAnError(t *testing.T) {
	cause := errors.New("an ordinary error")
	if err := Guard(func() error { return cause }); !errors.Is(err, cause) {
		t.Errorf("an error became %v", err)
	}
	var p *Panic
	short := []byte("abc")
	err := Guard(func() error { return errors.New(string(short[len(short):][0])) })
	if !errors.As(err, &p) || !strings.Contains(err.Error(), "index out of range") || !strings.Contains(string(p.Stack), "guard_test.go") {
		t.Errorf("a panic became %v", err)
	}
}
