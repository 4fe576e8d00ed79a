package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
)

const stopFirst = "stop it first: systemctl stop headgate, or end the process"

func uninstallCommand(e env) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Detach everything, and remove what the daemon made in the kernel (root)",
		Long: "Detach the programs of every version, and remove their pins, the daemon's cgroups and its control socket.\n" +
			"Agents are free afterwards. The record, the configuration and the policies stay.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if errors.Is(err, os.ErrNotExist) && !cmd.Flags().Changed("config") {
				// Who has removed the configuration already had the usual places.
				cfg, err = config.Default(), nil
			}
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return withHint(errors.New("only root may uninstall"), "try again with sudo")
			}
			// Nothing may be pinned; then only the socket tells of a daemon.
			if _, err := control.NewClient(cfg.Control.Socket).Status(cmd.Context()); err == nil {
				return withHint(fmt.Errorf("a daemon runs: it answers at %s", cfg.Control.Socket), stopFirst)
			}
			if !yes {
				if err := confirm(e, cfg); err != nil {
					return err
				}
			}
			return uninstall(e, cfg)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirm asks a person. Who is none has to say so: an empty answer is no.
func confirm(e env, cfg *config.Config) error {
	const without = "say --yes where nobody can be asked"
	if f, ok := e.stdin.(*os.File); ok && !isTerminal(f) {
		return usageError{withHint(errors.New("nobody can be asked: standard input is no terminal"), without)}
	}
	if _, err := fmt.Fprintf(e.stderr, "Detach everything below %s and let every agent go? [y/N] ", orNone(cfg.Intercept.PinDir)); err != nil {
		return err
	}
	answer, err := bufio.NewReader(io.LimitReader(e.stdin, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return withHint(errors.New("nothing was removed"), without)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// removal says what was removed and what not.
type removal struct {
	printer
	failed bool // something of ours is still there
}

// uninstall removes what it can, says what it kept, and fails if that includes
// something which it should have removed.
func uninstall(e env, cfg *config.Config) error {
	p := removal{printer: printer{w: e.stdout}}
	if dir := cfg.Intercept.PinDir; dir != "" {
		_, gone := os.Stat(dir)
		err := kernel.Uninstall(dir)
		if errors.Is(err, kernel.ErrBusy) {
			return withHint(fmt.Errorf("a daemon runs: %w", err), stopFirst)
		}
		if err != nil {
			return err
		}
		if gone == nil {
			p.printf("removed   programs and maps pinned in %s\n", dir)
		}
	}
	p.removeCgroups(cfg.Intercept.Cgroup)
	err := p.removeSocket(cfg.Control.Socket)
	if p.err != nil || err != nil {
		return errors.Join(p.err, err)
	}
	p.kept(cfg.State, "the record of what was decided and said", "rm -r")
	p.kept(config.DefaultPath, "the configuration", "rm")
	p.kept(filepath.Join(filepath.Dir(config.DefaultPath), "conf.d"), "its drop-ins", "rm -r")
	p.kept(cfg.Policies, "the policies", "rm -r")
	if p.err == nil && p.failed {
		return errFindings
	}
	return p.err
}

// removeCgroups removes the two that the daemon makes below an attach point that
// is not the root. The attach point itself may be somebody else's.
func (p *removal) removeCgroups(path string) {
	if mount, err := cgroup.Mount(); path == "" || err == nil && filepath.Clean(path) == mount {
		return
	}
	for _, name := range []string{"daemon", agentsCgroup} {
		dir := filepath.Join(path, name)
		if _, err := cgroup.ID(dir); err != nil {
			continue // it is not there, or no cgroup
		}
		err := cgroup.Remove(dir)
		switch {
		case errors.Is(err, syscall.EBUSY):
			p.failed = true
			p.printf("kept      %s: processes or cgroups are in it; when they are gone: rmdir %s\n", dir, dir)
		case err != nil:
			p.failed = true
			p.printf("kept      %v\n", err)
		default:
			p.printf("removed   %s\n", dir)
		}
	}
	p.kept(path, "the cgroup that was attached to", "if nothing else uses it: rmdir")
}

// removeSocket removes the control socket, the certificate beside it, and their
// directory where that is the usual one, which nobody else has.
func (p *removal) removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove control socket: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		p.printf("kept      %s: it is no socket\n", path)
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove control socket: %w", err)
	}
	p.printf("removed   %s\n", path)
	if err := os.Remove(authorityPath(path)); err == nil {
		p.printf("removed   %s\n", authorityPath(path))
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove certificate: %w", err)
	}
	if dir := filepath.Dir(path); dir == filepath.Dir(config.Default().Control.Socket) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("remove runtime directory: %w", err)
		}
	}
	return nil
}

// kept names what is there still, and how to remove it.
func (p *removal) kept(path, what, how string) {
	if _, err := os.Lstat(path); err == nil {
		p.printf("kept      %s: %s; to remove it: %s %s\n", path, what, how, path)
	}
}
