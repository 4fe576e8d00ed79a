package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/control"
)

// The exit statuses; see the command's documentation.
const (
	exitOK          = 0
	exitFindings    = 1
	exitUsage       = 2
	exitUnreachable = 3
)

// env is what the program takes from outside, so that a test can be the outside.
type env struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
}

func defaultEnv() env {
	return env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
}

// hinted is an error together with what the reader should do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error { return hinted{err, hint} }

// usageError marks an error as the caller's: exit status 2.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// errFindings ends a command with exit status 1 after it has said everything.
var errFindings = errors.New("")

// headgate is the whole program: it runs args and returns the exit status.
func headgate(ctx context.Context, e env, args []string) int {
	root := newRoot(e)
	root.SetArgs(args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errFindings) {
		return exitFindings
	}
	complain(e, err)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, control.ErrUnreachable):
		return exitUnreachable
	default:
		return exitFindings
	}
}

// complain prints an error and its remedy: lower case, no period.
func complain(e env, err error) {
	// Standard error is the last resort; a failure to write to it has nowhere to go.
	_, _ = fmt.Fprintf(e.stderr, "headgate: error: %v\n", err)
	hint := control.Hint(err)
	var h hinted
	if hint == "" && errors.As(err, &h) {
		hint = h.hint
	}
	if hint != "" {
		_, _ = fmt.Fprintf(e.stderr, "headgate: hint: %s\n", hint)
	}
}

// printer writes to w and keeps the first error, so that a command checks once.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:           "headgate",
		Short:         "A gate that every connection of an agent, and of all it starts, has to pass",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("config", defaultConfigPath, "configuration file")
	root.AddCommand(
		daemonCommand(e), runCommand(e), enrolCommand(e), statusCommand(e), doctorCommand(e), uninstallCommand(e), reloadCommand(e), demoCommand(e), demoAgentCommand(e), canaryCommand(e),
		sessionsCommand(e), flowsCommand(e), policyCommand(e), caCommand(e), configCommand(e), versionCommand(e),
	)
	return root
}
