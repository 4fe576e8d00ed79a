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
			if _, err := b.pgbench(ctx, p, mode, "-t", "200"); err != nil {
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
	setUp, err := b.pgbench(ctx, p, mode, "-t", "1")
	if err != nil {
		return err
	}
	length := strconv.Itoa(int(b.o.Time.Round(time.Second).Seconds()))
	got, err := b.pgbench(ctx, p, mode, "-T", length)
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
	b.keep(Run{"pgbench " + mode, p.name, round, values, got.others})
	b.say("pgbench %-8s round %d  %-18s %7.0f tps  %5.1f µs of proxy  others %.2f", mode, round, p.name, got.tps, values["cpu_us"], got.others)
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

func (b *bench) pgbench(ctx context.Context, p path, mode string, length ...string) (t transactions, err error) {
	argv := append([]string{"/usr/bin/pgbench", "-n", "-S", "-M", mode, "-c", strconv.Itoa(b.o.Clients), "-j", "2"}, length...)
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
