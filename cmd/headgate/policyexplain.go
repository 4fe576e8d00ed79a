package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/replay"
)

func policyExplainCommand(e env) *cobra.Command {
	o := &explainOptions{}
	cmd := &cobra.Command{
		Use:   "explain [DIR] --op OP | --session SESSION | --resource R …",
		Short: "Tell why something was decided so: every rule, and why it did or did not match (needs no daemon)",
		Long: `Tell why something was decided so: every rule of the policy, and why it did or
did not match. What is explained is an event of the record:

  headgate flows list --denied -o json      has "op" and "session" of each
  headgate policy explain --op O            an operation, by the id of its refusal
  headgate policy explain --session S       all of a session that was refused

or something that did not happen:

  headgate policy explain --agent ci --exe /usr/bin/psql --resource app-db --statement 'DROP TABLE t'

Without DIR it is the configured policy. If that changed since, what is said now
may differ from what was said then; both are shown.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return explain(cmd, e, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "the daemon's state directory (default: as configured)")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.StringVar(&o.session, "session", "", "a session of the record")
	f.StringVar(&o.op, "op", "", "one operation, by its id (default: all of the session that were denied or held, or would have been)")
	o.asked.flags(f)
	return cmd
}

type explainOptions struct {
	state, output, session, op string
	asked                      hypothetical
}

func explain(cmd *cobra.Command, e env, o *explainOptions, args []string) error {
	if o.output != "table" && o.output != "json" {
		return usageError{fmt.Errorf("unknown output %q: table or json", o.output)}
	}
	if i := strings.LastIndexByte(o.op, '-'); o.session == "" && i > 0 {
		o.session = o.op[:i] // an operation's id begins with its session's
	}
	if (o.session == "") == !o.asked.given() {
		return usageError{errors.New("want either --op or --session of something that happened, or --resource and what is done there")}
	}
	p, err := readPolicy(cmd, args)
	if err != nil {
		return err
	}
	observations, err := o.observations(cmd, p)
	if err != nil {
		return err
	}
	for i := range observations {
		one := &observations[i]
		one.Request.Operation.Facts = p.factsOf(one)
		x := p.engine.Explain(&one.Request)
		if o.output == "json" {
			err = json.NewEncoder(e.stdout).Encode(explained{of(one), replay.AnswerOf(x.Decision), x.Decision.Message, x})
		} else {
			err = printExplanation(e, one, &x)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// observations are what is to be explained.
func (o *explainOptions) observations(cmd *cobra.Command, p *loadedPolicy) ([]policy.Observation, error) {
	if o.session == "" {
		return o.asked.observations(p)
	}
	state, err := stateDir(cmd, o.state)
	if err != nil {
		return nil, err
	}
	list, err := sessionObservations(state, o.session, o.op)
	if err != nil {
		return nil, withHint(err, "the log can be checked with: headgate sessions verify")
	}
	if len(list) == 0 {
		return nil, withHint(fmt.Errorf("explain session %q: nothing of the kind is in the record", o.session),
			"headgate flows list -o json shows sessions and operations; without --op only what was refused is explained")
	}
	return list, nil
}

func sessionObservations(state, session, op string) ([]policy.Observation, error) {
	var list []policy.Observation
	for one, err := range audit.SessionObservations(state, session) {
		if err != nil {
			return nil, err
		}
		refused := one.Verdict != policy.Allow || one.WouldHave != policy.Allow
		if op == one.Op || op == "" && refused {
			list = append(list, one)
		}
	}
	return list, nil
}

// explained is what JSON says: what happened, and what is said now.
type explained struct {
	Operation operationJSON `json:"operation"`
	Now       replay.Answer `json:"now"`
	Message   string        `json:"message,omitempty"`
	policy.Explanation
}

// operationJSON is an observation in JSON.
type operationJSON struct {
	Session   string           `json:"session,omitempty"`
	Op        string           `json:"op,omitempty"`
	Agent     string           `json:"agent,omitempty"`
	Principal string           `json:"principal"`
	Target    string           `json:"target"`
	Names     []string         `json:"names,omitempty"`
	Operation policy.Operation `json:"operation"`
	Verdict   string           `json:"verdict,omitempty"`
	WouldHave string           `json:"would_have,omitempty"`
	Rule      string           `json:"rule,omitempty"`
	Reason    string           `json:"reason,omitempty"`
}

func of(o *policy.Observation) operationJSON {
	j := operationJSON{
		Session: o.Session, Op: o.Op, Agent: o.Request.Agent, Principal: o.Request.Principal.String(),
		Target: o.Request.Target.String(), Names: o.Request.Names, Operation: o.Request.Operation,
	}
	if o.Session != "" {
		j.Verdict, j.WouldHave, j.Rule, j.Reason = o.Verdict.String(), o.WouldHave.String(), o.Rule, o.Reason
	}
	return j
}

func printExplanation(e env, o *policy.Observation, x *policy.Explanation) error {
	p := printer{w: e.stdout}
	r := &o.Request
	p.printf("%s  %s\n", r.Operation.Verb, audit.Escape(r.Operation.Text))
	p.printf("  does      %s\n", strings.Join(r.Operation.Effects, ", "))
	if r.Operation.Reason != "" {
		p.printf("  because   %s\n", audit.Escape(r.Operation.Reason))
	}
	p.printf("  to        %s %s, which is of %s\n", r.Target, namesOf(r.Names), orDash(strings.Join(x.Resources, ", ")))
	p.printf("  by        %s as agent %s, on behalf of %s\n", audit.Escape(lineageOf(r)), orDash(r.Agent), audit.Escape(r.Principal.String()))
	if o.Session != "" {
		p.printf("  then      %s by %s (%s), policy generation %d\n", said(o.Verdict, o.WouldHave), orDash(o.Rule), o.Reason, o.Generation)
	}
	d := &x.Decision
	p.printf("  now       %s by %s (%s)\n", said(d.Verdict, d.WouldHave), orDash(d.Rule), d.Reason)
	if o.Session != "" && !replay.Recorded(o).Same(replay.AnswerOf(*d)) {
		p.printf("            this differs from then: the policy changed, or what it asks for is not in the record\n")
	}
	if d.Message != "" {
		p.printf("  message   %s\n", d.Message)
	}
	if x.Default != "" {
		p.printf("  default   %s\n", x.Default)
	}
	for i := range x.Rules {
		printRule(&p, &x.Rules[i])
	}
	p.printf("\n")
	return p.err
}

// printRule prints one rule: => decided, + had a say, - did not.
func printRule(p *printer, r *policy.RuleExplanation) {
	mark := "-"
	switch {
	case r.Decided:
		mark = "=>"
	case r.Matched:
		mark = "+"
	}
	mode := ""
	if r.Mode == policy.Observe {
		mode = ", observes"
	}
	p.printf("%4s %s (%s%s, %s:%d): %s\n", mark, r.Rule, r.Effect, mode, r.File, r.Line, audit.Escape(r.Why))
	c := r.Condition
	if c == nil {
		return
	}
	p.printf("       %s: %s\n", c.Result, audit.Escape(c.Part))
	for _, v := range c.Values {
		p.printf("         %s\n", audit.Escape(v))
	}
	if c.Error != "" {
		p.printf("         %s\n", audit.Escape(c.Error))
	}
}

// said is a verdict, and what would have been where that is another one.
func said(v, would policy.Verdict) string {
	if v == would {
		return v.String()
	}
	return fmt.Sprintf("%s, would %s", v, would)
}

// lineageOf is who asked, nearest first.
func lineageOf(r *policy.Request) string {
	var exes []string
	for _, p := range r.Process.Lineage() {
		if p.Image != nil {
			exes = append(exes, p.Image.Exe)
		}
	}
	return orDash(strings.Join(exes, " <- "))
}
