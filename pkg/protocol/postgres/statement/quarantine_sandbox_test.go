//go:build !pgquery_cgo && !tinygo

package statement

import (
	"errors"
	"strings"
	"testing"
)

func TestATrapLosesTheTextAndNotTheParser(t *testing.T) {
	if _, err := parseTree("SELECT "+strings.Repeat("(SELECT ", 3000)+"1"+strings.Repeat(")", 3000), shape{}); !errors.Is(err, errTrap) {
		t.Fatalf("the text did not trap: %v", err)
	}
	if idleSandboxes.Len() != 0 {
		t.Error("the broken sandbox is still in the pool")
	}
	if got := effectsOf("SELECT 1; DROP TABLE t"); got != "select; ddl drop" {
		t.Errorf("after a trap: %s", got)
	}
}
