package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options say what to measure, for how long, and where to write it.
type Options struct {
	// Only names targets, as P1; empty means all.
	Only []string
	// Rounds is how often each path is measured, Time how long each time.
	Rounds int
	Time   time.Duration
	// Clients is how many clients pgbench has at the same time.
	Clients int
	// Idle is how many idle sessions memory is measured with.
	Idle int
	// Durability and Recording are of the daemon's configuration.
	Durability string
	Recording  string
	// Pin has everything run on one processor.
	Pin bool
	// JSON is a file, SVG a folder, Page a Markdown file with a section for the
	// figures between markers. Nothing is written where they are empty.
	JSON string
	SVG  string
	Page string
	// Gate is the gate's program.
	Gate string
}

// The defaults, and what holds where only some targets are measured.
const (
	fullRounds, fullTime   = 5, 3 * time.Second
	shortRounds, shortTime = 3, 2 * time.Second
)

// ParseOptions reads the command line's arguments. It tells about itself on
// stderr, and returns [flag.ErrHelp] after that.
func ParseOptions(args []string, stderr io.Writer) (*Options, error) {
	o := &Options{}
	var only string
	var seconds float64
	f := flag.NewFlagSet("headgate-bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&only, "only", "", "targets, as in P1,P2 or growth (default all)")
	f.IntVar(&o.Rounds, "rounds", 0, "rounds (default 5, with -only 3)")
	f.Float64Var(&seconds, "time", 0, "seconds of each measurement (default 3, with -only 2)")
	f.IntVar(&o.Clients, "clients", 8, "clients of pgbench")
	f.IntVar(&o.Idle, "idle", 1000, "idle sessions")
	f.StringVar(&o.Durability, "durability", "write", "of the audit log: write or fsync")
	f.StringVar(&o.Recording, "recording", "statements", "statements or full")
	f.BoolVar(&o.Pin, "pin", false, "all on one processor, the last")
	f.StringVar(&o.JSON, "json", "", "file for all figures")
	f.StringVar(&o.SVG, "svg", "", "folder for the charts")
	f.StringVar(&o.Page, "page", "", "Markdown file whose section of figures is replaced")
	f.StringVar(&o.Gate, "gate", "bin/headgate", "program to measure")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.Time = time.Duration(seconds * float64(time.Second))
	for name := range strings.FieldsFuncSeq(only, func(r rune) bool { return r == ',' || r == ' ' }) {
		names := expand(name)
		if names == nil {
			return nil, fmt.Errorf("no target %q: they are P1 to P12, growth, %s, %s, %s", name, growthSessions, growthRules, growthRows)
		}
		o.Only = append(o.Only, names...)
	}
	o.fill()
	return o, o.check(f.Args())
}

// fill puts in what depends on whether all is measured.
func (o *Options) fill() {
	rounds, length := fullRounds, fullTime
	if len(o.Only) > 0 {
		rounds, length = shortRounds, shortTime
	}
	if o.Rounds == 0 {
		o.Rounds = rounds
	}
	if o.Time == 0 {
		o.Time = length
	}
}

func (o *Options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.Rounds < 1 || o.Clients < 1 || o.Idle < 1:
		return errors.New("rounds, clients and idle sessions start at one")
	case o.Time < time.Second:
		return errors.New("a measurement takes at least a second")
	case o.Durability != "write" && o.Durability != "fsync":
		return errors.New("durability is write or fsync")
	case o.Recording != "statements" && o.Recording != "full":
		return errors.New("recording is statements or full")
	}
	return nil
}

// wants reports whether one of the targets is to be measured.
func (o *Options) wants(names ...string) bool {
	return len(o.Only) == 0 || slices.ContainsFunc(names, func(n string) bool { return slices.Contains(o.Only, n) })
}
