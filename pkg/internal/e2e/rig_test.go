package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/kernel"
)

// The server's own addresses, in the tests' network namespace.
const (
	serverV4 = "192.0.2.10"
	serverV6 = "2001:db8::10"
	nobody   = 65534
)

const inNamespace = "HEADGATE_TEST_NETNS"

// maxLog bounds what is shown of a daemon's log, from its end.
const maxLog = 32 << 10

// TestMain runs privileged tests in a network namespace of their own, which has
// a loopback with the server's addresses on it and nothing else.
func TestMain(m *testing.M) {
	if os.Getenv("HEADGATE_PRIVILEGED") == "1" && os.Getenv(inNamespace) == "" {
		argv := append([]string{"unshare", "--net", "--"}, os.Args...)
		path, err := exec.LookPath("unshare")
		if err == nil {
			err = syscall.Exec(path, argv, append(os.Environ(), inNamespace+"=1"))
		}
		fmt.Fprintln(os.Stderr, "enter a network namespace:", err)
		os.Exit(1)
	}
	if os.Getenv(inNamespace) == "1" {
		for _, args := range [][]string{
			{"link", "set", "lo", "up"},
			{"addr", "add", serverV4 + "/32", "dev", "lo"},
			{"addr", "add", serverV6 + "/128", "dev", "lo", "nodad"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "ip %v: %v\n%s", args, err, out)
				os.Exit(1)
			}
		}
	}
	status := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, "remove programs:", err)
		}
	}
	os.Exit(status)
}

// rig is a running daemon in front of a real server, and what is needed to be
// an agent.
type rig struct {
	t      *testing.T
	dir    string // readable by agents
	config string
	state  string
	socket string
	scrape string
	cgroup string
	pins   string
	bin    string
	client string
	server *pgtest.Cluster
	daemon *exec.Cmd
	exited chan struct{}
	// env is what commands get beyond what all of them do, patience how long they
	// may run: a minute if it is zero.
	env      []string
	patience time.Duration
	// manager, if set, keeps the daemon's descriptors.
	manager *manager
}

var built struct {
	sync.Once
	dir, bin, client string
	err              error
}

// programs builds the command and the static client once for all tests.
func programs(t *testing.T) (bin, client string) {
	t.Helper()
	built.Do(func() {
		dir, err := os.MkdirTemp("", "headgate-bin")
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		built.dir = dir
		built.bin, built.client = filepath.Join(dir, "headgate"), filepath.Join(dir, "pgclient")
		for out, pkg := range map[string]string{built.bin: "github.com/headgate/headgate/cmd/headgate", built.client: "./testdata/pgclient"} {
			cmd := exec.Command("go", "build", "-o", out, pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if text, buildErr := cmd.CombinedOutput(); buildErr != nil && err == nil {
				err = fmt.Errorf("build %s: %w\n%s", pkg, buildErr, text)
			}
		}
		built.err = err
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.bin, built.client
}

const rigPolicy = `
version: 1
agents:
  - {name: ci}
  - {name: by-user, users: ["4242"]}
  - {name: by-cgroup, cgroups: ["%[2]s"]}
resources:
  - name: shop
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d", "[2001:db8::10]:%[1]d", "127.0.0.1:%[1]d", "[::1]:%[1]d"]
    credential: shop
    tls: {verify: off}
  - name: opaque
    protocol: tcp
    hosts: ["192.0.2.10:7007"]
rules:
  - {name: work, effect: allow, resources: ["*"], operations: ["*"]}
  - name: no-destruction
    effect: deny
    resources: [shop]
    operations: [drop, truncate, delete, do]
    message: Destructive statements go through migrations.
masks:
  - {name: cards, resources: [shop], columns: ["public.customers.card"], with: keep-last-4}
  - {name: ids, resources: [shop], columns: ["*.*.ssn"], with: redact}
  - {name: loose-cards, resources: [shop], detect: [pan], with: keep-last-4}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

// newRig starts a server with the given settings and a daemon in front of it.
// policy is formatted with the server's port and the path of a cgroup that a
// rule enrols.
func newRig(t *testing.T, policy string, settings ...string) *rig {
	t.Helper()
	return newRigOn(t, pgtest.System, policy, settings...)
}

// newRigOn is newRig with a server of another version.
func newRigOn(t *testing.T, version pgtest.Version, policy string, settings ...string) *rig {
	t.Helper()
	testenv.Need(t, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN)
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs a network namespace of its own; scripts/test.sh privileged makes one")
	}
	r := &rig{t: t}
	r.bin, r.client = programs(t)
	r.server = version.Start(t, append(settings, "listen_addresses=*")...)
	var err error
	r.dir, err = os.MkdirTemp("", "headgate-e2e")
	check(t, err)
	check(t, os.Chmod(r.dir, 0o755))
	t.Cleanup(func() { check(t, os.RemoveAll(r.dir)) })
	mount, err := cgroup.Mount()
	check(t, err)
	name := fmt.Sprintf("headgate-e2e-%d", os.Getpid())
	r.cgroup = filepath.Join(mount, name)
	r.pins = filepath.Join("/sys/fs/bpf", name)
	r.state, r.socket = filepath.Join(r.dir, "state"), filepath.Join(r.dir, "control.sock")
	check(t, cgroup.Create(r.cgroup))
	check(t, cgroup.Create(filepath.Join(r.cgroup, "by-rule")))
	t.Cleanup(r.cleanup)
	r.write("policies/policy.yaml", fmt.Sprintf(policy, r.server.Port, "/"+name+"/by-rule"))
	r.write("secret", pgtest.AppPassword)
	check(t, os.Chmod(filepath.Join(r.dir, "secret"), 0o600))
	r.config = r.write("headgate.yaml", fmt.Sprintf(`
version: 1
intercept: {cgroup: %q, pin_dir: %q, port: %d, heartbeat: 5s}
policies: %q
state: %q
control: {socket: %q}
metrics: {listen: "127.0.0.1:%d"}
protocols: {shortcuts: %q}
credentials:
  shop: {from: "file:%s/secret", username: %s, hosts: ["192.0.2.10:%[11]d", "[2001:db8::10]:%[11]d", "127.0.0.1:%[11]d", "[::1]:%[11]d"]}
`, r.cgroup, r.pins, freePort(t), filepath.Join(r.dir, "policies"), r.state, r.socket, r.scrapePort(), shortcuts(), r.dir, pgtest.App, r.server.Port))
	r.start()
	return r
}

// shortcuts is what HEADGATE_SHORTCUTS says of those of the protocols.
func shortcuts() string { return cmp.Or(os.Getenv("HEADGATE_SHORTCUTS"), "on") }

func (r *rig) scrapePort() int {
	port := freePort(r.t)
	r.scrape = fmt.Sprintf("http://127.0.0.1:%d/metrics", port)
	return port
}

func (r *rig) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	check(r.t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(r.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// start starts the daemon and waits until it answers.
func (r *rig) start() {
	r.t.Helper()
	stderr, err := os.CreateTemp(r.dir, "daemon-log")
	check(r.t, err)
	r.daemon = exec.Command(r.bin, "daemon", "--config", r.config)
	if r.manager != nil {
		r.manager.prepare(r.daemon)
	}
	r.daemon.Stderr = stderr
	r.daemon.Stdout = stderr
	check(r.t, r.daemon.Start())
	daemon, exited := r.daemon, make(chan struct{})
	r.exited = exited
	go func() {
		// How it ended shows in its log.
		_ = daemon.Wait()
		close(exited)
	}()
	client := control.NewClient(r.socket)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		status, err := client.Status(r.t.Context())
		if err == nil && status.PID == daemon.Process.Pid {
			r.t.Cleanup(func() {
				r.stop()
				if r.t.Failed() {
					// A test with thousands of sessions would bury its own words.
					text, err := os.ReadFile(stderr.Name())
					r.t.Logf("daemon's log (%v):\n%s", err, text[max(0, len(text)-maxLog):])
				}
			})
			return
		}
		select {
		case <-exited:
			text, err := os.ReadFile(stderr.Name())
			r.t.Fatalf("daemon ended; its log (%v):\n%s", err, text)
		case <-time.After(20 * time.Millisecond):
		}
	}
	r.t.Fatal("daemon not ready in 30 s")
}

// stop ends the daemon in order, if it runs.
func (r *rig) stop() {
	r.t.Helper()
	if err := r.daemon.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Errorf("stop daemon: %v", err)
	}
	<-r.exited
}

// kill ends the daemon as a crash does.
func (r *rig) kill() {
	r.t.Helper()
	check(r.t, r.daemon.Process.Kill())
	<-r.exited
}

// cleanup takes off what the daemon pinned and removes the cgroups.
func (r *rig) cleanup() {
	if err := kernel.Uninstall(r.pins); err != nil {
		r.t.Errorf("uninstall: %v", err)
	}
	for _, name := range []string{"by-rule", "agents", "daemon", ""} {
		path := filepath.Join(r.cgroup, name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := cgroup.Remove(path); err != nil {
			r.t.Errorf("remove cgroup: %v", err)
		}
	}
}

// nested is a shell that starts a detached shell that starts the command, and
// is gone before that one has begun.
const nested = `setsid /bin/sh -c '"$@"; echo "exit: $?"' sh "$@" & exit 0`

// outcome is what a command printed, both streams together, and its status.
type outcome struct {
	text   string
	status int
}

var exitLine = regexp.MustCompile(`(?m)^exit: (\d+)\n`)

// agent runs a command as an unprivileged user, three processes down in an
// enrolled tree, detached from it.
func (r *rig) agent(argv ...string) outcome {
	r.t.Helper()
	return r.tree([]string{r.bin, "run", "--socket", r.socket, "--agent", "ci", "--"}, nobody, argv...)
}

// tree runs a command as nested does, behind the given prefix.
func (r *rig) tree(prefix []string, uid uint32, argv ...string) outcome {
	r.t.Helper()
	argv = append(append(append([]string{}, prefix...), "/bin/sh", "-c", nested, "sh"), argv...)
	return r.detached(r.command(uid, argv...))
}

// treeIn runs a command as nested does, in one of the rig's cgroups.
func (r *rig) treeIn(name string, uid uint32, argv ...string) outcome {
	r.t.Helper()
	path := filepath.Join(r.cgroup, name)
	check(r.t, os.MkdirAll(path, 0o755))
	dir, err := os.Open(path)
	check(r.t, err)
	defer dir.Close()
	cmd := r.command(uid, append([]string{"/bin/sh", "-c", nested, "sh"}, argv...)...)
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return r.detached(cmd)
}

// detached runs the command and waits for the last of its descendants.
func (r *rig) detached(cmd *exec.Cmd) outcome {
	r.t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// The pipe stays open until the last of the tree is gone.
	if err := cmd.Run(); err != nil {
		return outcome{out.String() + err.Error(), -1}
	}
	m := exitLine.FindStringSubmatch(out.String())
	if m == nil {
		return outcome{out.String(), -1}
	}
	status, err := strconv.Atoi(m[1])
	check(r.t, err)
	return outcome{exitLine.ReplaceAllString(out.String(), ""), status}
}

// outsider runs a command as the same user, in no tree, logging in by itself.
func (r *rig) outsider(argv ...string) outcome {
	r.t.Helper()
	cmd := r.command(nobody, argv...)
	cmd.Env = append(cmd.Env, "PGPASSWORD="+pgtest.AppPassword, "PGUSER="+pgtest.App)
	out, err := cmd.CombinedOutput()
	status := cmd.ProcessState.ExitCode()
	if err != nil && status <= 0 {
		r.t.Fatalf("%v: %v", argv, err)
	}
	return outcome{string(out), status}
}

func (r *rig) command(uid uint32, argv ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(r.patience, time.Minute))
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PGHOST=" + serverV4, "PGPORT=" + strconv.Itoa(r.server.Port),
		"PGDATABASE=" + pgtest.Database, "PGUSER=whoever", "PGSSLMODE=prefer", "PSQLRC=/dev/null", "PGCONNECT_TIMEOUT=20"}
	cmd.Env = append(cmd.Env, r.env...)
	return cmd
}

// psql is Debian's client, printing rows without decoration.
func psql(args ...string) []string {
	return append([]string{"/usr/bin/psql", "-X", "-A", "-t"}, args...)
}

// sql asks the server itself, past everything.
func (r *rig) sql(text string) string { return r.server.SQL(r.t, pgtest.Database, text) }

// last returns the newest session, once it has ended.
func (r *rig) last() *audit.SessionDetail {
	r.t.Helper()
	return r.lastTo("")
}

// lastTo returns the newest session to a resource, once it has ended.
func (r *rig) lastTo(resource string) *audit.SessionDetail {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		list, err := audit.Sessions(r.state, audit.Filter{Limit: 1, Resource: resource})
		check(r.t, err)
		if len(list) == 1 && list[0].End != nil {
			detail, err := audit.Session(r.state, list[0].ID)
			check(r.t, err)
			return detail
		}
	}
	r.t.Fatal("no session ended")
	return nil
}

// metric returns the sum of the series of a metric whose labels contain all of
// the given texts.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	resp, err := http.Get(r.scrape)
	check(r.t, err)
	defer resp.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(resp.Body)
lines:
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue lines
			}
		}
		n, err := strconv.ParseFloat(value, 64)
		check(r.t, err)
		sum += n
	}
	check(r.t, lines.Err())
	return sum
}

func (o outcome) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if o.status != status {
		t.Errorf("status %d, want %d:\n%s", o.status, status, o.text)
	}
	for _, text := range texts {
		if !strings.Contains(o.text, text) {
			t.Errorf("output has no %q:\n%s", text, o.text)
		}
	}
}

func (o outcome) wantNot(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(o.text, text) {
			t.Errorf("output has %q:\n%s", text, o.text)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	return int(testenv.FreePort(t))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cli runs the command line of this build in a process of its own.
func (r *rig) cli(args ...string) outcome {
	r.t.Helper()
	cmd := exec.Command(r.bin, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		r.t.Fatalf("%v: %v", args, err)
	}
	return outcome{string(out), cmd.ProcessState.ExitCode()}
}
