package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/audit"
)

func sessionsCommand(e env) *cobra.Command {
	var state, output string
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List, show, play and verify what was recorded (needs no daemon)",
	}
	cmd.PersistentFlags().StringVar(&state, "state", "", "the daemon's state directory (default: as configured)")
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "table", "table or json")
	stateOf := func(cmd *cobra.Command) (string, error) {
		if output != "table" && output != "json" {
			return "", usageError{fmt.Errorf("unknown output %q: table or json", output)}
		}
		return stateDir(cmd, state)
	}
	cmd.AddCommand(
		sessionsListCommand(e, &output, stateOf),
		sessionsShowCommand(e, &output, stateOf),
		sessionsPlayCommand(e, &output, stateOf),
		sessionsVerifyCommand(e, &output, stateOf),
	)
	return cmd
}

type stateOf func(*cobra.Command) (string, error)

func sessionsListCommand(e env, output *string, state stateOf) *cobra.Command {
	var filter audit.Filter
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sessions, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := state(cmd)
			if err != nil {
				return err
			}
			if since > 0 {
				filter.Since = time.Now().Add(-since)
			}
			list, err := audit.Sessions(dir, filter)
			if err != nil {
				return withHint(err, "the log can be checked with: headgate sessions verify")
			}
			if *output == "json" {
				return json.NewEncoder(e.stdout).Encode(list)
			}
			return printSessions(e, list)
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only sessions opened within this time, as in 24h")
	cmd.Flags().StringVar(&filter.Agent, "agent", "", "only this agent's")
	cmd.Flags().StringVar(&filter.Resource, "resource", "", "only to this resource")
	cmd.Flags().BoolVar(&filter.Denied, "denied", false, "only those in which something was denied")
	cmd.Flags().IntVar(&filter.Limit, "limit", 0, "only the newest N")
	return cmd
}

func printSessions(e env, list []audit.SessionSummary) error {
	p := printer{w: e.stdout}
	p.printf("%-26s %-20s %-12s %-28s %-16s %-22s %-24s %4s %6s %6s  %s\n",
		"SESSION", "OPENED", "AGENT", "EXE", "RESOURCE", "TARGET", "NAME", "OPS", "DENIED", "MASKED", "END")
	for _, s := range list {
		end := "open"
		if s.End != nil {
			end = s.End.Reason
		}
		p.printf("%-26s %-20s %-12s %-28s %-16s %-22s %-24s %4d %6d %6d  %s\n", s.ID, s.Opened.UTC().Format(tableTime),
			orDash(s.Agent), orDash(s.Exe), orDash(s.Resource), s.Origin.Target, namesOf(s.Names), s.Decisions, s.Denied, s.Masked, audit.Escape(end))
	}
	return p.err
}

func sessionsShowCommand(e env, output *string, state stateOf) *cobra.Command {
	return &cobra.Command{
		Use:   "show SESSION",
		Short: "Show who was behind a session and every decision in it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			detail, err := readSession(cmd, state, args[0])
			if err != nil {
				return err
			}
			return printSession(e, *output, detail, audit.PlayOptions{EventsOnly: true})
		},
	}
}

func sessionsPlayCommand(e env, output *string, state stateOf) *cobra.Command {
	return &cobra.Command{
		Use:   "play SESSION",
		Short: "Play a session back: every decision, and what was said",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			detail, err := readSession(cmd, state, args[0])
			if err != nil {
				return err
			}
			return printSession(e, *output, detail, audit.PlayOptions{})
		},
	}
}

func readSession(cmd *cobra.Command, state stateOf, id string) (*audit.SessionDetail, error) {
	dir, err := state(cmd)
	if err != nil {
		return nil, err
	}
	detail, err := audit.Session(dir, id)
	if errors.Is(err, audit.ErrSessionID) {
		return nil, usageError{withHint(err, "headgate sessions list prints the ids")}
	}
	if err != nil {
		return nil, withHint(err, "headgate sessions list prints the ids; headgate sessions verify checks the log")
	}
	return detail, nil
}

func printSession(e env, output string, detail *audit.SessionDetail, o audit.PlayOptions) error {
	if output == "json" {
		return json.NewEncoder(e.stdout).Encode(detail)
	}
	if err := audit.Play(e.stdout, detail, o); err != nil {
		return err
	}
	if detail.Recording != nil {
		return errFindings
	}
	return nil
}

func sessionsVerifyCommand(e env, output *string, state stateOf) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Recompute the log's hash chain and every recording's; exit 1 if anything was edited",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := state(cmd)
			if err != nil {
				return err
			}
			report, err := audit.Verify(dir)
			if err != nil {
				return err
			}
			if *output == "json" {
				err = json.NewEncoder(e.stdout).Encode(report)
			} else {
				err = printReport(e, report)
			}
			if err == nil && !report.OK() {
				err = errFindings
			}
			return err
		},
	}
}

func printReport(e env, r *audit.VerifyReport) error {
	p := printer{w: e.stdout}
	p.printf("events      %d, unbroken up to head %s\n", r.Events, r.Head)
	p.printf("sessions    %d, %d of them open\n", r.Sessions, r.Open)
	p.printf("recordings  %d good\n", r.Recordings)
	for _, problem := range r.Problems {
		p.printf("PROBLEM     %s\n", audit.Escape(problem.String()))
	}
	if r.OK() {
		p.printf("verified: nobody edited the record\n")
	}
	return p.err
}
