package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// partPath is the path of what is measured without one: the parts by themselves.
const partPath = "by itself"

// The measures of the parts.
const (
	partRows     = "rows of a result"
	partDecision = "decision"
	partFacts    = "facts of a statement"
	partAudit    = "audit log"
	partHooks    = "hooks"
)

// part is a benchmark of a package: what of it is kept, under which name.
type part struct {
	target, measure string
	pkg, name       string // the name as it is printed, without the number of processors
	unit, value     string
	scale           float64
}

func parts() []part {
	const (
		gateway = "./pkg/protocol/postgres"
		perRow  = 1.0 / 5000 // the benchmark's operation is that many rows
		micro   = 1e-3
	)
	facts := gateway + "/statement"
	return append(decisions(), []part{
		{"P1", partRows, gateway, "BenchmarkRows/no_masks", "allocs/op", "allocs_per_row", perRow},
		{"P8", partDecision, "./pkg/policy", "BenchmarkDecide1000Rules", "ns/op", "us", micro},
		{"P8", partDecision, "./pkg/policy", "BenchmarkDecide1000Rules", "allocs/op", "allocs", 1},
		{"P10", partFacts, facts, "BenchmarkParse/hit/short", "ns/op", "hit_us", micro},
		{"P10", partFacts, facts, "BenchmarkParse/miss/short", "ns/op", "miss_us", micro},
		{"P10", partFacts, facts, "BenchmarkParse/miss/report", "ns/op", "miss_of_a_report_us", micro},
		{"P10", partFacts, facts, "BenchmarkParseLiterals", "ns/op", "literals_us", micro},
		{"P11", partAudit, "./pkg/record", "BenchmarkAppend/sync-64", "ops/sync", "ops_per_sync", 1},
		{"P11", partAudit, "./pkg/record", "BenchmarkAppend/sync-64", "ns/op", "fsync_64_us", micro},
		{"P11", partAudit, "./pkg/record", "BenchmarkAppend/write", "ns/op", "write_us", micro},
	}...)
}

// parts runs the packages' own benchmarks, one process for each package.
func (b *bench) parts(ctx context.Context) error {
	byPackage := map[string][]part{}
	for _, p := range parts() {
		if b.o.wants(p.target) {
			byPackage[p.pkg] = append(byPackage[p.pkg], p)
		}
	}
	for pkg, list := range byPackage {
		if err := b.partsOf(ctx, pkg, list); err != nil {
			return fmt.Errorf("benchmarks of %s: %w", pkg, err)
		}
	}
	return nil
}

func (b *bench) partsOf(ctx context.Context, pkg string, list []part) error {
	b.say("benchmarks of %s", pkg)
	var names []string
	for _, p := range list {
		first, _, _ := strings.Cut(p.name, "/")
		names = append(names, first)
	}
	length := b.o.Time / 10
	program := filepath.Join(b.dir, "parts.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	w, err := b.stopwatch(path{})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "-test.run=^$", "-test.bench=^("+strings.Join(names, "|")+")$", "-test.benchmem",
		"-test.benchtime="+length.String(), "-test.count="+strconv.Itoa(b.o.Rounds))
	cmd.Dir = pkg
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	used, err := w.stop()
	if err != nil {
		return err
	}
	seen := b.keepParts(out, list, used.others)
	for _, p := range list {
		if seen[p.name] == 0 {
			return fmt.Errorf("no %s in what it printed:\n%s", p.name, out)
		}
	}
	return nil
}

// benchmarkLine is what go test prints: the name and the processors, how often
// it ran, and pairs of values and units.
var benchmarkLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// keepParts keeps what is wanted of the output, and returns how often each
// benchmark was seen.
func (b *bench) keepParts(out []byte, list []part, others float64) map[string]int {
	seen := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		m := benchmarkLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name, fields := m[1], strings.Fields(m[2])
		for _, p := range list {
			if p.name != name {
				continue
			}
			for i := 0; i+1 < len(fields); i += 2 {
				v, err := strconv.ParseFloat(fields[i], 64)
				if err == nil && fields[i+1] == p.unit {
					b.keep(Run{p.measure, partPath, seen[name] + 1, map[string]float64{p.value: v * p.scale}, others})
				}
			}
		}
		seen[name]++
	}
	return seen
}

// hookLine is one of scripts/bench-hooks.sh: median, least and most nanoseconds.
var hookLine = regexp.MustCompile(`(?m)^\s*(-?\d+)\s+(-?\d+)\s+(-?\d+)\s+(\S.*)$`)

// hookRows are the rows of it that are kept.
func hookRows() map[string]string {
	return map[string]string{
		"connect, UDP to loopback: outsider adds":               "outsider_us",
		"connect, TCP to the proxy: member adds":                "enrolled_us",
		"connect4 UDP to loopback (outsider, all rules)":        "outsider_program_us",
		"connect4 TCP to the proxy (member, 1000 destinations)": "enrolled_program_us",
		"sockops TCP to the proxy (member, 1000 destinations)":  "enrolled_sockops_us",
		"sock_create (member, 1000 destinations)":               "enrolled_socket_us",
	}
}

// unknown stands where others cannot be told from what was started: the callers
// of the hooks are in cgroups of their own.
const unknown = -1

// mostHookRounds is how often the hooks are measured at most: each time takes eight
// seconds, and thousands of calls of each.
const mostHookRounds = 6

// hooks measures the programs in the kernel.
func (b *bench) hooks(ctx context.Context) error {
	b.say("the programs in the kernel")
	cmd := exec.CommandContext(ctx, "scripts/bench-hooks.sh", strconv.Itoa(min(2*b.o.Rounds, mostHookRounds)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("bench-hooks.sh: %w\n%s", err, out)
	}
	kept, wanted := 0, hookRows()
	for _, m := range hookLine.FindAllStringSubmatch(string(out), -1) {
		value, ok := wanted[strings.Join(strings.Fields(m[4]), " ")]
		if !ok {
			continue
		}
		kept++
		for i, text := range m[1:4] { // its median and range stand for three rounds
			ns, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return fmt.Errorf("read %q: %w", m[0], err)
			}
			b.keep(Run{partHooks, partPath, i + 1, map[string]float64{value: ns / 1e3}, unknown})
		}
	}
	if kept != len(wanted) {
		return fmt.Errorf("bench-hooks.sh printed %d of %d rows:\n%s", kept, len(wanted), out)
	}
	return nil
}

func rowsP8(rs Runs) []Row {
	f := figure{partDecision, partPath, "us"}
	return []Row{
		rs.row(Row{What: "decision, 1,000 rules", Want: "under 5 µs", Unit: "µs"}, f, bound{limit: 5}),
		rs.row(Row{What: "decision, 1,000 rules: allocations", Want: "none"}, figure{f.measure, f.path, "allocs"}, bound{}),
	}
}

func rowsP9(rs Runs) []Row {
	row := func(what, want, value string, limit float64) Row {
		return rs.row(Row{What: what, Want: want, Unit: "µs"}, figure{partHooks, partPath, value}, bound{limit: limit})
	}
	return []Row{
		row("hook of connect(2), not enrolled", "under 0.3 µs", "outsider_program_us", 0.3),
		row("hook of connect(2), enrolled, to the proxy", "under 1.5 µs", "enrolled_program_us", 1.5),
		noVerdict(row("connect(2) of UDP, not enrolled: added", "", "outsider_us", 0)),
		noVerdict(row("connect(2) of TCP, enrolled, to the proxy: added", "", "enrolled_us", 0)),
	}
}

func rowsP10(rs Runs) []Row {
	row := func(what, want, value string, limit float64) Row {
		return rs.row(Row{What: "facts of a statement, " + what, Want: want, Unit: "µs"}, figure{partFacts, partPath, value}, bound{limit: limit})
	}
	return []Row{
		row("seen before", "under 0.5 µs", "hit_us", 0.5),
		row("seen with another number", "under 3 µs", "literals_us", 3),
		row("not seen before", "under 120 µs", "miss_us", 120),
	}
}

func rowsP11(rs Runs) []Row {
	return []Row{rs.row(Row{What: "audit with fsync, 64 at the same time: operations per sync", Want: "at least 20"},
		figure{partAudit, partPath, "ops_per_sync"}, bound{20, true})}
}
