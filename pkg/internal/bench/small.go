package bench

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// modes are the protocols that pgbench knows.
var modes = []string{"simple", "extended", "prepared"}

// small measures small statements: pgbench -S in each mode.
func (b *bench) small(ctx context.Context) error {
	paths := b.paths(b.database5432(), direct, pgbouncer, haproxy, gateRelay, gate)
	for _, mode := range modes {
		for _, p := range paths { // caches fill, and connections of pools open
			if _, err := b.pgbench(ctx, p, load{mode: mode, clients: b.o.Clients}, "-t", "200"); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		err := b.rounds(ctx, paths, func(round int, p path) error { return b.smallOnce(ctx, mode, round, p) })
		if err != nil {
			return err
		}
	}
	return nil
}

// smallOnce is one measurement. What connecting costs is found by a run that
// does little else, and taken off.
func (b *bench) smallOnce(ctx context.Context, mode string, round int, p path) error {
	return b.smallAs(ctx, round, p, load{"pgbench " + mode, mode, b.o.Clients, lasting(b.o.Time)})
}

// load is what pgbench is to do, and under which name it is kept.
type load struct {
	measure, mode string
	clients       int
	// length is -T with seconds, or -t with transactions of each client. pgbench's
	// seconds begin before its clients are connected.
	length [2]string
}

// lasting is how long pgbench is told to go on.
func lasting(d time.Duration) [2]string {
	return [2]string{"-T", strconv.Itoa(int(d.Round(time.Second).Seconds()))}
}

func (b *bench) smallAs(ctx context.Context, round int, p path, l load) error {
	setUp, err := b.pgbench(ctx, p, l, "-t", "1")
	if err != nil {
		return err
	}
	got, err := b.pgbench(ctx, p, l, l.length[:]...)
	if err != nil {
		return err
	}
	values := map[string]float64{
		"tps":       got.tps,
		"server_us": micros(got.server-setUp.server) / got.done,
	}
	if p.proxy != nil {
		values["cpu_us"] = micros(got.proxy-setUp.proxy) / got.done
	}
	b.keep(Run{l.measure, p.name, round, values, got.others})
	b.say("%-16s round %d  %-18s %7.0f tps  %5.1f µs of proxy  others %.2f", l.measure, round, p.name, got.tps, values["cpu_us"], got.others)
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// transactions is what pgbench says, and what it took.
type transactions struct {
	spent
	tps, done float64
}

var (
	tpsLine  = regexp.MustCompile(`(?m)^tps = ([0-9.]+) `)
	doneLine = regexp.MustCompile(`(?m)^number of transactions actually processed: ([0-9]+)`)
	failures = regexp.MustCompile(`(?m)^number of failed transactions: ([0-9]+)`)
)

func (b *bench) pgbench(ctx context.Context, p path, l load, length ...string) (t transactions, err error) {
	argv := append([]string{"/usr/bin/pgbench", "-n", "-S", "-M", l.mode, "-c", strconv.Itoa(l.clients), "-j", strconv.Itoa(min(l.clients, 2))}, length...)
	cmd := b.command(ctx, p, argv...)
	w, err := b.stopwatch(p)
	if err != nil {
		return t, err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return t, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	if t.spent, err = w.stop(); err != nil {
		return t, err
	}
	return t, t.parse(string(out))
}

// parse reads what pgbench printed.
func (t *transactions) parse(out string) error {
	for line, to := range map[*regexp.Regexp]*float64{tpsLine: &t.tps, doneLine: &t.done} {
		m := line.FindStringSubmatch(out)
		if m == nil {
			return fmt.Errorf("pgbench said %q", out)
		}
		var err error
		if *to, err = strconv.ParseFloat(m[1], 64); err != nil {
			return fmt.Errorf("pgbench said %q", out)
		}
	}
	if m := failures.FindStringSubmatch(out); m != nil && m[1] != "0" {
		return fmt.Errorf("pgbench: %s transactions failed", m[1])
	}
	return nil
}
