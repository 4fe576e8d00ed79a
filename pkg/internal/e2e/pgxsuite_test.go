package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/internal/pgtest"
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

// suite is the driver's test programs, and a server with what they want.
type suite struct {
	rig      *rig
	dir      string
	packages []suitePackage
	env      []string
}

type suitePackage struct {
	path    string // the import path
	dir     string
	program string
}

// newSuite copies the driver's module, which is read-only where it is, builds
// the tests of all of its packages, and sets the server up.
func newSuite(ctx context.Context, r *rig) *suite {
	r.t.Helper()
	s := &suite{rig: r, dir: filepath.Join(r.dir, "pgx")}
	source := strings.TrimSpace(output(ctx, r.t, ".", "go", "list", "-m", "-f", "{{.Dir}}", pgxModule))
	check(r.t, os.CopyFS(s.dir, os.DirFS(source)))
	programs := filepath.Join(r.dir, "suite-bin")
	check(r.t, os.Mkdir(programs, 0o755))
	started := time.Now()
	output(ctx, r.t, s.dir, "go", "test", "-c", "-o", programs+"/", "./...")
	list := output(ctx, r.t, s.dir, "go", "list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}", "./...")
	for line := range strings.Lines(list) {
		name, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		// The last element of the module's own path is its version.
		base := path.Base(strings.TrimSuffix(name, "/v5"))
		program := filepath.Join(programs, base+".test")
		_, err := os.Stat(program)
		check(r.t, err)
		s.packages = append(s.packages, suitePackage{path: name, dir: dir, program: program})
	}
	r.t.Logf("%s: the tests of %d packages, built in %v", filepath.Base(source), len(s.packages), time.Since(started).Round(time.Second))
	s.setUpServer()
	return s
}

// setUpServer does what the suite's continuous integration does before it.
func (s *suite) setUpServer() {
	r := s.rig
	r.t.Helper()
	hba := filepath.Join(r.server.Dir, "data", "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	check(r.t, err)
	// The first line that matches counts.
	own := "host all pgx_md5 all md5\nhost all pgx_scram all scram-sha-256\nhost all pgx_pw all password\n"
	check(r.t, os.WriteFile(hba, append([]byte(own), rules...), 0o600))
	r.server.SQL(r.t, "postgres", "select pg_reload_conf()")
	r.server.SQL(r.t, "postgres", "create database "+pgxDatabase)
	cmd := exec.Command(filepath.Join(r.server.Bin, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1",
		"-h", r.server.Dir, "-p", strconv.Itoa(r.server.Port), "-U", pgtest.Admin, "-d", pgxDatabase,
		"-f", filepath.Join(s.dir, "testsetup", "postgresql_setup.sql"))
	cmd.Env = append(os.Environ(), "PGPASSWORD="+pgtest.AdminPassword)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("set up the suite's database: %v\n%s", err, out)
	}
	home := filepath.Join(r.dir, "home")
	check(r.t, os.Mkdir(home, 0o755))
	check(r.t, os.Chown(home, nobody, nobody))
	// Not set, so that their tests are skipped on both sides: a unix socket is no
	// TCP connection, and TLS between agent and gate is refused by design.
	as := func(user string) string {
		return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s", serverV4, r.server.Port, user, pgxPassword, pgxDatabase)
	}
	s.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=/tmp",
		"PGX_TEST_DATABASE=" + as("pgx_md5"),
		"PGX_TEST_TCP_CONN_STRING=" + as("pgx_md5"),
		"PGX_TEST_MD5_PASSWORD_CONN_STRING=" + as("pgx_md5"),
		"PGX_TEST_PLAIN_PASSWORD_CONN_STRING=" + as("pgx_pw"),
		"PGX_TEST_SCRAM_PASSWORD_CONN_STRING=" + as("pgx_scram") + " channel_binding=disable",
	}
}

func (s *suite) direct() []string { return nil }

func (s *suite) enrolled() []string {
	return []string{s.rig.bin, "run", "--socket", s.rig.socket, "--"}
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

// run runs the tests, one package after the other, behind the given prefix.
// only restricts it to some tests, with all that is inside of them; nil means
// all.
func (s *suite) run(ctx context.Context, prefix []string, only []key) *suiteRun {
	s.rig.t.Helper()
	out := &suiteRun{results: map[key]string{}, output: map[key]string{}, seconds: map[key]float64{}}
	started := time.Now()
	var times []string
	for _, p := range s.packages {
		pattern, wanted := selection(p.path, only)
		if !wanted {
			continue
		}
		began := time.Now()
		argv := slices.Concat(prefix, []string{p.program, "-test.v=test2json", "-test.count=1", "-test.timeout=" + pgxPackage}, pattern)
		s.runPackage(ctx, p, argv, out)
		times = append(times, fmt.Sprintf("%s %.1fs", path.Base(p.path), time.Since(began).Seconds()))
	}
	out.took, out.shares = time.Since(started), strings.Join(times, ", ")
	return out
}

// selection returns the flags that select what of a package is in only.
func selection(pkg string, only []key) (flags []string, wanted bool) {
	if only == nil {
		return nil, true
	}
	var names []string
	for _, k := range only {
		if k.pkg != pkg {
			continue
		}
		if k.test == "" {
			return nil, true
		}
		top, _, _ := strings.Cut(k.test, "/")
		names = append(names, regexp.QuoteMeta(top))
	}
	slices.Sort(names)
	return []string{"-test.run=^(" + strings.Join(slices.Compact(names), "|") + ")$"}, len(names) > 0
}

func (s *suite) runPackage(ctx context.Context, p suitePackage, argv []string, to *suiteRun) {
	t := s.rig.t
	t.Helper()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = p.dir, s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.WaitDelay = 5 * time.Second
	text, err := cmd.CombinedOutput()
	var status *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &status) {
		t.Fatalf("%v: %v (%v)\n%s", argv, err, ctx.Err(), text[max(0, len(text)-4000):])
	}
	// As the go command does it: the reader of the test's output is not in the
	// tree of the test.
	convert := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", p.path)
	convert.Stdin = bytes.NewReader(text)
	events, err := convert.Output()
	check(t, err)
	check(t, to.add(p.path, events))
	to.results[key{p.path, ""}] = "pass"
	if err != nil || status != nil {
		to.results[key{p.path, ""}] = "fail"
		to.output[key{p.path, ""}] = string(text[max(0, len(text)-4000):])
	}
}

var temporary = regexp.MustCompile(`(/tmp/Test\w*?)[0-9]+\b`)

// add takes the events that test2json made of a package's output.
func (r *suiteRun) add(pkg string, events []byte) error {
	lines := json.NewDecoder(bufio.NewReader(bytes.NewReader(events)))
	for {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := lines.Decode(&e); err != nil {
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("read events of %s: %w", pkg, err)
		}
		if e.Test == "" {
			continue
		}
		// Some tests have the name of a temporary directory in theirs.
		k := key{pkg, temporary.ReplaceAllString(e.Test, "$1")}
		switch e.Action {
		case "pass", "fail", "skip":
			r.results[k] = e.Action
			if !strings.Contains(k.test, "/") {
				r.seconds[k] = e.Elapsed
			}
		case "output":
			r.output[k] += e.Output
		}
	}
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
		redirected, handed, sessions, served, grown("loopback"), grown("not_tcp"))
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

// output runs a command that needs no network and returns what it prints.
func output(ctx context.Context, t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return string(out)
}
