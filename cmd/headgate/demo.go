package main

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/protocol/postgres/toy"
)

//go:embed demo/policy.yaml
var demoPolicy string

const (
	demoUser   = 65534 // nobody
	demoRole   = "shop_ci"
	demoTime   = 50 * time.Second
	demoBinary = "headgate"
)

// demoTree is the tree that the demonstration watches: a shell, a detached
// child of it, and that one's child, the agent. The shell is gone first.
const demoTree = `setsid /bin/sh -c '"$@"; exit 0' sh "$@" & exit 0`

func demoCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "The whole story in under a minute: no network, no database, leaves nothing behind (root)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTime)
			defer cancel()
			return demonstrate(ctx, e)
		},
	}
}

// demo is a daemon with a toy database behind it, and the way to be an agent.
type demo struct {
	env
	dir      string
	cgroup   string
	password string
	database *toy.Server
	port     int
	cfg      *config.Config
	daemon   *daemon
	promises []promise
}

// promise is one thing that was to be shown.
type promise struct {
	what string
	kept bool
}

// demonstrate runs the demonstration and undoes whatever it did.
func demonstrate(ctx context.Context, e env) (err error) {
	d := &demo{env: e}
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	stop, err := d.start(ctx)
	if err != nil {
		return err
	}
	showErr := d.show(ctx)
	if err := errors.Join(showErr, stop()); err != nil {
		return err
	}
	if err := d.showRecord(); err != nil {
		return err
	}
	return d.verdict()
}

// prepare makes the directory, the toy database and the configuration.
func (d *demo) prepare(context.Context) (err error) {
	if os.Geteuid() != 0 {
		return withHint(errors.New("the demonstration attaches to the kernel and needs root"), "sudo headgate demo")
	}
	if d.dir, err = os.MkdirTemp("", "headgate-demo"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	mount, err := cgroup.Mount()
	if err != nil {
		return withHint(err, "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	d.cgroup = filepath.Join(mount, "headgate-demo-"+strconv.Itoa(os.Getpid()))
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("make password: %w", err)
	}
	d.password = hex.EncodeToString(random[:])
	d.database = &toy.Server{Username: demoRole, Password: d.password}
	// Agents have to be able to execute this program, wherever it was built.
	if err := copyFile(filepath.Join(d.dir, demoBinary), "/proc/self/exe", 0o755); err != nil {
		return err
	}
	return os.Chmod(d.dir, 0o755) //nolint:gosec // agents look up the program in it
}

// start opens the database and the daemon; stop ends both and waits for them.
func (d *demo) start(ctx context.Context) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open toy database: %w", err)
	}
	d.port = listener.Addr().(*net.TCPAddr).Port
	if err := d.configure(); err != nil {
		cancel()
		return nil, errors.Join(err, listener.Close())
	}
	d.daemon, err = startDaemon(ctx, d.cfg, zerolog.Nop())
	if err != nil {
		cancel()
		return nil, errors.Join(err, listener.Close())
	}
	ended := make(chan error, 2)
	go func() { ended <- d.database.Serve(ctx, listener) }()
	go func() { ended <- d.daemon.run(ctx) }()
	return func() error {
		cancel()
		return errors.Join(<-ended, <-ended)
	}, nil
}

func (d *demo) configure() error {
	secret := filepath.Join(d.dir, "secret")
	policies := filepath.Join(d.dir, "policies")
	text := strings.ReplaceAll(demoPolicy, "PORT", strconv.Itoa(d.port))
	port, err := unusedPort()
	err = errors.Join(err,
		os.WriteFile(secret, []byte(d.password), 0o600),
		os.Mkdir(policies, 0o700),
		os.WriteFile(filepath.Join(policies, "demo.yaml"), []byte(text), 0o600))
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	d.cfg = config.Default()
	d.cfg.Intercept.Cgroup, d.cfg.Intercept.PinDir, d.cfg.Intercept.Port = d.cgroup, "", port
	d.cfg.Policies, d.cfg.State = policies, filepath.Join(d.dir, "state")
	d.cfg.Control.Socket, d.cfg.Metrics.Listen = filepath.Join(d.dir, "control.sock"), ""
	d.cfg.Credentials = map[string]config.Credential{"toy-db": {
		From: "file:" + secret, Username: demoRole, Hosts: []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port))},
	}}
	return config.Check(d.cfg)
}

func unusedPort() (uint16, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	return uint16(l.Addr().(*net.TCPAddr).Port), l.Close()
}

// agent runs the agent's part of the demonstration as an unprivileged user, at
// the bottom of a nested tree, and returns what it printed.
func (d *demo) agent(ctx context.Context, part string) (string, error) {
	program := filepath.Join(d.dir, demoBinary)
	return d.as(ctx, nil, program, "run", "--socket", d.cfg.Control.Socket, "--agent", "demo", "--",
		"/bin/sh", "-c", demoTree, "sh", program, "demo-agent", part, strconv.Itoa(d.port))
}

// outsider runs the same outside of every tree. Nobody logs in for it: it has to
// know the password.
func (d *demo) outsider(ctx context.Context, part string) (string, error) {
	env := []string{"PGUSER=" + demoRole, "PGPASSWORD=" + d.password}
	return d.as(ctx, env, filepath.Join(d.dir, demoBinary), "demo-agent", part, strconv.Itoa(d.port))
}

// startIn has the command start in the cgroup of agents: its connections pass
// the hooks, whoever it is. The demonstration itself is in the daemon's cgroup,
// which is exempt.
func (d *demo) startIn(cmd *exec.Cmd) (release func() error, err error) {
	path := filepath.Join(d.cgroup, agentsCgroup)
	if err := cgroup.Create(path); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return dir.Close, nil
}

func (d *demo) as(ctx context.Context, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: demoUser, Gid: demoUser}}
	release, err := d.startIn(cmd)
	if err != nil {
		return "", err
	}
	defer func() {
		// It was only needed for the start.
		_ = release()
	}()
	var out bytes.Buffer
	// Both streams end when the last of the tree is gone.
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %s: %w\n%s", argv[0], err, out.String())
	}
	return out.String(), nil
}

// cleanUp removes the directory and the cgroups. Without pins nothing else is
// left: the programs are gone with the daemon.
func (d *demo) cleanUp() error {
	var errs []error
	for _, name := range []string{agentsCgroup, "daemon", ""} {
		path := filepath.Join(d.cgroup, name)
		if d.cgroup == "" {
			break
		}
		if _, err := os.Stat(path); err == nil {
			errs = append(errs, cgroup.Remove(path))
		}
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

func copyFile(to, from string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	return nil
}
