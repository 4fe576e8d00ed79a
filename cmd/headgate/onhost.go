package main

import (
	"fmt"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/config"
)

// readFile is os.ReadFile, but for tests.
type readFile func(path string) ([]byte, error)

// checkOnHost says on standard error what a configuration is no good for on this
// machine. That is no mistake in it.
func checkOnHost(e env, cfg *config.Config, read readFile) {
	for _, w := range config.OnHost(cfg, read) {
		// As in complain: a failure has nowhere to go.
		_, _ = fmt.Fprintf(e.stderr, "headgate: warning: %v\nheadgate: hint: %s\n", w, w.Remedy)
	}
}

// warnOnHost says the same in the daemon's log.
func warnOnHost(log *zerolog.Logger, cfg *config.Config, read readFile) {
	for _, w := range config.OnHost(cfg, read) {
		log.Warn().Str("key", w.Path).Str("remedy", w.Remedy).Msg(w.Text)
	}
}

// findOnHost says the same as notes: somebody has chosen it so, and while the
// daemon runs nobody has its ports.
func findOnHost(cfg *config.Config, read readFile) []finding {
	var list []finding
	for _, w := range config.OnHost(cfg, read) {
		list = append(list, note(w.Path, w.Remedy, "%s", w.Text))
	}
	return list
}
