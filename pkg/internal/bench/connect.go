package bench

import (
	"context"
	"fmt"
	"strconv"
)

const (
	measureEcho  = "connections"
	measureLogin = "log-ins"
)

// connect measures connections that are made one after the other: a byte there
// and back, and a log-in.
func (b *bench) connect(ctx context.Context) error {
	echo := place{port: strconv.Itoa(echoPort), haproxy: strconv.Itoa(haproxyEcho)}
	err := b.connectTo(ctx, measureEcho, "echo", b.paths(echo, direct, haproxy, gateRelay, inKernel))
	if err != nil {
		return err
	}
	login := place{port: strconv.Itoa(stubPort), haproxy: strconv.Itoa(haproxyStub)}
	return b.connectTo(ctx, measureLogin, "login", b.paths(login, direct, haproxy, gateRelay, gate))
}

func (b *bench) connectTo(ctx context.Context, measure, what string, paths []path) error {
	talks := map[string]*talk{}
	for _, p := range paths {
		t, err := b.talkTo(ctx, p, what)
		if err != nil {
			return err
		}
		talks[p.name] = t
		if _, err := t.ask("200"); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	err := b.rounds(ctx, paths, func(round int, p path) error { return b.connectOnce(measure, round, p, talks[p.name]) })
	if err != nil {
		return err
	}
	for _, t := range talks {
		if err := t.end(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) connectOnce(measure string, round int, p path, t *talk) error {
	w, err := b.stopwatch(p)
	if err != nil {
		return err
	}
	a, err := t.ask(strconv.FormatInt(b.o.Time.Milliseconds(), 10))
	if err != nil {
		return err
	}
	used, err := w.stop()
	if err != nil {
		return err
	}
	values := map[string]float64{"p50_us": a.P50, "p90_us": a.P90, "p99_us": a.P99, "per_s": float64(a.Count) / a.Seconds}
	if p.proxy != nil {
		values["cpu_us"] = micros(used.proxy) / float64(a.Count)
	}
	b.keep(Run{measure, p.name, round, values, used.others})
	b.say("%s round %d  %-22s %5.0f µs median, %5.0f at 99 %%  %6.1f µs of proxy  others %.2f",
		measure, round, p.name, a.P50, a.P99, values["cpu_us"], used.others)
	return nil
}
