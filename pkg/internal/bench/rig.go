package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/pgtest"
)

const nobody = 65534

// The addresses, of this program's own network namespace, at which everything
// listens. They lead to the same sockets: the gate takes what an agent connects
// to for another resource at each.
const (
	plainHost  = "192.0.2.10" // no masks
	relayHost  = "192.0.2.11" // relayed, nothing looked at
	maskedHost = "192.0.2.12" // masks
	kernelHost = "192.0.2.13" // judged in the kernel
	peerHost   = "192.0.2.20" // where peers listen
)

const (
	pgbouncerPort = 6432
	haproxyPort   = 6433
	haproxyEcho   = 6434
	echoPort      = 7007
	stubPort      = 7432
	haproxyStub   = 6435
	gatePort      = 9640
	restPort      = 9740
)

// rig is what is measured, and what that needs to run.
type rig struct {
	o      *Options
	dir    string
	cgroup string
	server *pgtest.Cluster
	port   string // the database's

	pgbouncer, haproxy, gate *process
	started                  []*process
	daemons                  int // how many were started: each has a state of its own
	rules                    int // of the gate's policy
	ends                     []func() error
}

// newRig starts everything. The caller closes it, also after an error.
func newRig(ctx context.Context, o *Options, dir, base string) (*rig, error) {
	r := &rig{o: o, dir: dir, cgroup: base, rules: policyRules}
	steps := []func(context.Context) error{r.network, r.database, r.listeners, r.startPgbouncer, r.startHaproxy, r.startGate}
	if !o.wants("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P12", growthSessions, growthRules, growthRows) {
		return r, nil // the parts bring what they need
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return r, err
		}
		if err := ctx.Err(); err != nil {
			return r, err
		}
	}
	return r, nil
}

// close ends what was started, the last first.
func (r *rig) close() error {
	var errs []error
	for i := len(r.started) - 1; i >= 0; i-- {
		errs = append(errs, r.started[i].end())
	}
	for i := len(r.ends) - 1; i >= 0; i-- {
		errs = append(errs, r.ends[i]())
	}
	return errors.Join(errs...)
}

func (r *rig) network(ctx context.Context) error {
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, host := range []string{plainHost, relayHost, maskedHost, kernelHost, peerHost} {
		commands = append(commands, []string{"addr", "add", host + "/32", "dev", "lo"})
	}
	for _, args := range commands {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	// Thousands of sessions through a proxy need a port for each side of it.
	err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("10240 65535"), 0)
	if err != nil {
		return fmt.Errorf("widen range of ports: %w", err)
	}
	return nil
}

// serverSettings keep the disk, planners and other chores out of the figures.
var serverSettings = []string{
	"listen_addresses=*", "shared_buffers=256MB", "max_connections=600", "synchronous_commit=off", "full_page_writes=off",
	"jit=off", "max_parallel_workers_per_gather=0", "autovacuum=off", "log_min_messages=fatal",
}

// tables are a million rows of about 100 bytes each. Each of people has a
// protected column and a card number.
const tables = `
create table plain as select g as id, md5(g::text) as a, md5((g+1)::text) as b, md5((g+2)::text) as c from generate_series(1, %[2]d) g;
create table people as select g as id, md5(g::text) as a, '078-05-' || lpad((g %% 9999 + 1)::text, 4, '0') as ssn,
  '4111 1111 1111 1111' as card, timestamp '2026-01-01' + g * interval '1 second' as at, 'no. ' || g as note from generate_series(1, %[2]d) g;
grant select on plain, people to %[1]s;
vacuum analyze plain; vacuum analyze people`

// rows is how many each table has.
const rows = 1_000_000

// database starts a server, on a thread that stays: the server ends with it.
func (r *rig) database(ctx context.Context) error {
	opened, done, closed := make(chan error, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		r.server, err = pgtest.Open(serverSettings...)
		opened <- err
		if err != nil {
			return
		}
		<-done
		closed <- r.server.Close()
	}()
	if err := <-opened; err != nil {
		return err
	}
	r.ends = append(r.ends, func() error {
		close(done)
		return <-closed
	})
	r.port = strconv.Itoa(r.server.Port)
	if err := r.ownCgroup(); err != nil {
		return err
	}
	if r.o.wants("P1", "P2", growthSessions, growthRules) {
		init := exec.CommandContext(ctx, "pgbench", "-i", "-q", "-s", "10")
		init.Env = r.environment(path{host: plainHost, port: r.port, password: true})
		if out, err := init.CombinedOutput(); err != nil {
			return fmt.Errorf("pgbench -i: %w: %s", err, out)
		}
	}
	if r.o.wants("P3", "P4", "P5") {
		for text := range strings.SplitSeq(fmt.Sprintf(tables, pgtest.App, rows), ";") {
			if _, err := r.server.Exec(pgtest.Database, text); err != nil {
				return err
			}
		}
	}
	err := r.prepareGrowth(pgtest.App, func(text string) error {
		_, err := r.server.Exec(pgtest.Database, text)
		return err
	})
	if err != nil {
		return err
	}
	_, err = r.server.Exec(pgtest.Database, "checkpoint")
	return err
}

// ownCgroup moves the server, and so all that it starts from now on, to where
// its time is counted.
func (r *rig) ownCgroup() error {
	text, err := os.ReadFile(filepath.Join(r.server.Dir, "data", "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("find the server: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("find the server: %w", err)
	}
	return cgroup.Move(filepath.Join(r.cgroup, "server"), pid)
}

// process is a program that runs until the end.
type process struct {
	name   string
	cmd    *exec.Cmd
	exited chan struct{}
	log    string
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// spawn starts a program that goes on running, and waits until ready is true.
func (r *rig) spawn(ctx context.Context, name string, cmd *exec.Cmd, ready func() bool) (*process, error) {
	log, err := os.CreateTemp(r.dir, name+"-log")
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	defer log.Close()
	p := &process{name: name, cmd: cmd, exited: make(chan struct{}), log: log.Name()}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	r.started = append(r.started, p)
	go func() {
		_ = cmd.Wait() // how it ended shows in its log
		close(p.exited)
	}()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if ready() {
			return p, nil
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended:\n%s", name, p.said())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("%s is not ready in 30 s:\n%s", name, p.said())
}

// said returns the end of the program's log.
func (p *process) said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(text[max(0, len(text)-most):])
}

func (p *process) end() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		if err := p.cmd.Process.Kill(); err != nil {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
		<-p.exited
	}
	return nil
}

func listens(host string, port int) func() bool {
	return func() bool {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
}

// asNobody has a command run as a user without rights.
func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

func (r *rig) write(name, text string) (string, error) {
	file := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return file, nil
}
