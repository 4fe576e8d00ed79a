package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/control"
)

// doctorWidth is how wide lines may be. No colours: it reads the same in a file.
const doctorWidth = 100

func printDiagnosis(w io.Writer, d *diagnosis) error {
	p := printer{w: w}
	problems := 0
	for _, f := range d.Findings {
		if f.Level == levelProblem {
			problems++
		}
	}
	switch {
	case d.Daemon == nil:
		p.printf("no daemon answers; %s\n", amount(problems, len(d.Findings)-problems))
	case problems == 0:
		p.printf("well: agents are mediated; %s\n", amount(problems, len(d.Findings)-problems))
	default:
		p.printf("not well: %s\n", amount(problems, len(d.Findings)-problems))
	}
	for _, f := range d.Findings {
		p.wrapped(fmt.Sprintf("  %-8s", strings.ToUpper(f.Level)), f.About+": "+f.Text)
		if f.Remedy != "" {
			p.wrapped("          ", "remedy: "+f.Remedy)
		}
	}
	p.printf("\nmachine\n")
	for _, f := range d.Machine {
		p.feature(f)
	}
	if d.Daemon != nil {
		p.health(d.Daemon)
	}
	return p.err
}

func amount(problems, notes int) string {
	return plural(problems, "problem") + ", " + plural(notes, "note")
}

func plural(n int, word string) string {
	switch n {
	case 0:
		return "no " + word + "s"
	case 1:
		return "1 " + word
	default:
		return fmt.Sprintf("%d %ss", n, word)
	}
}

// wrapped prints text after head, and what does not fit below it.
func (p *printer) wrapped(head, text string) {
	line := head
	started := false
	for word := range strings.FieldsSeq(text) {
		if started && len(line)+1+len(word) > doctorWidth {
			p.printf("%s\n", strings.TrimRight(line, " "))
			line, started = strings.Repeat(" ", len(head)), false
		}
		if started {
			line += " "
		}
		line += word
		started = true
	}
	p.printf("%s\n", strings.TrimRight(line, " "))
}

func (p *printer) feature(f feature) {
	said := f.Detail
	if said == "" {
		said = f.Cause
	} else if f.Cause != "" {
		said += ": " + f.Cause
	}
	// What is open without it, and what to do, is among the findings.
	p.wrapped(fmt.Sprintf("  %-8s%-22s", f.State, f.Name), said)
}

func (p *printer) health(h *control.Health) {
	p.printf("\ndaemon    pid %d, %s\n", h.PID, h.Version)
	p.printf("policy    generation %d, %s, on failure %s\n", h.Generation, h.Mode, h.OnFailure)
	proven := "no proof"
	if h.Canary.Active {
		proven = "mediation is proven"
	}
	if !h.Canary.Probed.IsZero() {
		proven += ", last tried " + h.Canary.Probed.UTC().Format(time.RFC3339)
	}
	p.printf("canary    %s\n", proven)
	for i, l := range h.Listeners {
		head := map[bool]string{true: "listeners", false: ""}[i == 0]
		home := map[bool]string{true: " (the daemon's own)", false: ""}[l.Home]
		p.printf("%-10snetwork namespace %d: %d TCP, %d UDP%s\n", head, l.Netns, l.TCP, l.UDP, home)
	}
	takes := "takes events"
	if h.AuditErr != "" {
		takes = "takes none"
	}
	p.printf("record    %d events, %s; %d connections unaccounted for\n", h.AuditSeq, takes, h.Unaccounted)
	at := "the root of the hierarchy"
	if !h.WholeHost {
		at = "not the root"
	}
	p.printf("attached  %s (%s), pins in %s\n", h.Cgroup, at, orNone(h.PinDir))
	p.printf("  %-26s %6s %-6s %8s %s\n", "PROGRAM", "LINK", "PINNED", "CGROUP", "HITS")
	for _, l := range h.Programs {
		p.program(l)
	}
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func (p *printer) program(l control.ProgramLink) {
	name := l.Name
	if l.Fault != "" {
		name = "! " + name
	}
	pinned := map[bool]string{true: "yes", false: "no"}[l.Pinned]
	at := "-"
	if l.Cgroup != 0 {
		at = fmt.Sprint(l.Cgroup)
	}
	if l.AtRoot {
		at = "root"
	}
	hits := "not counted"
	if l.HitsBy != "" {
		hits = fmt.Sprintf("%d %s", l.Hits, l.HitsBy)
	}
	p.printf("  %-26s %6d %-6s %8s %s\n", name, l.LinkID, pinned, at, hits)
}
