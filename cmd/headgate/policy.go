package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
)

func policyCommand(e env) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Check, test, explain and try policies (needs no daemon)"}
	cmd.AddCommand(policyCheckCommand(e), policyTestCommand(e), policyExplainCommand(e), policyReplayCommand(e),
		policySuggestCommand(e), policyDiffCommand(e), policySchemaCommand(e))
	return cmd
}

func policyCheckCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "check DIR",
		Short: "Compile a policy directory and list every mistake (no root, no daemon); exit 2 if there is one",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := config.LoadPolicies(args[0])
			if err != nil {
				return usageError{err}
			}
			options := compileOptions(all.Protocols(protocol.Settings{}))
			options.Generation = 1
			engine, err := options.Compile(files...)
			if err != nil {
				return usageError{err}
			}
			for _, idle := range engine.Idle() {
				if _, err := fmt.Fprintf(e.stderr, "headgate: warning: %s applies to no resource\n", idle); err != nil {
					return err
				}
			}
			for _, rule := range engine.Unreachable() {
				if _, err := fmt.Fprintf(e.stderr, "headgate: warning: %s\n", rule); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(e.stdout, "%d files, %d agents, %d resources: %s\n",
				len(files), len(engine.Agents()), len(engine.Resources()), engine.Mode())
			return err
		},
	}
}
