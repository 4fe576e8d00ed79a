package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

func flowsCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List or watch all that agents tried, and what was said to it (needs no daemon)",
		Long: `List or watch all that agents tried, and what was said to it, one line each:

  connect    a connection, or what is one of UDP: whether its session might begin
  operation  one thing that was asked for in a session: a statement, a request, a name
  escape     what the kernel side refused, past which no session begins: a datagram,
             a socket of another kind, a socket of another daemon, the metadata address
  refused    connections above the limit of sessions, counted together
  enrol      a process tree that became an agent
  finding    a secret where it has no business: an agent that logged in with it, a
             target that sent it back

Flows are read from the record, which belongs to the daemon's user. With
--output json each line is an object with stable keys.`,
	}
	o := &flowOptions{}
	cmd.PersistentFlags().StringVar(&o.state, "state", "", "the daemon's state directory (default: as configured)")
	cmd.PersistentFlags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.PersistentFlags().StringVar(&o.filter.Agent, "agent", "", "only this agent's")
	cmd.PersistentFlags().StringVar(&o.filter.Principal, "principal", "", "only those on behalf of this principal")
	cmd.PersistentFlags().StringVar(&o.filter.Protocol, "protocol", "", "only connections and operations of this protocol")
	cmd.PersistentFlags().StringSliceVar(&o.filter.Kinds, "kind", nil, "only these kinds: "+strings.Join(audit.FlowKinds(), ", "))
	cmd.PersistentFlags().BoolVar(&o.filter.Refused, "denied", false, "only what was denied or held, or would have been")
	cmd.PersistentFlags().StringVar(&o.tree, "tree", "", "only the tree of this root: PID, or PID@START as --output json has it")
	cmd.PersistentFlags().DurationVar(&o.since, "since", 0, "only what happened within this time, as in 24h")
	cmd.AddCommand(flowsListCommand(e, o), flowsWatchCommand(e, o))
	return cmd
}

type flowOptions struct {
	state, output, tree string
	since               time.Duration
	filter              audit.FlowFilter
}

// selection checks what the command was given, and returns what it means at
// that time.
func (o *flowOptions) selection(cmd *cobra.Command, now time.Time) (state string, f audit.FlowFilter, err error) {
	if o.output != "table" && o.output != "json" {
		return "", f, usageError{fmt.Errorf("unknown output %q: table or json", o.output)}
	}
	f = o.filter
	for _, kind := range f.Kinds {
		if !slices.Contains(audit.FlowKinds(), kind) {
			return "", f, usageError{fmt.Errorf("unknown kind %q: %s", kind, strings.Join(audit.FlowKinds(), ", "))}
		}
	}
	if f.Tree, err = parseTree(o.tree); err != nil {
		return "", f, usageError{err}
	}
	if o.since < 0 {
		return "", f, usageError{fmt.Errorf("--since %s lies in the future", o.since)}
	}
	if o.since > 0 {
		f.Since = now.Add(-o.since)
	}
	state, err = stateDir(cmd, o.state)
	return state, f, err
}

// parseTree reads the pid of a tree's root, and its start time where it is
// given. Nothing stands for all trees.
func parseTree(s string) (id process.ID, err error) {
	if s == "" {
		return id, nil
	}
	digits, start, exact := strings.Cut(s, "@")
	pid, err := strconv.ParseUint(digits, 10, 32)
	if err == nil && exact {
		id.Start, err = strconv.ParseUint(start, 10, 64)
	}
	if err != nil || pid == 0 || exact && id.Start == 0 {
		return process.ID{}, fmt.Errorf("not a root of a tree: %q, want PID or PID@START", s)
	}
	id.PID = uint32(pid)
	return id, nil
}

func flowsListCommand(e env, o *flowOptions) *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what agents tried, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, filter, err := o.selection(cmd, time.Now())
			if err != nil {
				return err
			}
			if limit < 0 {
				return usageError{fmt.Errorf("--limit %d: want none or more", limit)}
			}
			flows := audit.Flows(state, filter)
			if limit > 0 {
				flows = newest(flows, limit)
			}
			return printFlows(newFlowPrinter(e, o.output), flows)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "only the newest N")
	return cmd
}

func flowsWatchCommand(e env, o *flowOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Show what agents try as it happens; with --since also what they did before",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			state, filter, err := o.selection(cmd, now)
			if err != nil {
				return err
			}
			if filter.Since.IsZero() {
				filter.Since = now
			}
			return watchFlows(cmd.Context(), newFlowPrinter(e, o.output), state, filter)
		},
	}
}

func watchFlows(ctx context.Context, p flowPrinter, state string, filter audit.FlowFilter) error {
	return printFlows(p, audit.FollowFlows(ctx, state, filter))
}

// newest passes on the last n of a sequence, and keeps no more than twice as many.
// What came before an error is passed on before it.
func newest(flows iter.Seq2[audit.Flow, error], n int) iter.Seq2[audit.Flow, error] {
	return func(yield func(audit.Flow, error) bool) {
		var kept []audit.Flow
		var broken error
		for f, err := range flows {
			if err != nil {
				broken = err
				break
			}
			if kept = append(kept, f); len(kept) >= 2*n {
				kept = append(kept[:0], kept[len(kept)-n:]...)
			}
		}
		for _, f := range kept[max(0, len(kept)-n):] {
			if !yield(f, nil) {
				return
			}
		}
		if broken != nil {
			yield(audit.Flow{}, broken)
		}
	}
}

func printFlows(p flowPrinter, flows iter.Seq2[audit.Flow, error]) error {
	if err := p.heading(); err != nil {
		return err
	}
	for f, err := range flows {
		if err != nil {
			return withHint(err, "the record is read as the daemon's user, so with sudo; headgate sessions verify checks it")
		}
		if err := p.flow(&f); err != nil {
			return err
		}
	}
	return nil
}

// flowPrinter prints flows one by one: whoever watches does not wait for the next.
type flowPrinter struct {
	p    *printer
	json *json.Encoder // nil for a table
}

func newFlowPrinter(e env, output string) flowPrinter {
	if output == "json" {
		return flowPrinter{json: json.NewEncoder(e.stdout)}
	}
	return flowPrinter{p: &printer{w: e.stdout}}
}

const flowLine = "%-20s %-12s %-9s %-10s %-28s %-24s %s\n"

func (p flowPrinter) heading() error {
	if p.json != nil {
		return nil
	}
	p.p.printf(flowLine, "TIME", "AGENT", "KIND", "VERDICT", "PROCESS", "TARGET", "WHAT")
	return p.p.err
}

func (p flowPrinter) flow(f *audit.Flow) error {
	if p.json != nil {
		return p.json.Encode(f)
	}
	p.p.printf(flowLine, f.Time.UTC().Format(tableTime), orDash(f.Agent), f.Kind, verdictOf(f), processOf(f), targetOf(f), whatOf(f))
	return p.p.err
}

const tableTime = "2006-01-02 15:04:05Z"

// orDash makes a text from outside fit to stand in a table: a column is never
// empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return audit.Escape(s)
}

// verdictOf is the word for what was said.
func verdictOf(f *audit.Flow) string {
	switch {
	case f.Verdict == "":
		return "-"
	case f.Verdict == policy.Approve.String():
		return "held"
	case f.Verdict != policy.Allow.String():
		return "denied"
	case f.WouldHave == policy.Approve.String():
		return "would hold"
	case f.Refused():
		return "would deny"
	default:
		return "allowed"
	}
}

func processOf(f *audit.Flow) string {
	if f.Process.PID == 0 {
		return "-"
	}
	return fmt.Sprintf("%s[%d]", audit.Escape(f.Exe), f.Process.PID)
}

func targetOf(f *audit.Flow) string {
	target := orDash(f.Target)
	if len(f.Names) > 0 {
		target += " (" + namesOf(f.Names) + ")"
	}
	return target
}

// namesOf is the name that was told most recently, and how many others there are.
func namesOf(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	name := audit.Escape(names[0])
	if len(names) > 1 {
		name += fmt.Sprintf(" +%d", len(names)-1)
	}
	return name
}

// whatOf tells the rest: what was asked for, and why it was answered so.
func whatOf(f *audit.Flow) string {
	var words []string
	add := func(s string) {
		if s != "" {
			words = append(words, shortened(s))
		}
	}
	add(f.Protocol)
	if f.Kind != audit.FlowConnect {
		add(f.What)
	}
	if f.Resource != "" {
		add("at " + f.Resource)
	}
	if f.Count > 1 {
		add("x" + strconv.FormatUint(f.Count, 10))
	}
	for _, each := range []struct{ name, value string }{
		{"", f.Text}, {"rule: ", f.Rule}, {"would be by: ", f.WouldHaveRule}, {"reason: ", f.Reason}, {"message: ", f.Message},
	} {
		if each.value != "" {
			add(each.name + each.value)
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, "  ")
}

// shownText bounds, in characters, what a table shows of a text from outside.
const shownText = 80

func shortened(s string) string {
	short := s
	// Escaping makes of one byte up to four characters, so that no more is needed.
	for i, n := 0, 0; i < len(s); n++ {
		if n == shownText {
			short = s[:i]
			break
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	if len(short) < len(s) {
		return audit.Escape(short) + "…"
	}
	return audit.Escape(s)
}
