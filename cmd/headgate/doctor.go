package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/confine"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
)

// diagnosis is everything that the doctor says. Its keys are stable.
type diagnosis struct {
	Findings []finding `json:"findings"`
	Machine  []feature `json:"machine"`
	// Daemon is nil where none answered; DaemonErr says why.
	Daemon    *control.Health `json:"daemon"`
	DaemonErr string          `json:"daemon_error,omitempty"`
	// ConfigErr is why the configuration was not read.
	ConfigErr string `json:"config_error,omitempty"`

	hint   string    // to DaemonErr
	onHost []finding // about the configuration on this machine
}

// feature is one line about the machine.
type feature struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, lost or unknown
	// Optional says that the daemon starts without it.
	Optional bool     `json:"optional"`
	Programs []string `json:"programs,omitempty"`
	Detail   string   `json:"detail,omitempty"`
	Cause    string   `json:"cause,omitempty"`
	Open     string   `json:"open,omitempty"`
	Remedy   string   `json:"remedy,omitempty"`
}

const (
	stateOK      = "ok"
	stateLost    = "lost"
	stateUnknown = "unknown"
)

func doctorCommand(e env) *cobra.Command {
	var socket, output string
	var strict bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine offers, whether the daemon does its work, and what to do about it (root)",
		Long: "Say what this machine offers, by loading every program for a moment, and whether the running daemon does its work.\n" +
			"Exit status: 0 all is well, 1 there are problems (with --strict: or notes), 2 usage, 3 no daemon answers.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("unknown output %q: table or json", output)}
			}
			var d diagnosis
			cfg, err := loadConfig(cmd)
			if err != nil {
				// The machine can be looked at whatever the file says.
				cfg, d.ConfigErr = config.Default(), err.Error()
			}
			d.Machine, d.onHost = lookAtMachine(cfg), findOnHost(cfg, os.ReadFile)
			client := control.NewClient(socketPath(cmd, socket))
			if err := d.ask(cmd.Context(), client, time.Now()); err != nil {
				return errors.Join(d.print(e, output), err)
			}
			if err := d.print(e, output); err != nil {
				return err
			}
			if d.unwell(strict) {
				return errFindings
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "the daemon's control socket (default: as configured)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 1 for notes too")
	return cmd
}

// ask has the daemon tell of itself, and finds what is wrong. It returns an
// error where no daemon told anything.
func (d *diagnosis) ask(ctx context.Context, client *control.Client, now time.Time) error {
	health, err := client.Health(ctx)
	if err != nil {
		d.DaemonErr, d.hint = err.Error(), control.Hint(err)
	} else {
		d.Daemon = &health
	}
	d.Findings = d.find(now)
	return err
}

func (d *diagnosis) print(e env, output string) error {
	if output == "json" {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
	}
	return printDiagnosis(e.stdout, d)
}

// lookAtMachine tries what the daemon would need; it changes nothing.
func lookAtMachine(cfg *config.Config) []feature {
	var list []feature
	for _, c := range kernel.Probe(kernel.Options{CgroupPath: cfg.Intercept.Cgroup, PinDir: cfg.Intercept.PinDir}) {
		f := feature{
			Name: c.Name, Optional: c.Optional, Programs: c.Programs, Detail: c.Detail, Cause: causeOf(c.Cause), Open: c.Open, Remedy: c.Remedy,
		}
		switch c.State {
		case kernel.Present:
			f.State = stateOK
		case kernel.Missing:
			f.State = stateLost
		default:
			f.State = stateUnknown
		}
		list = append(list, f)
	}
	return append(list, lookAtSeccomp(confine.Supported()), lookAtUserNamespaces(os.ReadFile))
}

func lookAtSeccomp(err error) feature {
	f := feature{Name: "seccomp", Optional: true, State: stateOK, Detail: "headgate run --confine can filter system calls"}
	if err != nil {
		f.State, f.Detail, f.Cause = stateLost, "", err.Error()
		f.Open, f.Remedy = "headgate run --confine takes no system calls away", "a kernel with CONFIG_SECCOMP_FILTER"
	}
	return f
}

// lookAtUserNamespaces reads the settings: to try, another process would have to
// become another user.
func lookAtUserNamespaces(read func(string) ([]byte, error)) feature {
	f := feature{Name: "user namespaces", Optional: true}
	for _, s := range []struct{ path, closed string }{
		{"/proc/sys/user/max_user_namespaces", "0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0"},             // Debian
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"}, // Ubuntu
	} {
		text, err := read(s.path)
		if err == nil && strings.TrimSpace(string(text)) == s.closed {
			f.State, f.Detail = stateOK, "closed to unprivileged agents ("+s.path+" is "+strconv.Quote(s.closed)+")"
			return f
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			f.State, f.Cause, f.Remedy = stateUnknown, err.Error(), "look again as root"
			return f
		}
	}
	f.State, f.Cause = stateLost, "unprivileged agents may make user namespaces"
	f.Open = "in one of its own an agent mounts what it likes, and reaches unix sockets by names that no rule knows"
	f.Remedy = "where no job needs them: sysctl user.max_user_namespaces=0, or kernel.unprivileged_userns_clone=0 (Debian)"
	return f
}
