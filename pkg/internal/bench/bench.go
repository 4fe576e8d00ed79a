package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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

// stage is a measurement, the targets that it has figures for, and how long it is
// going to take.
type stage struct {
	targets []string
	run     func(*bench, context.Context) error
	needs   func(*Options) time.Duration
}

func stages() []stage {
	// so many measurements in each round, and what each takes beside its time
	each := func(n int, beside time.Duration) func(*Options) time.Duration {
		return func(o *Options) time.Duration { return time.Duration(o.Rounds*n) * (o.Time + beside) }
	}
	grows := func(n int, beside, once time.Duration) func(*Options) time.Duration {
		return func(o *Options) time.Duration {
			return once + time.Duration(min(o.Rounds, growthRounds)*n)*(min(o.Time, growthTime)+beside)
		}
	}
	always := func(d time.Duration) func(*Options) time.Duration { return func(*Options) time.Duration { return d } }
	const ms = time.Millisecond
	return []stage{
		{[]string{"P1", "P2"}, (*bench).small, each(15, 300*ms)},
		{[]string{"P3", "P4"}, (*bench).bulk, each(9, 500*ms)},
		{[]string{"P5"}, (*bench).streaming, always(20 * time.Second)},
		{[]string{"P6"}, (*bench).connect, each(8, 0)},
		{[]string{"P7"}, (*bench).idle, always(40 * time.Second)},
		{[]string{"P12"}, (*bench).rest, always(40 * time.Second)},
		{[]string{"P9"}, (*bench).hooks, func(o *Options) time.Duration {
			return time.Duration(min(2*o.Rounds, mostHookRounds)) * 8 * time.Second
		}},
		{[]string{growthSessions}, (*bench).growSessions, grows(4, 2000*ms, 0)},
		{[]string{growthRules}, (*bench).growRules, grows(4, 300*ms, 5*time.Second)},
		{[]string{growthRows}, (*bench).growRows, grows(12, 100*ms, 0)},
		{[]string{"P1", "P8", "P10", "P11", growthRules}, (*bench).parts, func(o *Options) time.Duration {
			return 25*time.Second + time.Duration(12*o.Rounds)*o.Time/10
		}},
	}
}

// remaining is about how long the stages take that are wanted.
func remaining(o *Options, list []stage) (sum time.Duration) {
	for _, s := range list {
		if o.wants(s.targets...) {
			sum += s.needs(o)
		}
	}
	return sum
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
	all := stages()
	for i, s := range all {
		if !o.wants(s.targets...) {
			continue
		}
		b.say("%s: about %v left", strings.Join(s.targets, ", "), remaining(o, all[i:]).Round(time.Second))
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
