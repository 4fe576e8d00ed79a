package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The targets that are about growth: what one unit of work costs while there is
// more of something.
const (
	growthSessions = "growth-sessions"
	growthRules    = "growth-rules"
	growthRows     = "growth-rows"
)

// cliff is by how much the cost of a unit may rise from one size to the next.
const cliff = 2

// growth tells which sizes something is measured at, and under which measures.
type growth struct {
	of    string
	sizes []int
}

var (
	bySessions = growth{"sessions", []int{1, 8, 64, 512}}
	byRules    = growth{"rules", []int{10, 100, 1000, 10_000}}
	byRows     = growth{"bytes a row", []int{10, 100, 1 << 10, 10 << 10, 100 << 10, 1 << 20}}
)

func (g growth) measure(size int) string { return fmt.Sprintf("%d %s", size, g.of) }

func (g growth) measures() []string {
	var list []string
	for _, size := range g.sizes {
		list = append(list, g.measure(size))
	}
	return list
}

// A size is measured no more often and no longer than this: it is the steps that
// count.
const (
	growthRounds = 2
	growthTime   = 2 * time.Second
)

// growing runs f for all sizes in every round.
func (b *bench) growing(ctx context.Context, g growth, f func(round, size int) error) error {
	for round := range min(b.o.Rounds, growthRounds) {
		for _, size := range g.sizes {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(round+1, size); err != nil {
				return fmt.Errorf("%s, round %d: %w", g.measure(size), round+1, err)
			}
		}
	}
	return nil
}

// queriesPerSecond is about how many of them all sessions together get: so many are
// asked for, divided among the sessions.
const queriesPerSecond = 12_000

// growSessions measures prepared statements of more and more sessions.
func (b *bench) growSessions(ctx context.Context) error {
	p := b.paths(b.database5432(), gate)[0]
	queries := int(min(b.o.Time, growthTime).Seconds() * queriesPerSecond)
	return b.growing(ctx, bySessions, func(round, sessions int) error {
		return b.smallAs(ctx, round, p, load{bySessions.measure(sessions), "prepared", sessions, [2]string{"-t", strconv.Itoa(max(1, queries/sessions))}})
	})
}

// growRules measures the same under longer and longer policies, each with a gate
// of its own.
func (b *bench) growRules(ctx context.Context) error {
	defer func() { b.rules = policyRules }()
	for _, rules := range byRules.sizes {
		b.rules = rules
		if err := b.freshGate(ctx); err != nil {
			return fmt.Errorf("start with %d rules: %w", rules, err)
		}
		p := b.paths(b.database5432(), gate)[0]
		for round := range min(b.o.Rounds, growthRounds) {
			if err := b.smallAs(ctx, round+1, p, load{byRules.measure(rules), "prepared", b.o.Clients, lasting(min(b.o.Time, growthTime))}); err != nil {
				return fmt.Errorf("%d rules: %w", rules, err)
			}
		}
	}
	b.rules = policyRules
	return b.freshGate(ctx)
}

// growthBytes is how large a result of each size of row is, on the wire.
const growthBytes = 32 << 20

// growthTable makes a table of rows of one size. What a row costs on the wire
// beside its value is eleven bytes.
const growthTable = `
create unlogged table growth_%[1]d (note text);
alter table growth_%[1]d alter note set storage external;
insert into growth_%[1]d select left(repeat(md5(g::text), %[1]d / 32 + 1), %[1]d) from generate_series(1, %[2]d) g;
grant select on growth_%[1]d to %[3]s`

// growRows measures results of as many bytes in larger and larger rows.
func (b *bench) growRows(ctx context.Context) (err error) {
	talks := map[string]*talk{}
	paths := b.paths(b.database5432(), gatePlain, gate)
	defer func() {
		for _, t := range talks {
			err = errors.Join(err, t.end())
		}
	}()
	for _, p := range paths {
		if talks[p.name], err = b.talkTo(ctx, p, "sessions", "1"); err != nil {
			return err
		}
	}
	return b.growing(ctx, byRows, func(round, size int) error {
		for _, p := range shuffled(paths) {
			if err := b.rowsOnce(round, size, p, talks[p.name]); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		return nil
	})
}

func (b *bench) rowsOnce(round, size int, p path, t *talk) error {
	w, err := b.stopwatch(p)
	if err != nil {
		return err
	}
	var a answer
	for a.Seconds < min(b.o.Time, growthTime).Seconds() {
		once, err := t.ask(fmt.Sprintf("select note from growth_%d", size))
		if err != nil {
			return err
		}
		if want := growthCount(size); once.Rows != want {
			return fmt.Errorf("there came %d rows of %d bytes, not %d", once.Rows, size, want)
		}
		a.Seconds, a.Bytes, a.Rows = a.Seconds+once.Seconds, a.Bytes+once.Bytes, a.Rows+once.Rows
	}
	used, err := w.stop()
	if err != nil {
		return err
	}
	megabytes := float64(a.Bytes) / 1e6
	values := map[string]float64{"mb_per_core_s": megabytes / used.proxy.Seconds(), "cpu_ms_per_mb": used.proxy.Seconds() * 1e3 / megabytes,
		"cpu_us_per_row": micros(used.proxy) / float64(a.Rows)}
	b.keep(Run{byRows.measure(size), p.name, round, values, used.others})
	b.say("%-18s round %d  %-18s %5.0f MB/s per core of proxy  others %.2f", byRows.measure(size), round, p.name, values["mb_per_core_s"], used.others)
	return nil
}

func growthCount(size int) int { return growthBytes / (size + 11) }

// step is how a cost changes from one size to the next one.
type step struct {
	from, to int
	ratio    float64
}

// largest returns the step in which a cost rises most.
func (g growth) largest(rs Runs, path, value string) (worst step, found bool) {
	for i := 1; i < len(g.sizes); i++ {
		before, after := rs.Series(g.measure(g.sizes[i-1]), path, value), rs.Series(g.measure(g.sizes[i]), path, value)
		if before.N == 0 || after.N == 0 || before.Median == 0 {
			return step{}, false // what is not known may be a cliff
		}
		if r := after.Median / before.Median; r > worst.ratio {
			worst = step{g.sizes[i-1], g.sizes[i], r}
		}
	}
	return worst, true
}

// row says in which step a cost rises most.
func (g growth) row(rs Runs, what, path, value string) Row {
	r := Row{What: what + ", most from one size to the next", Want: fmt.Sprintf("at most x %d", cliff), Others: unknown}
	worst, found := g.largest(rs, path, value)
	if found {
		r.What += fmt.Sprintf(" (from %d to %d %s)", worst.from, worst.to, g.of)
		r.Value, r.Unit = NewSeries([]float64{worst.ratio}), "x"
	}
	for _, m := range g.measures() {
		r.Others = max(r.Others, rs.others(m, path))
	}
	r.Verdict = bound{limit: cliff}.verdict(r.Value)
	return r
}

func rowsGrowthSessions(rs Runs) []Row {
	return []Row{bySessions.row(rs, "processor of the proxy per query", gate, "cpu_us")}
}

func rowsGrowthRules(rs Runs) []Row {
	return []Row{
		byRules.row(rs, "processor of the proxy per query", gate, "cpu_us"),
		byRules.row(rs, "a decision", partPath, "decision_us"),
	}
}

func rowsGrowthRows(rs Runs) []Row {
	return []Row{
		byRows.row(rs, "processor of the proxy per megabyte, no masks", gatePlain, "cpu_ms_per_mb"),
		byRows.row(rs, "processor of the proxy per megabyte", gate, "cpu_ms_per_mb"),
	}
}

// growthCharts are pictures of all sizes.
func growthCharts() []chart {
	return []chart{
		{"growth-sessions", "Processor of the proxy per query, by sessions, pgbench -S -M prepared", "µs", true, "cpu_us", bySessions.measures(), []string{gate}},
		{"growth-sessions-queries", "Queries per second, by sessions, pgbench -S -M prepared", "/s", false, "tps", bySessions.measures(), []string{gate}},
		{"growth-rules", "Processor of the proxy per query, by rules of the policy", "µs", true, "cpu_us", byRules.measures(), []string{gate}},
		{"growth-decision", "A decision, by rules of the policy", "µs", true, "decision_us", byRules.measures(), []string{partPath}},
		{"growth-rows", "Results of 32 MiB, by bytes a row, per processor of the proxy", "MB/s", false, "mb_per_core_s", byRows.measures(), []string{gatePlain, gate}},
	}
}

// decisions are the benchmarks of package policy, by rules.
func decisions() []part {
	var list []part
	for _, rules := range byRules.sizes {
		list = append(list, part{growthRules, byRules.measure(rules), "./pkg/policy", fmt.Sprintf("BenchmarkDecideRules/%d", rules), "ns/op", "decision_us", 1e-3})
	}
	return list
}

// expand puts the names that a word on the command line stands for in its place.
func expand(word string) []string {
	if strings.EqualFold(word, "growth") {
		return []string{growthSessions, growthRules, growthRows}
	}
	for _, t := range targets() {
		if strings.EqualFold(word, t.name) {
			return []string{t.name}
		}
	}
	return nil
}

// prepareGrowth makes the tables.
func (r *rig) prepareGrowth(user string, exec func(text string) error) error {
	if !r.o.wants(growthRows) {
		return nil
	}
	for _, size := range slices.Backward(byRows.sizes) {
		for text := range strings.SplitSeq(fmt.Sprintf(growthTable, size, growthCount(size), user), ";") {
			if err := exec(text); err != nil {
				return err
			}
		}
	}
	return nil
}
