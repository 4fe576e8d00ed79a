// Package pgtest starts a real PostgreSQL server for tests: a cluster of its
// own in a temporary directory, on loopback, gone when the test ends.
package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

// The roles that every cluster has. Admin may do everything; App owns the
// tables of the fixture. Both log in with a password by SCRAM-SHA-256.
const (
	Admin         = "postgres"
	AdminPassword = "admin-secret-7Kq2"
	App           = "app"
	AppPassword   = "app-secret-93XvTz"
	Database      = "shop"
)

// Fixture is the schema and the rows that [Start] puts into Database.
const Fixture = `
create table customers (id int primary key, name text, email text, card varchar(32), ssn text, balance numeric);
insert into customers values
 (1, 'Ada Lovelace', 'ada@example.com', '4111 1111 1111 1111', '123-45-6789', 12.50),
 (2, 'Grace Hopper', 'grace@example.org', '5500005555555559', '219-09-9998', 0),
 (3, 'Nobody', null, null, null, null);
create table orders (id serial primary key, customer int references customers, note text);
insert into orders (customer, note) values (1, 'plain note'), (2, 'paid with 4111111111111111');
create view customer_cards as select name, card from customers;
`

// ErrMissing says that this machine has no server to start.
var ErrMissing = errors.New("needs a PostgreSQL server; scripts/test-deps.sh installs it")

// Cluster is a running server.
type Cluster struct {
	Port int
	Bin  string // the directory of the tools, as psql, whatever the server's version
	Dir  string // where its unix socket is

	programs string // the directory of the server's programs

	as     *syscall.SysProcAttr
	server *exec.Cmd
	log    bytes.Buffer // valid once the server has ended
}

// Addr returns the server's IPv4 address.
func (c *Cluster) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)) }

// DSN returns a connection string for host, with the given role.
func (c *Cluster) DSN(host, role, password string) string {
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", host, c.Port, role, password, Database)
}

// Start starts a server of version [System] with the fixture in it, in the network namespace of the
// thread that calls it. It skips the test, as [Skip] does, where the server's
// programs are missing. The settings are of the form name=value.
func Start(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	return start(t, System, settings)
}

func start(t testing.TB, v Version, settings []string) *Cluster {
	t.Helper()
	var death syscall.Signal
	if os.Getuid() != 0 {
		death = syscall.SIGKILL
	}
	c, err := open(v, death, settings)
	if errors.Is(err, ErrMissing) {
		Skip(t, err.Error())
	}
	must(t, "start server", err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop server: %v", err)
		}
	})
	return c
}

// Open starts a server of version [System] that all tests of a program share, with the fixture in it.
// The caller closes it. Should the program die before that, the server dies with
// the thread that called Open, which has to be locked and to stay until then.
func Open(settings ...string) (*Cluster, error) { return openUntilThread(System, settings) }

func openUntilThread(v Version, settings []string) (*Cluster, error) {
	return open(v, syscall.SIGQUIT, settings)
}

// Skip skips a test that needs a server where there is none. With
// HEADGATE_TESTS=all, or HEADGATE_PRIVILEGED=1, it fails the test instead.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("HEADGATE_TESTS") == "all" {
		t.Fatalf("%s, and HEADGATE_TESTS=all demands that it runs", reason)
	}
	testenv.Skip(t, reason)
}

func open(v Version, death syscall.Signal, settings []string) (*Cluster, error) {
	programs, err := v.programs()
	if err != nil {
		return nil, err
	}
	tools, err := systemPrograms()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Bin: tools, programs: programs}
	if c.Dir, err = os.MkdirTemp("", "headgate-pg"); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := c.begin(death, settings); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) begin(death syscall.Signal, settings []string) (err error) {
	if c.Port, err = freePort(); err != nil {
		return err
	}
	if c.as, err = owner(c.Dir); err != nil {
		return err
	}
	data, pwfile := filepath.Join(c.Dir, "data"), filepath.Join(c.Dir, "pw")
	if err := os.WriteFile(pwfile, []byte(AdminPassword+"\n"), 0o644); err != nil {
		return fmt.Errorf("write password file: %w", err)
	}
	initdb := c.command("initdb", "-D", data, "-U", Admin, "--pwfile="+pwfile, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := allowAllHosts(data); err != nil {
		return err
	}
	if err := c.launch(death, data, settings); err != nil {
		return err
	}
	for _, step := range [][2]string{
		{"postgres", fmt.Sprintf("create role %s login password '%s'", App, AppPassword)},
		{"postgres", fmt.Sprintf("create database %s owner %s", Database, App)},
		{Database, "set role " + App + ";" + Fixture},
	} {
		if _, err := c.Exec(step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the server and removes what it left.
func (c *Cluster) Close() error {
	var err error
	if c.server != nil && c.server.Process != nil {
		// SIGINT is the server's fast shutdown.
		if err = c.server.Process.Signal(syscall.SIGINT); err != nil {
			err = fmt.Errorf("stop server: %w\n%s", err, c.log.String())
		}
		_ = c.server.Wait() // it was told to end, or has: what is left is a directory
	}
	return errors.Join(err, os.RemoveAll(c.Dir))
}

// SQL is [Cluster.Exec] for a test that fails if that does.
func (c *Cluster) SQL(t testing.TB, database, text string) string {
	t.Helper()
	out, err := c.Exec(database, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Exec runs statements as the administrator through the unix socket, past every
// proxy, and returns what psql prints in its unaligned form.
func (c *Cluster) Exec(database, text string) (string, error) {
	cmd := exec.Command(filepath.Join(c.Bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", c.Dir, "-p", strconv.Itoa(c.Port), "-U", Admin, "-d", database, "-c", text)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+AdminPassword)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql %q: %w\n%s", text, err, out)
	}
	return string(bytes.TrimSpace(out)), nil
}

// owner gives dir to a user that the server accepts to run as: it refuses root.
func owner(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("look up the server's user: %w", err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
		return nil, fmt.Errorf("give the directory away: %w", err)
	}
	return &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
	}, nil
}

// allowAllHosts lets every address log in by password, not only loopback: what
// can reach the server is up to settings.
func allowAllHosts(data string) error {
	f, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open pg_hba.conf: %w", err)
	}
	_, err = f.WriteString("host all all all scram-sha-256\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write pg_hba.conf: %w", err)
	}
	return nil
}

// command is one of the server's programs, run as its user.
func (c *Cluster) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.programs, program), args...)
	attributes := *c.as
	cmd.Dir, cmd.SysProcAttr = c.Dir, &attributes
	return cmd
}

func (c *Cluster) launch(death syscall.Signal, data string, settings []string) error {
	args := []string{"-D", data, "-p", strconv.Itoa(c.Port), "-k", c.Dir, "-h", "127.0.0.1,::1",
		"-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB"}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	c.server = c.command("postgres", args...)
	c.server.SysProcAttr.Pdeathsig = death
	c.server.Stderr = &c.log
	if err := c.server.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		ready := exec.Command(filepath.Join(c.Bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(c.Port))
		if ready.Run() == nil {
			return nil
		}
	}
	return errors.New("server not ready in 30 s")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("release the port: %w", err)
	}
	return port, nil
}

func must(t testing.TB, doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}
