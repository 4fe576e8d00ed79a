package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy/replay"
)

func policyReplayCommand(e env) *cobra.Command {
	var state, output string
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "replay DIR",
		Short: "Tell what would have gone otherwise under this policy; exit 1 if it would have refused more (needs no daemon)",
		Long: `Tell what would have gone otherwise under this policy: every connection and
operation of the record is decided again, and those whose answer differs are
listed, what would have been refused or held first. Exit status 1 if there is any
of these.

The record has the texts of operations and not the databases that they met. A
condition that asks for more is counted as unsure; it denies here.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("unknown output %q: table or json", output)}
			}
			p, err := readPolicyDir(cmd, args[0])
			if err != nil {
				return err
			}
			dir, err := stateDir(cmd, state)
			if err != nil {
				return err
			}
			from := time.Time{}
			if since > 0 {
				from = time.Now().Add(-since)
			}
			r := replay.New(p.engine, p.read)
			for o, err := range audit.Observations(dir, from) {
				if err != nil {
					return withHint(err, "the log can be checked with: headgate sessions verify")
				}
				r.Add(&o)
			}
			return printReplay(e, output, args[0], r.Report())
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "the daemon's state directory (default: as configured)")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.DurationVar(&since, "since", 0, "only what happened within this time, as in 168h")
	return cmd
}

// replayJSON is a report in JSON.
type replayJSON struct {
	Operations uint64       `json:"operations"`
	Same       uint64       `json:"same"`
	Refuses    uint64       `json:"would_refuse"`
	Allows     uint64       `json:"would_allow"`
	Unsure     uint64       `json:"unsure"`
	Changes    []changeJSON `json:"changes"`
}

type changeJSON struct {
	Count   uint64        `json:"count"`
	Agents  []string      `json:"agents"`
	From    replay.Answer `json:"from"`
	To      replay.Answer `json:"to"`
	Example operationJSON `json:"example"`
}

func printReplay(e env, output, dir string, r replay.Report) error {
	var err error
	if output == "json" {
		err = json.NewEncoder(e.stdout).Encode(replayOf(r))
	} else {
		err = printChanges(e, dir, r)
	}
	if err == nil && r.Refuses() > 0 {
		return errFindings
	}
	return err
}

func replayOf(r replay.Report) replayJSON {
	j := replayJSON{Operations: r.Total, Same: r.Same, Refuses: r.Refuses(), Allows: r.Allows(), Unsure: r.Unsure, Changes: []changeJSON{}}
	for i := range r.Changes {
		c := &r.Changes[i]
		j.Changes = append(j.Changes, changeJSON{
			Count: c.Count, Agents: c.Agents, From: c.From, To: c.To, Example: of(&c.Example),
		})
	}
	return j
}

func printChanges(e env, dir string, r replay.Report) error {
	p := printer{w: e.stdout}
	p.printf("%d operations: %d as before, %d would be refused or held, %d would pass further, %d unsure\n", r.Total, r.Same, r.Refuses(), r.Allows(), r.Unsure)
	for i := range r.Changes {
		c := &r.Changes[i]
		p.printf("\n%d x  %s by %s  ->  %s by %s (%s)  at %s  agents %s\n", c.Count,
			said(c.From.Verdict, c.From.WouldHave), orDash(c.From.Rule), said(c.To.Verdict, c.To.WouldHave), orDash(c.To.Rule), c.To.Reason,
			orDash(c.To.Resource), strings.Join(c.Agents, ", "))
		o := &c.Example
		p.printf("    as in %s %s  %s  %s\n", o.Session, o.Op, o.Request.Operation.Verb, audit.Escape(o.Request.Operation.Text))
		p.printf("    headgate policy explain %s --op %s\n", dir, o.Op)
	}
	return p.err
}
