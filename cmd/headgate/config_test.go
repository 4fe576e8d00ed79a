package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/control"
)

func TestShortcutsAreAvoidedWhereTheConfigurationSaysSo(t *testing.T) {
	cfg := config.Default()
	if got := protocolSettings(cfg); !got.Shortcuts.Taken() || got.Operation != 1<<20 || got.Message != 32<<20 {
		t.Errorf("by default: %+v", got)
	}
	cfg.Protocols.Shortcuts = config.Off
	if got := protocolSettings(cfg); got.Shortcuts.Taken() {
		t.Errorf("off: %+v", got)
	}
}

func TestStatusSaysWhetherShortcutsAreTaken(t *testing.T) {
	for _, c := range []struct{ is, want string }{{"on", "shortcuts on"}, {"off", "shortcuts off"}, {"", ""}} {
		var out bytes.Buffer
		if err := printStatus(env{stdout: &out}, &control.Status{Shortcuts: c.is}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), c.want) || c.is == "" && strings.Contains(out.String(), "shortcuts") {
			t.Errorf("%q: printed\n%s", c.is, out.String())
		}
	}
}
