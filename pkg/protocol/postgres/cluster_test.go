package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// cluster is a real server for the tests of this package, started when the first
// of them needs it.
type cluster struct {
	once    sync.Once
	missing string // why there is none
	addr    string
	dir     string
	server  *exec.Cmd
}

const (
	superuser     = "postgres"
	adminPassword = "test-admin-password"
	testDatabase  = "postgres"
)

func TestMain(m *testing.M) {
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

var shared cluster

// need returns the address of a running server, or skips.
func need(tb testing.TB) string {
	tb.Helper()
	shared.once.Do(shared.start)
	if shared.missing != "" {
		tb.Skip("needs a PostgreSQL server: " + shared.missing)
	}
	return shared.addr
}

func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("initdb")
	return filepath.Dir(path), err
}

func (c *cluster) start() {
	if err := c.launch(); err != nil {
		c.missing = err.Error()
	}
}

func (c *cluster) launch() error {
	bin, err := binaries()
	if err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "headgate-postgres-"); err != nil {
		return err
	}
	attributes, err := unprivileged(c.dir)
	if err != nil {
		return err
	}
	password := filepath.Join(c.dir, "password")
	if err := os.WriteFile(password, []byte(adminPassword+"\n"), 0o644); err != nil {
		return err
	}
	data := filepath.Join(c.dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", superuser, "-A", "scram-sha-256",
		"--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = attributes, c.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %v: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	c.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	c.server = exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port), "-h", "127.0.0.1", "-k", c.dir,
		"-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=50", "-c", "max_prepared_transactions=2")
	var log bytes.Buffer
	c.server.Stdout, c.server.Stderr = &log, &log
	c.server.SysProcAttr, c.server.Dir = attributes, c.dir
	if err := c.begin(); err != nil {
		return err
	}
	return c.await()
}

// begin starts the server so that it ends with this process, however that ends:
// the signal is tied to the thread that started it, which is kept for that.
func (c *cluster) begin() error {
	c.server.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := c.server.Start()
		started <- err
		if err == nil {
			select {}
		}
	}()
	return <-started
}

// await waits until the server answers, and fills the database.
func (c *cluster) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, dsn(c.addr, superuser, adminPassword))
		if err == nil {
			_, err = conn.Exec(ctx, schema)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("server did not start: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func dsn(addr, name, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", name, password, addr, testDatabase)
}

func (c *cluster) stop() {
	if c.server != nil && c.server.Process != nil {
		if err := c.server.Process.Signal(syscall.SIGQUIT); err == nil {
			_ = c.server.Wait() // killed: there is nothing to learn from how it ended
		}
	}
	if c.dir != "" {
		_ = os.RemoveAll(c.dir) // a temporary directory, at the end of the process
	}
}

// unprivileged makes a command run as a user that initdb accepts.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{Setpgid: true}, nil
	}
	u, err := user.Lookup(superuser)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	credential := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return &syscall.SysProcAttr{Setpgid: true, Credential: credential}, os.Chown(dir, uid, gid)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

const schema = `
create table customers (id int primary key, name text not null, email text, ssn text unique, card text, balance numeric);
insert into customers values
 (1, 'Ada Lovelace', 'ada@example.com', '123-45-6789', '4111 1111 1111 1111', 12.5),
 (2, 'Grace Hopper', 'grace@example.com', '987-65-4321', '5500 0000 0000 0004', 99),
 (3, 'Alan Turing', null, null, null, null);
create table notes (id serial primary key, body text);
create view people as select id, name, ssn as number from customers;
create view rows_of as select c as whole from customers c;
create view names_only as select id, name from customers;
create view people2 as select number from people;
create materialized view people3 as select ssn as s from customers;
create function leak() returns text language plpgsql as $$ declare s text; begin select ssn into s from customers where id = 1; raise notice 'ssn is %', s; return s; end $$;
create role agent login password 'agent-password';
grant all on all tables in schema public to agent;
grant all on all sequences in schema public to agent;
grant create on schema public to agent;
create table parted (id int, ssn text) partition by range (id);
create table parted_1 partition of parted for values from (0) to (100);
insert into parted values (1, '123-45-6789');
grant all on parted, parted_1 to agent;
`
