package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	measureStreams = "streams"
	measureIdle    = "idle sessions"
	measureRest    = "at rest"
)

// streams is how many results stream at the same time while memory is looked at.
const streams = 8

// settle is how long memory is left alone before it is looked at.
const settle = 5 * time.Second

const kib, mib = 1 << 10, 1 << 20

// pause waits, unless it is over.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// streaming measures what results take of the gate's memory while they stream.
func (b *bench) streaming(ctx context.Context) error {
	return b.rounds(ctx, b.paths(b.database5432(), gate), func(round int, p path) error {
		if err := b.freshGate(ctx); err != nil {
			return err
		}
		p.proxy = b.gate
		t, err := b.talkTo(ctx, p, "sessions", strconv.Itoa(streams))
		if err != nil {
			return err
		}
		if _, err := t.ask("select * from plain limit 1000"); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		short, err := b.growth(p, t, "select * from plain limit 100000")
		if err != nil {
			return err
		}
		long, err := b.growth(p, t, "select * from plain")
		if err != nil {
			return err
		}
		values := map[string]float64{"kib_per_session": long / streams / kib, "kib_more_when_longer": (long - short) / streams / kib}
		b.keep(Run{Measure: measureStreams, Path: p.name, Round: round, Values: values, Others: unknown})
		b.say("%d streams round %d: %.0f KiB above idle for each, %.0f with a tenth of the rows", streams, round, long/streams/kib, short/streams/kib)
		return t.end()
	})
}

// growth returns by how much the proxy's memory grows for a statement, at most.
func (b *bench) growth(p path, t *talk, sql string) (float64, error) {
	pid := p.proxy.pid()
	before, err := memoryOf(pid)
	if err != nil {
		return 0, err
	}
	if err := resetPeak(pid); err != nil {
		return 0, err
	}
	if _, err := t.ask(sql); err != nil {
		return 0, err
	}
	peak, err := peakOf(pid)
	return peak - before.resident, err
}

// idle measures what sessions that do nothing take of a proxy's memory. Their
// target is a stub, which logs them in.
func (b *bench) idle(ctx context.Context) error {
	stub := place{port: strconv.Itoa(stubPort), haproxy: strconv.Itoa(haproxyStub)}
	for _, p := range b.paths(stub, gate, gateRelay, haproxy) {
		if p.enrolled {
			if err := b.freshGate(ctx); err != nil {
				return err
			}
			p.proxy = b.gate
		}
		sessions, err := b.sessionsOn(p)
		if err != nil {
			return err
		}
		if err := b.idleOnce(ctx, p, sessions); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// sessionsOn is how many idle sessions are measured on a path: those that are
// wanted, as far as descriptors are enough for them.
func (b *bench) sessionsOn(p path) (int, error) {
	most, err := mostSessions(2) // sockets: a recording begins with a statement
	if err != nil || b.o.Idle <= most {
		return b.o.Idle, err
	}
	why := fmt.Sprintf("a process may have descriptors for %d sessions here", most)
	b.say("%s, %s: %d instead of %d", p.name, why, most, b.o.Idle)
	if p.name == gate {
		b.missing["P7"] = why
	}
	return most, nil
}

func (b *bench) idleOnce(ctx context.Context, p path, sessions int) error {
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := memoryOf(p.proxy.pid())
	if err != nil {
		return err
	}
	t, err := b.talkTo(ctx, p, "sessions", strconv.Itoa(sessions))
	if err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	after, err := memoryOf(p.proxy.pid())
	if err != nil {
		return err
	}
	n := float64(sessions)
	values := map[string]float64{
		"sessions": n, "mib": after.resident / mib,
		"kib_per_session":     (after.resident - before.resident) / n / kib,
		"kib_per_session_pss": (after.proportional - before.proportional) / n / kib,
	}
	if sessions >= 10_000 {
		values["mib_with_10000"] = after.resident / mib
	}
	b.keep(Run{Measure: measureIdle, Path: p.name, Round: 1, Values: values, Others: unknown})
	b.say("%d idle sessions  %-18s %.1f KiB each, %.0f MiB in all", sessions, p.name, values["kib_per_session"], after.resident/mib)
	return t.end()
}

// rest measures a daemon that has nothing to do, with the demonstration's policy.
func (b *bench) rest(ctx context.Context) error {
	policy, err := os.ReadFile("cmd/headgate/demo/policy.yaml")
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	port := strconv.Itoa(stubPort)
	p, err := b.daemon(ctx, restingGate(string(policy), port))
	if err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	w, err := b.stopwatch(path{proxy: p})
	if err != nil {
		return err
	}
	const times = 6 // 30 s by default
	if err := pause(ctx, times*b.o.Time); err != nil {
		return err
	}
	used, err := w.stop()
	if err != nil {
		return err
	}
	m, err := memoryOf(p.pid())
	if err != nil {
		return err
	}
	values := map[string]float64{"cpu_percent": 100 * used.proxy.Seconds() / used.wall.Seconds(), "rss_mib": m.resident / mib, "pss_mib": m.proportional / mib}
	b.keep(Run{measureRest, gate, 1, values, used.others})
	b.say("at rest for %v: %.3f %% of a processor, %.0f MiB", used.wall.Round(time.Second), values["cpu_percent"], values["rss_mib"])
	return nil
}
