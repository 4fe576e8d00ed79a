package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/policytest"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
)

type policyTestOptions struct {
	output, run string
	coverageMin float64
}

func policyTestCommand(e env) *cobra.Command {
	o := policyTestOptions{}
	cmd := &cobra.Command{
		Use:   "test DIR|FILE...",
		Short: "Run the tests beside a policy (no root, no daemon); exit 1 if one fails, 2 if a file is wrong",
		Long: `Run the tests beside a policy. Nothing is contacted, and no daemon is needed.

Tests are in NAME` + policytest.Suffix + ` beside NAME.yaml: on whose behalf, from which programs, what is
asked for, and what the policy is expected to say. Of a directory all tests are run.
They are about all policy files of the directory together, unless a file of tests
lists others; where policy files are given, about these alone.

Exit status: 0 all passed, 1 a test failed or the coverage is too low, 2 a file is wrong.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MinimumNArgs(1)(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return o.test(e, args) },
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table, json or junit")
	cmd.Flags().StringVar(&o.run, "run", "", "only tests whose names match this regular expression")
	cmd.Flags().Float64Var(&o.coverageMin, "coverage-min", 0, "fail if fewer percent of the rules and masks are in a test")
	return cmd
}

// test runs the tests that are in, or beside, the paths.
func (o *policyTestOptions) test(e env, paths []string) error {
	write := map[string]func(*policytest.Report) error{
		"table": func(r *policytest.Report) error { return r.WriteTable(e.stdout) },
		"json":  func(r *policytest.Report) error { return r.WriteJSON(e.stdout) },
		"junit": func(r *policytest.Report) error { return r.WriteJUnit(e.stdout) },
	}[o.output]
	if write == nil {
		return usageError{fmt.Errorf("unknown output %q: table, json or junit", o.output)}
	}
	if o.coverageMin < 0 || o.coverageMin > 100 {
		return usageError{fmt.Errorf("--coverage-min %g: want 0 to 100", o.coverageMin)}
	}
	only, err := regexp.Compile(o.run)
	if err != nil {
		return usageError{fmt.Errorf("--run: %w", err)}
	}
	suites, err := config.LoadPolicyTests(paths...)
	if err != nil {
		return usageError{err}
	}
	options := testOptions(all.Protocols(protocol.Settings{}))
	options.Only = only.MatchString
	report, err := options.Run(suites...)
	if err != nil {
		return usageError{err}
	}
	if len(report.Results) == 0 {
		return usageError{fmt.Errorf("no test in %s has a name that matches %q", strings.Join(paths, ", "), o.run)}
	}
	if err := write(report); err != nil {
		return err
	}
	return o.verdict(report)
}

// testOptions are what all tests are run with: what the daemon compiles policies with,
// and the protocols' own word for what a statement does.
func testOptions(protocols []protocol.Protocol) policytest.Options {
	return policytest.Options{
		Policy: compileOptions(protocols),
		Read:   func(name, text string) ([]policy.Operation, error) { return all.Read(protocols, name, text) },
	}
}

// verdict says whether the report is good enough.
func (o *policyTestOptions) verdict(report *policytest.Report) error {
	covered, total := report.CoveredParts(), len(report.Coverage)
	switch {
	case total > 0 && float64(covered)*100 < o.coverageMin*float64(total):
		return withHint(
			fmt.Errorf("coverage is %.1f%%, below %g%%: %d of %d rules and masks are in a test", report.Percent(), o.coverageMin, covered, total),
			"--output table lists those that are in none")
	case report.Failed() > 0:
		return errFindings
	}
	return nil
}
