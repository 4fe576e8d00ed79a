package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/policy"
)

// PlayOptions configure [Play]. The zero PlayOptions are usable.
type PlayOptions struct {
	// MaxText bounds, in bytes, what is printed of one text. Zero means 4096,
	// less than zero no bound.
	MaxText int
	// MaxRows bounds the rows that are printed of one frame. Zero means 50,
	// less than zero no bound.
	MaxRows int
	// EventsOnly leaves the recording out.
	EventsOnly bool
}

// Play writes a session to w as a timeline in plain text: who connected, every
// decision, what was said, how it ended, and whether the recording is intact.
// Everything that came from an agent or a target is escaped ([Escape]).
func Play(w io.Writer, d *SessionDetail, o PlayOptions) error {
	if d == nil {
		return fmt.Errorf("play: %w", ErrNoSession)
	}
	if o.MaxText == 0 {
		o.MaxText = 4096
	}
	if o.MaxRows == 0 {
		o.MaxRows = 50
	}
	buf := bufio.NewWriter(w)
	p := player{w: buf, o: o, began: d.Summary.Opened}
	p.heading(d)
	for _, item := range timeline(d, o) {
		if item.event != nil {
			p.event(item.event)
		} else {
			p.frame(item.frame)
		}
	}
	p.footing(d)
	// What failed to be written before shows here too.
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("play: %w", err)
	}
	return nil
}

// moment is an event or a frame.
type moment struct {
	at    time.Time
	event *Event
	frame *RecordedFrame
}

// timeline merges events and frames by time. Events go first where both have
// the same time: a decision comes before what it let happen.
func timeline(d *SessionDetail, o PlayOptions) []moment {
	var all []moment
	for i := range d.Events {
		all = append(all, moment{at: d.Events[i].Time, event: &d.Events[i]})
	}
	if !o.EventsOnly {
		for i := range d.Frames {
			all = append(all, moment{at: d.Frames[i].Time, frame: &d.Frames[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	return all
}

// player prints. Its writer keeps the first error until the end.
type player struct {
	w     *bufio.Writer
	o     PlayOptions
	began time.Time
}

// line prints one line; all arguments are escaped.
func (p *player) line(format string, args ...any) {
	for i, a := range args {
		switch v := a.(type) {
		case string:
			args[i] = Escape(p.cut(v))
		case fmt.Stringer:
			args[i] = Escape(v.String())
		case error:
			args[i] = Escape(v.Error())
		}
	}
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *player) cut(s string) string {
	if p.o.MaxText < 0 {
		return s
	}
	short, cut := bound(s, p.o.MaxText)
	if cut {
		return fmt.Sprintf("%s… (%d bytes more)", short, len(s)-len(short))
	}
	return s
}

// at prints the beginning of a line of the timeline.
func (p *player) at(t time.Time, what string) {
	fmt.Fprintf(p.w, "%+10.3fs  %-9s ", t.Sub(p.began).Seconds(), what)
}

// block prints a text of several lines below a line of the timeline. Its own
// line breaks are kept; a carriage return in front of one belongs to it.
func (p *player) block(mark, text string) {
	if text == "" {
		return
	}
	for l := range strings.Lines(p.cut(text)) {
		l = strings.TrimSuffix(strings.TrimSuffix(l, "\n"), "\r")
		fmt.Fprintf(p.w, "%22s %s %s\n", "", mark, Escape(l))
	}
}

func (p *player) heading(d *SessionDetail) {
	s := &d.Summary
	p.line("session    %s", s.ID)
	p.line("opened     %s", s.Opened.UTC().Format(time.RFC3339Nano))
	p.line("agent      %s", s.Agent)
	p.line("principal  %s", s.Principal)
	target := s.Origin.Target.String()
	if s.Resource != "" {
		target += " (" + s.Resource + ")"
	}
	p.line("target     %s", target)
	if len(s.Names) > 0 {
		p.line("names      %s (%s)", strings.Join(s.Names, ", "), s.NameSource)
	}
	if s.Protocol != "" {
		p.line("protocol   %s", s.Protocol)
	}
	for i, q := range d.Open.Lineage {
		word := "process"
		if i > 0 {
			word = "started by"
		}
		p.line("%-10s %s  pid %d  uid %d  %s", word, q.Exe, q.ID.PID, q.UID, argv(q))
	}
	if d.Open.LineagePartial {
		p.line("           the lineage is not complete")
	}
	p.line("")
}

func argv(q Process) string {
	var words []string
	for _, a := range q.Argv {
		if a == "" || strings.ContainsAny(a, " \t\n\"'") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	if q.ArgvTruncated {
		words = append(words, "…")
	}
	return strings.Join(words, " ")
}

func (p *player) event(e *Event) {
	var err error
	switch e.Kind {
	case KindSessionOpen:
		return // the heading
	case KindDecision:
		err = playBody(e, p.decision)
	case KindResult:
		err = playBody(e, p.result)
	case KindFinding:
		err = playBody(e, p.finding)
	case KindSessionEnd:
		err = playBody(e, p.end)
	default:
		p.at(e.Time, Escape(e.Kind))
		p.line("%s", string(e.Body))
	}
	if err != nil {
		p.at(e.Time, Escape(e.Kind))
		p.line("not readable: %s", err)
	}
}

// playBody decodes an event's body and prints it.
func playBody[T any](e *Event, play func(time.Time, *T)) error {
	var body T
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return err
	}
	play(e.Time, &body)
	return nil
}

func (p *player) finding(t time.Time, f *Finding) {
	p.at(t, "finding")
	p.line("%s: credential %s, fingerprint %s", Escape(f.Kind), Escape(f.Credential), Escape(f.Fingerprint))
}

func (p *player) decision(t time.Time, d *Decision) {
	word := map[string]string{policy.Allow.String(): "allowed", policy.Approve.String(): "held"}[d.Verdict]
	if word == "" {
		word = "denied"
	}
	p.at(t, word)
	line := fmt.Sprintf("#%s %s", d.Op, d.Operation.Verb)
	for _, f := range []struct{ name, value string }{
		{"rule", d.Rule}, {"reason", d.Reason}, {"would have been", d.WouldHave}, {"by", d.WouldHaveRule}, {"approver", d.Approver}, {"message", d.Message},
	} {
		if f.value != "" {
			line += fmt.Sprintf("  %s: %s", f.name, f.value)
		}
	}
	p.line("%s", line)
	text := d.Operation.Text
	if len(d.Operation.TextBase64) > 0 {
		text = string(d.Operation.TextBase64)
	}
	p.block(">", text)
	for i, parameter := range d.Operation.Parameters {
		p.block(">", fmt.Sprintf("$%d = %s", i+1, parameter))
	}
	if d.Operation.Truncated {
		p.block(">", "… (longer than an event may be)")
	}
}

func (p *player) result(t time.Time, r *Result) {
	p.at(t, "result")
	line := fmt.Sprintf("#%s %s  %d rows  %d bytes  %d masked", r.Op, r.Outcome, r.Rows, r.Bytes, r.Masked)
	for _, s := range []string{r.Tag, r.Code, r.Error} {
		if s != "" {
			line += "  " + s
		}
	}
	p.line("%s", line)
}

func (p *player) end(t time.Time, e *SessionEnd) {
	p.at(t, "end")
	line := fmt.Sprintf("%s  %d bytes up  %d bytes down", e.Reason, e.BytesUp, e.BytesDown)
	if e.Error != "" {
		line += "  " + e.Stage + ": " + e.Error
	}
	if e.Synthetic {
		line += "  (written by the next start of the daemon)"
	}
	p.line("%s", line)
}

func (p *player) frame(f *RecordedFrame) {
	mark := map[string]string{Up: ">", Down: "<"}[f.Direction]
	if mark == "" {
		mark = "-"
	}
	p.at(f.Time, Escape(f.Kind))
	op := ""
	if f.Op != "" {
		op = "#" + f.Op
	}
	p.line("%s", op)
	p.block(mark, f.Text)
	if len(f.Data) > 0 {
		p.block(mark, Escape(string(f.Data)))
	}
	if len(f.Columns) > 0 {
		p.block(mark, strings.Join(escaped(f.Columns), " | "))
	}
	for i, row := range f.Rows {
		if p.o.MaxRows >= 0 && i == p.o.MaxRows {
			p.block(mark, fmt.Sprintf("… (%d rows more)", len(f.Rows)-i))
			break
		}
		p.block(mark, strings.Join(cells(row), " | "))
	}
	if f.Cut {
		p.block(mark, "… (cut)")
	}
}

func escaped(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Escape(s)
	}
	return out
}

func cells(row []*string) []string {
	out := make([]string, len(row))
	for i, cell := range row {
		out[i] = "NULL"
		if cell != nil {
			out[i] = Escape(*cell)
		}
	}
	return out
}

func (p *player) footing(d *SessionDetail) {
	p.line("")
	switch {
	case d.Recording != nil:
		p.line("RECORDING NOT INTACT: %s", d.Recording)
	case d.Summary.End == nil:
		p.line("the session has no end yet; its recording is not anchored")
	case d.Summary.End.Recording == nil:
		p.line("nothing was recorded")
	default:
		a := d.Summary.End.Recording
		p.line("recording intact: %d entries, head %s", a.Entries, a.Head)
		if a.Truncated {
			p.line("the recording reached its bound; what came later was not recorded")
		}
	}
}
