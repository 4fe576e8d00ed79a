package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/record"
)

const defaultConfigPath = config.DefaultPath

// loadConfig reads the configuration that the command was given.
func loadConfig(cmd *cobra.Command) (*config.Config, error) {
	path, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, usageError{err}
	}
	cfg, err := config.Load(path)
	if err != nil {
		return nil, usageError{withHint(err, "headgate config print-defaults prints a complete configuration")}
	}
	return cfg, nil
}

// socketPath is where a client finds the daemon: the flag, the configuration if
// the caller may read it, the default.
func socketPath(cmd *cobra.Command, flag string) string {
	if flag != "" {
		return flag
	}
	if cfg, err := loadConfig(cmd); err == nil {
		return cfg.Control.Socket
	}
	return config.Default().Control.Socket
}

// stateDir is where the record is: the flag, or as configured.
func stateDir(cmd *cobra.Command, flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return "", err
	}
	return cfg.State, nil
}

func newLogger(e env, cfg *config.Config) zerolog.Logger {
	w := e.stderr
	if cfg.Log.Format == "console" {
		w = zerolog.ConsoleWriter{Out: e.stderr, NoColor: e.getenv("NO_COLOR") != ""}
	}
	level, err := zerolog.ParseLevel(cfg.Log.Level)
	if err != nil {
		// The configuration was checked; should it be wrong all the same, more
		// is said rather than less.
		level = zerolog.DebugLevel
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

func auditOptions(cfg *config.Config) audit.Options {
	o := audit.Options{SegmentBytes: int64(cfg.Audit.SegmentSize), RecordingBytes: int64(cfg.Record.MaxBytesPerSession)}
	if cfg.Audit.Durability == config.Fsync {
		o.Durability = record.Sync
	}
	return o
}

func protocolSettings(cfg *config.Config) protocol.Settings {
	s := protocol.Settings{Limits: protocol.Limits{Operation: int(cfg.Limits.StatementBytes), Message: int(cfg.Limits.MessageBytes)}}
	if cfg.Protocols.Shortcuts == config.Off {
		s.Shortcuts = protocol.ShortcutsAvoided
	}
	return s
}

// recordBytes is how much of the results a recording keeps.
func recordBytes(cfg *config.Config) int {
	if cfg.Record.Level == config.Statements {
		return -1
	}
	return int(cfg.Record.MaxBytesPerOperation)
}

// warm starts what protocols need to have started before the first agent comes.
func warm(protocols []protocol.Protocol) error {
	for _, p := range protocols {
		if w, ok := p.(interface{ Warm() error }); ok {
			if err := w.Warm(); err != nil {
				return fmt.Errorf("prepare %s: %w", p.Name(), err)
			}
		}
	}
	// Compiling a sandbox leaves a hundred megabytes of garbage, once.
	debug.FreeOSMemory()
	return nil
}

func configCommand(e env) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check the configuration, or print the defaults"}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "check",
			Short: "Read the configuration as the daemon would and print it; exit 2 on a mistake",
			Long: "Read the configuration as the daemon would and print it; exit 2 on a mistake.\n" +
				"What is no mistake, and yet no good on this machine, is a warning on standard error.",
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return err
				}
				checkOnHost(e, cfg, os.ReadFile)
				return printConfig(e, cfg)
			},
		},
		&cobra.Command{
			Use:   "print-defaults",
			Short: "Print a complete configuration with the default values",
			Args:  cobra.NoArgs,
			RunE:  func(*cobra.Command, []string) error { return printConfig(e, config.Default()) },
		},
	)
	return cmd
}

func printConfig(e env, cfg *config.Config) error {
	text, err := config.Print(cfg)
	if err != nil {
		return err
	}
	_, err = e.stdout.Write(text)
	return err
}
