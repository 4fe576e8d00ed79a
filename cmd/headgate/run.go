package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/confine"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
)

func runCommand(e env) *cobra.Command {
	var agent, socket, confinement string
	cmd := &cobra.Command{
		Use:   "run [--agent NAME] [--confine MODE] -- COMMAND [ARG...]",
		Short: "Run a command as the root of an enrolled tree",
		Long: `Run a command as the root of an enrolled tree.

The calling process asks the daemon to be enrolled and then becomes COMMAND, so
that COMMAND and everything that it ever starts stays behind the gate. Needs no
privileges. If the daemon does not answer, COMMAND is not run.

--confine takes from the tree what no hook of the kernel side sees: sockets of
other address families, bpf(2), io_uring. "strict" always does, and sudo and the
like stop working in the tree; "families" leaves them alone and needs root;
"auto" is families for root, and nothing for others; "none" is nothing.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			mode, err := confine.ParseMode(confinement)
			if err != nil {
				return usageError{err}
			}
			return run(cmd.Context(), runOptions{agent: agent, socket: socketPath(cmd, socket), confine: mode, command: args})
		},
	}
	cmd.Flags().StringVar(&agent, "agent", "default", "the policy's agent whose rules apply")
	cmd.Flags().StringVar(&socket, "socket", "", "the daemon's control socket (default: as configured)")
	cmd.Flags().StringVar(&confinement, "confine", "auto", "filter of system calls: "+strings.Join(confine.Modes(), ", "))
	return cmd
}

type runOptions struct {
	agent   string
	socket  string
	confine confine.Mode
	command []string
}

// run enrols this process and replaces it by the command. It returns only if
// that failed: nothing runs that is not enrolled.
func run(ctx context.Context, o runOptions) error {
	path, err := exec.LookPath(o.command[0])
	if err != nil {
		return usageError{fmt.Errorf("find command: %w", err)}
	}
	if _, err := enrol(ctx, o.socket, o.agent, os.Getpid()); err != nil {
		return err
	}
	if _, err := confine.Install(o.confine); err != nil {
		return err
	}
	if err := syscall.Exec(path, o.command, os.Environ()); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

func enrol(ctx context.Context, socket, agent string, pid int) (control.EnrolReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	start, err := kernel.ProcStart(pid)
	if err != nil {
		return control.EnrolReply{}, fmt.Errorf("enrol pid %d: %w", pid, err)
	}
	return control.NewClient(socket).Enrol(ctx, control.EnrolRequest{
		Agent: agent, PID: uint32(pid), Start: start,
	})
}

func enrolCommand(e env) *cobra.Command {
	var agent, socket string
	cmd := &cobra.Command{
		Use:   "enrol PID",
		Short: "Enrol a running process and all that it starts from now on (root)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err := strconv.Atoi(args[0])
			if err != nil || pid <= 0 {
				return usageError{fmt.Errorf("not a pid: %q", args[0])}
			}
			reply, err := enrol(cmd.Context(), socketPath(cmd, socket), agent, pid)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "enrolled %v as agent %q\n", reply.Root, reply.Agent)
			return err
		},
	}
	cmd.Flags().StringVar(&agent, "agent", "default", "the policy's agent whose rules apply")
	cmd.Flags().StringVar(&socket, "socket", "", "the daemon's control socket (default: as configured)")
	return cmd
}
