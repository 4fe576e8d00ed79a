package pgtest

import (
	"testing"
)

// verdict is a test of which only the verdict counts.
type verdict struct {
	testing.TB
	failed, skipped bool
}

func (v *verdict) Helper()               {}
func (v *verdict) Fatalf(string, ...any) { v.failed = true; panic(v) }
func (v *verdict) Skip(...any)           { v.skipped = true; panic(v) }

func skip() (v *verdict) {
	v = &verdict{}
	defer func() { _ = recover() }() // as the end of a test's goroutine
	Skip(v, "needs something")
	return v
}

func TestWhereAllTestsHaveToRunASkipIsAFailure(t *testing.T) {
	for name, failed := range map[string]bool{"": false, "HEADGATE_TESTS": true, "HEADGATE_PRIVILEGED": true} {
		t.Setenv("HEADGATE_TESTS", "")
		t.Setenv("HEADGATE_PRIVILEGED", "")
		switch name {
		case "HEADGATE_TESTS":
			t.Setenv(name, "all")
		case "HEADGATE_PRIVILEGED":
			t.Setenv(name, "1")
		}
		if v := skip(); v.failed != failed || v.skipped == failed {
			t.Errorf("with %q: failed %v, skipped %v", name, v.failed, v.skipped)
		}
	}
}
