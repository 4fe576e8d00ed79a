package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/protocol/postgres/toy"
)

// say prints to the person who watches.
func (d *demo) say(format string, args ...any) error {
	_, err := fmt.Fprintf(d.stdout, format+"\n", args...)
	return err
}

// quote prints what a process of the demonstration printed.
func (d *demo) quote(text string) error {
	for line := range strings.Lines(text) {
		if err := d.say("    │ %s", audit.Escape(strings.TrimRight(line, "\n"))); err != nil {
			return err
		}
	}
	return nil
}

// keep notes whether a promise was kept.
func (d *demo) keep(kept bool, what string) error {
	d.promises = append(d.promises, promise{what, kept})
	mark := "✓"
	if !kept {
		mark = "✗ NOT KEPT:"
	}
	return d.say("    %s %s\n", mark, what)
}

// scene is one thing to show: what a process does, and what must be true of
// what it printed.
type scene struct {
	title, part, promise string
	run                  func(context.Context, string) (string, error)
	kept                 func(printed string) bool
}

func (d *demo) scenes() []scene {
	return []scene{
		{
			"The same query from outside the tree, with the password: untouched.", "read",
			"outside the tree nothing is changed", d.outsider,
			func(s string) bool { return containsAll(s, secrets()) },
		},
		{
			"An agent, three processes down and detached, knows no password and no proxy.", "read",
			"the agent was logged in, and cards, numbers and addresses are masked", d.agent,
			func(s string) bool { return strings.Contains(s, "Ada Lovelace") && !containsAny(s, secrets()) },
		},
		{
			"It tries to drop the table.", "drop",
			"the refusal says which rule it was, and the table is there", d.agent,
			func(s string) bool {
				return containsAll(s, []string{"42501", "no-schema-changes", "HINT"}) && !d.database.Dropped()
			},
		},
		{
			"It hides the same in a comment and behind a harmless statement.", "hide",
			"each is judged for what it does", d.agent,
			func(s string) bool { return strings.Count(s, "42501") == 3 && !d.database.Dropped() },
		},
		{
			"It asks the cloud's metadata address for credentials.", "metadata",
			"refused in the kernel", d.agent,
			func(s string) bool { return strings.Contains(s, "operation not permitted") },
		},
	}
}

// show plays the scenes.
func (d *demo) show(ctx context.Context) error {
	if err := d.say("headgate %s: attached to a cgroup of its own, toy database on 127.0.0.1:%d\n", version(), d.port); err != nil {
		return err
	}
	for _, s := range d.scenes() {
		printed, err := s.run(ctx, s.part)
		err = errors.Join(err, d.say("▌ %s", s.title), d.quote(printed), d.keep(s.kept(printed), s.promise))
		if err != nil {
			return err
		}
	}
	return d.showMetrics()
}

// showMetrics prints the figures that moved.
func (d *demo) showMetrics() error {
	page := httptest.NewRecorder()
	d.daemon.metrics.Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	moved := 0
	if err := d.say("▌ The metrics that moved."); err != nil {
		return err
	}
	for line := range strings.Lines(page.Body.String()) {
		line = strings.TrimSpace(line)
		if strings.HasSuffix(line, " 0") || !containsAny(line, []string{
			"headgate_decisions_total{", "headgate_redirects_total{", "headgate_attached_programs ", "headgate_kernel_denied_total{", "headgate_masked_values_total{",
		}) || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.Contains(line, `verdict="deny"`) {
			moved++
		}
		if err := d.quote(line); err != nil {
			return err
		}
	}
	return d.keep(moved > 0, "denials are counted by protocol, rule and stage")
}

// showRecord reads what the daemon left: who it was, what happened, and that
// nobody edited it.
func (d *demo) showRecord() error {
	list, err := audit.Sessions(d.cfg.State, audit.Filter{Denied: true})
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return d.keep(false, "denied sessions are recorded")
	}
	detail, err := audit.Session(d.cfg.State, list[0].ID)
	if err != nil {
		return err
	}
	var played strings.Builder
	err = errors.Join(audit.Play(&played, detail, audit.PlayOptions{}),
		d.say("▌ headgate sessions play %s", detail.Summary.ID), d.quote(played.String()))
	if err != nil {
		return err
	}
	lineage := detail.Open.Lineage
	err = d.keep(len(lineage) >= 3 && !detail.Open.LineagePartial, "the whole lineage is in the record, though every process in it is gone")
	if err != nil {
		return err
	}
	report, err := audit.Verify(d.cfg.State)
	if err != nil {
		return err
	}
	return errors.Join(
		d.say("▌ headgate sessions verify\n    │ %d events, %d sessions, %d recordings, head %.16s…", report.Events, report.Sessions, report.Recordings, report.Head),
		d.keep(report.OK(), "nobody edited the record"))
}

// verdict fails if a promise was not kept.
func (d *demo) verdict() error {
	broken := 0
	for _, p := range d.promises {
		if !p.kept {
			broken++
		}
	}
	if err := d.say("%d promises, %d kept. Nothing is left behind.", len(d.promises), len(d.promises)-broken); err != nil {
		return err
	}
	if broken > 0 {
		return errFindings
	}
	return nil
}

// secrets is what no agent may see.
func secrets() []string {
	var list []string
	for _, row := range toy.Rows() {
		list = append(list, row[1:]...)
	}
	return list
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func containsAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
