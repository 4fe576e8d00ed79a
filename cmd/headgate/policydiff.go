package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/policy"
)

func policyDiffCommand(e env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell in what two policy directories differ; exit 1 if they do",
		Long: `Tell in what two policy directories differ: which agents, resources, rules, masks
and defaults were added, removed or changed, wherever in their files they stand.
Exit status 1 if there is a difference. What it would have meant for what agents
did, headgate policy replay NEW tells.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("unknown output %q: table or json", output)}
			}
			var sides [2][]*policy.File
			for i, dir := range args {
				files, err := config.LoadPolicies(dir)
				if err != nil {
					return usageError{err}
				}
				sides[i] = files
			}
			return printDiff(e, output, policy.Diff(sides[0], sides[1]))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func printDiff(e env, output string, list []policy.Difference) error {
	var err error
	if output == "json" {
		err = json.NewEncoder(e.stdout).Encode(append([]policy.Difference{}, list...))
	} else {
		err = printDifferences(e, list)
	}
	if err == nil && len(list) > 0 {
		return errFindings
	}
	return err
}

func printDifferences(e env, list []policy.Difference) error {
	p := printer{w: e.stdout}
	marks := map[string]string{policy.Added: "+", policy.Removed: "-", policy.Changed: "~"}
	for _, d := range list {
		p.printf("%s %s", marks[d.Change], d.Kind)
		if d.Name != "" {
			p.printf(" %s", d.Name)
		}
		if d.Change == policy.Changed {
			p.printf(": %s: %s -> %s", d.Key, orDash(d.From), orDash(d.To))
		}
		p.printf("\n")
	}
	return p.err
}

func policySchemaCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			out := json.NewEncoder(e.stdout)
			out.SetIndent("", "  ")
			return out.Encode(policy.Schema())
		},
	}
}
