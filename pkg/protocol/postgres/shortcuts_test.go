package postgres_test

import (
	"fmt"
	"os"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
)

// newPostgres makes the protocol for a test: without its shortcuts where
// HEADGATE_SHORTCUTS is off.
func newPostgres(o postgres.Options) *postgres.Postgres {
	switch word := os.Getenv("HEADGATE_SHORTCUTS"); word {
	case "", "on":
	case "off":
		o.Shortcuts = protocol.ShortcutsAvoided
	default:
		panic(fmt.Sprintf("HEADGATE_SHORTCUTS is %q, want on or off", word))
	}
	return postgres.New(o)
}
