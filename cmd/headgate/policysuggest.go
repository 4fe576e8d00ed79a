package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/suggest"
)

func policySuggestCommand(e env) *cobra.Command {
	o := &suggestOptions{}
	cmd := &cobra.Command{
		Use:   "suggest [DIR]",
		Short: "Write a policy that allows what was seen, and nothing else (needs no daemon)",
		Long: `Write a policy that allows what was seen, and nothing else: one complete file, with
how often, when and by which executables each was done. Of the policy in DIR, or the
configured one, agents, resources and masks are kept, and the rules are replaced.

  headgate policy suggest --since 168h > suggested/ci.yaml
  headgate policy replay suggested
  headgate policy test suggested

It holds no text of an operation and no argument of a process. Whatever an agent did
that it should not have is in it too: read it before you use it.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return suggestPolicy(cmd, e, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "the daemon's state directory (default: as configured)")
	f.DurationVar(&o.since, "since", 0, "only what happened within this time, as in 168h")
	f.StringVar(&o.agent, "agent", "", "only what this agent did")
	f.StringVar(&o.principal, "principal", "", "only what was done on behalf of this principal")
	f.IntVar(&o.wildcard, "wildcard", 10, "how many names below one domain become *.domain; 0: never")
	f.BoolVar(&o.enforce, "enforce", false, "let the policy enforce; otherwise it observes")
	return cmd
}

type suggestOptions struct {
	state, agent, principal string
	since                   time.Duration
	wildcard                int
	enforce                 bool
}

func suggestPolicy(cmd *cobra.Command, e env, o *suggestOptions, args []string) error {
	if o.wildcard < 0 || o.since < 0 {
		return usageError{errors.New("--wildcard and --since can't be negative")}
	}
	existing, err := existingPolicy(cmd, args)
	if err != nil {
		return err
	}
	state, err := stateDir(cmd, o.state)
	if err != nil {
		return err
	}
	s := suggest.New(o.suggestion(existing))
	from, count := time.Time{}, 0
	if o.since > 0 {
		from = time.Now().Add(-o.since)
	}
	for one, err := range audit.Observations(state, from) {
		if err != nil {
			return withHint(err, "the log can be checked with: headgate sessions verify")
		}
		if (o.agent == "" || o.agent == one.Request.Agent) && (o.principal == "" || o.principal == one.Request.Principal.String()) {
			s.Add(&one)
			count++
		}
	}
	if count == 0 {
		return withHint(errors.New("suggest policy: nothing was observed"), "headgate flows list shows what is in the record; without agents that connect to something there is nothing to suggest")
	}
	if err := s.Write(e.stdout); err != nil {
		return fmt.Errorf("suggest policy: %w", err)
	}
	return nil
}

func (o *suggestOptions) suggestion(existing []*policy.File) suggest.Options {
	mode := policy.Observe
	if o.enforce {
		mode = policy.Enforce
	}
	return suggest.Options{Wildcard: o.wildcard, Mode: mode, Existing: existing}
}

// existingPolicy reads the policy that a suggestion is to replace.
func existingPolicy(cmd *cobra.Command, args []string) ([]*policy.File, error) {
	dir, err := policyDir(cmd, args)
	if err != nil {
		return nil, err
	}
	files, err := config.LoadPolicies(dir)
	if err != nil {
		return nil, usageError{err}
	}
	return files, nil
}
