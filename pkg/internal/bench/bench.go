package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// bench is one run of the program.
type bench struct {
	*rig
	log  io.Writer
	runs Runs
	// missing is why a target has no figures.
	missing map[string]string
	begun   time.Time
}

// stage is a measurement and the targets that it has figures for.
type stage struct {
	targets []string
	run     func(*bench, context.Context) error
}

func stages() []stage {
	return []stage{
		{[]string{"P1", "P2"}, (*bench).small},
		{[]string{"P3", "P4"}, (*bench).bulk},
		{[]string{"P5"}, (*bench).streaming},
		{[]string{"P6"}, (*bench).connect},
		{[]string{"P7"}, (*bench).idle},
		{[]string{"P12"}, (*bench).rest},
		{[]string{"P9"}, (*bench).hooks},
		{[]string{"P1", "P8", "P10", "P11"}, (*bench).parts},
	}
}

// inside measures, in the cgroup and the network namespace that a supervisor
// made: its arguments are its folder, the cgroup, and the command line's.
func inside(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) < 2 {
		return errors.New("it is started by itself only")
	}
	o, err := ParseOptions(args[2:], stderr)
	if err != nil {
		return err
	}
	b := &bench{log: stderr, missing: map[string]string{}, begun: time.Now()}
	b.say("starting what is needed")
	b.rig, err = newRig(ctx, o, args[0], args[1])
	defer func() { err = errors.Join(err, b.close()) }()
	if err != nil {
		return err
	}
	for _, s := range stages() {
		if !o.wants(s.targets...) {
			continue
		}
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("%v: %w", s.targets, err)
		}
	}
	return b.report(stdout)
}

// say writes a line about what goes on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "%6.1fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

// keep keeps what was measured.
func (b *bench) keep(r Run) { b.runs = append(b.runs, r) }

// rounds runs f for every path in every round, each round in another order.
func (b *bench) rounds(ctx context.Context, paths []path, f func(round int, p path) error) error {
	for round := range b.o.Rounds {
		for _, p := range shuffled(paths) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(round+1, p); err != nil {
				return fmt.Errorf("%s, round %d: %w", p.name, round+1, err)
			}
		}
	}
	return nil
}
