package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

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
