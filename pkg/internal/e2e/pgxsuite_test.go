package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
)

// pgxPolicy lets everything pass and changes nothing. The resource has no
// credential, so the suite logs in by itself, and each of its ways to log in is
// relayed. It names all addresses of the server, loopback too: there is no way
// to the server that is not the gate's. What listens for a single test on
// another port of loopback is in no resource, and none of the gate's business.
const pgxPolicy = `
version: 1
resources:
  - name: suite
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d", "[2001:db8::10]:%[1]d", "127.0.0.1:%[1]d", "[::1]:%[1]d"]
    tls: {verify: off}
rules:
  - {name: everything, effect: allow, resources: ["*"], operations: ["*"]}
defaults: {mode: enforce, unmatched: allow, unknown_operation: allow, on_failure: closed}
`

const (
	pgxModule   = "github.com/jackc/pgx/v5"
	pgxDatabase = "pgx_test"
	pgxPassword = "secret" // as in the suite's own setup

	// pgxLimit bounds the whole test, pgxPackage the tests of one package.
	pgxLimit   = 11 * time.Minute
	pgxPackage = "3m"

	// pgxReruns is how often tests with different results are run again on both
	// sides. Some of the suite's tests race with the clock (deadlines of
	// milliseconds, a backend that has to be seen in pg_stat_activity) and fail
	// now and then without any gate, more so on a machine with other work. What
	// the gate really changes differs each time. No test is left out, and each
	// one that needed a rerun is named in the output.
	pgxReruns = 2
)

// A gate that allows everything must be invisible: the test suite of a driver
// that uses all of the protocol ends the same with and without it, test by test.
func TestPgxSuiteHasTheSameResultThroughTheGate(t *testing.T) {
	if os.Getenv("HEADGATE_PGX_SUITE") != "1" {
		t.Skip("runs for minutes and only with HEADGATE_PGX_SUITE=1; scripts/pgx-suite.sh sets it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), pgxLimit)
	defer cancel()
	r := newRig(t, pgxPolicy)
	s := newSuite(ctx, r)
	if t.Failed() {
		return
	}

	if status, err := control.NewClient(r.socket).Status(ctx); err != nil || status.Shortcuts != shortcuts() {
		t.Fatalf("shortcuts are %q, want %s (%v)", status.Shortcuts, shortcuts(), err)
	}
	t.Logf("shortcuts %s", shortcuts())
	direct := s.run(ctx, s.direct(), nil)
	t.Logf("direct:           %v", direct)
	before := s.traffic(ctx)
	gated := s.run(ctx, s.enrolled(), nil)
	t.Logf("through the gate: %v", gated)
	s.checkTraffic(before, s.traffic(ctx))

	// Two runs that both fail everywhere would be the same as well.
	if total := direct.count("pass") + direct.count("fail"); total < 1000 || direct.count("fail")*50 > total {
		t.Errorf("the direct run proves nothing: %v", direct)
	}
	for _, k := range slices.SortedFunc(maps.Keys(direct.results), key.compare) {
		if direct.results[k] == "fail" && k.test != "" {
			t.Logf("fails directly: %v", k)
		}
	}
	for _, k := range slowest(direct, gated) {
		t.Logf("took %.1f s, and %.1f s through the gate: %v", direct.seconds[k], gated.seconds[k], k)
	}
	s.compare(ctx, direct, gated)
}

// slowest returns the tests that lost the most time to the gate.
func slowest(direct, gated *suiteRun) []key {
	lost := func(k key) float64 { return gated.seconds[k] - direct.seconds[k] }
	keys := slices.SortedFunc(maps.Keys(gated.seconds), func(a, b key) int { return cmp.Compare(lost(b), lost(a)) })
	return keys[:min(5, len(keys))]
}

// compare reports each test that doesn't end the same on both sides, even if it
// is run again.
func (s *suite) compare(ctx context.Context, direct, gated *suiteRun) {
	differing := differences(direct, gated)
	for again := 1; again <= pgxReruns && len(differing) > 0; again++ {
		d, g := s.run(ctx, s.direct(), differing), s.run(ctx, s.enrolled(), differing)
		still := slices.DeleteFunc(slices.Clone(differing), func(k key) bool { return d.of(k) == g.of(k) })
		for _, k := range differing {
			s.rig.t.Logf("differed: %v: direct %s, gate %s; run %d again: direct %s, gate %s",
				k, direct.of(k), gated.of(k), again, d.of(k), g.of(k))
		}
		differing, direct, gated = still, d, g
	}
	for _, k := range differing {
		s.rig.t.Errorf("%v: direct %s, through the gate %s\n--- direct:\n%s--- through the gate:\n%s",
			k, direct.of(k), gated.of(k), direct.output[k], gated.output[k])
	}
}

// key names a test; an empty test is its package as a whole.
type key struct{ pkg, test string }

func (k key) compare(other key) int {
	return cmp.Or(strings.Compare(k.pkg, other.pkg), strings.Compare(k.test, other.test))
}

func (k key) String() string { return strings.TrimSpace(k.pkg + " " + k.test) }

// suiteRun is how the tests ended: pass, fail or skip.
type suiteRun struct {
	results map[key]string
	output  map[key]string
	seconds map[key]float64 // of tests that are in no other
	took    time.Duration
	shares  string // of the packages in took
}

func (r *suiteRun) of(k key) string { return cmp.Or(r.results[k], "missing") }

func (r *suiteRun) count(result string) int {
	n := 0
	for k, v := range r.results {
		if v == result && k.test != "" {
			n++
		}
	}
	return n
}

func (r *suiteRun) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped in %v (%s)",
		r.count("pass"), r.count("fail"), r.count("skip"), r.took.Round(100*time.Millisecond), r.shares)
}

// differences lists the tests that don't end the same. A package is listed if
// it doesn't although all of its tests do.
func differences(a, b *suiteRun) []key {
	var list []key
	inside := map[string]bool{}
	all := maps.Clone(a.results)
	maps.Copy(all, b.results)
	for k := range all {
		if k.test != "" && a.of(k) != b.of(k) {
			list, inside[k.pkg] = append(list, k), true
		}
	}
	for k := range all {
		if k.test == "" && !inside[k.pkg] && a.of(k) != b.of(k) {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, key.compare)
	return list
}

// traffic is what the kernel, the record and the server counted.
type traffic struct {
	counters map[string]uint64
	sessions int // mediated ones, in the record
	served   int // by the server, to the suite's database
}

func (s *suite) traffic(ctx context.Context) traffic {
	t := s.rig.t
	t.Helper()
	status, err := control.NewClient(s.rig.socket).Status(ctx)
	check(t, err)
	list, err := audit.Sessions(s.rig.state, audit.Filter{Resource: "suite"})
	check(t, err)
	served, err := strconv.Atoi(s.rig.server.SQL(t, "postgres", "select sessions from pg_stat_database where datname = '"+pgxDatabase+"'"))
	check(t, err)
	return traffic{status.Counters, len(list), served}
}

// checkTraffic checks that the suite's connections went through the gate, all
// of them.
func (s *suite) checkTraffic(before, after traffic) {
	t := s.rig.t
	t.Helper()
	grown := func(names ...string) (n int) {
		for _, name := range names {
			if _, ok := after.counters[name]; !ok {
				t.Errorf("the kernel has no counter %s", name)
			}
			n += int(after.counters[name] - before.counters[name])
		}
		return n
	}
	redirected := grown("redirected4", "redirected6", "redirected_mapped")
	handed := grown("handed_over")
	sessions, served := after.sessions-before.sessions, after.served-before.served
	t.Logf("traffic: %d connects redirected, %d handed over, %d sessions in the record, %d sessions at the server, %d connects to listeners of single tests, %d datagrams",
		redirected, handed, sessions, served, grown("loopback"), grown("redirected_udp")+grown("denied_udp"))
	if sessions <= 100 || served <= 100 {
		t.Errorf("%d sessions in the record, %d at the server: hardly the suite", sessions, served)
	}
	// A name that is looked up is a datagram and no connection.
	if around := grown("direct"); around != 0 {
		t.Errorf("%d connects went around the gate", around)
	}
	if redirected != handed || redirected != sessions {
		t.Errorf("%d connects were redirected, %d reached the gate, and it has %d sessions in its record", redirected, handed, sessions)
	}
	if served > sessions {
		t.Errorf("the server had %d sessions, the gate only %d", served, sessions)
	}
	if refused := grown("denied_rule", "denied_own_port", "denied_no_listener", "denied_no_policy", "denied_stale", "denied_unmarked", "storage_failed", "inflight_full", "handover_failed", "procs_full"); refused != 0 {
		t.Errorf("the kernel refused %d connects", refused)
	}
}
