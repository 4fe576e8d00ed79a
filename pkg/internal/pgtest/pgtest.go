// Package pgtest starts a real PostgreSQL server for tests: a cluster of its
// own in a temporary directory, on loopback, gone when the test ends.
package pgtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"testing"
	"time"
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

// Cluster is a running server.
type Cluster struct {
	Port int
	Bin  string // the directory of the server's programs
	Dir  string // where its unix socket is
}

// Addr returns the server's IPv4 address.
func (c *Cluster) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)) }

// DSN returns a connection string for host, with the given role.
func (c *Cluster) DSN(host, role, password string) string {
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", host, c.Port, role, password, Database)
}

// Start starts a server with the fixture in it, or skips the test where the
// server's programs are missing or an unprivileged user can't be had.
func Start(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	bin := programs(t)
	dir, err := os.MkdirTemp("", "headgate-pg")
	must(t, "make directory", err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	c := &Cluster{Bin: bin, Dir: dir, Port: freePort(t)}
	as := owner(t, dir)
	data := filepath.Join(dir, "data")
	pwfile := filepath.Join(dir, "pw")
	must(t, "write password file", os.WriteFile(pwfile, []byte(AdminPassword+"\n"), 0o644))
	c.run(t, as, "initdb", "-D", data, "-U", Admin, "--pwfile="+pwfile, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync")
	allowAllHosts(t, data)
	c.launch(t, as, data, settings)
	c.SQL(t, "postgres", fmt.Sprintf("create role %s login password '%s'", App, AppPassword))
	c.SQL(t, "postgres", fmt.Sprintf("create database %s owner %s", Database, App))
	c.SQL(t, Database, "set role "+App+";"+Fixture)
	return c
}

// SQL runs statements as the administrator through the unix socket, past every
// proxy, and returns what psql prints in its unaligned form.
func (c *Cluster) SQL(t testing.TB, database, text string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.Bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", c.Dir, "-p", strconv.Itoa(c.Port), "-U", Admin, "-d", database, "-c", text)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+AdminPassword)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("psql %q: %v\n%s", text, err, out)
	}
	return string(bytes.TrimSpace(out))
}

func programs(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	must(t, "look for initdb", err)
	if len(found) == 0 {
		t.Skip("needs a PostgreSQL server (Debian package postgresql); scripts/test-deps.sh installs it")
	}
	sort.Strings(found)
	return filepath.Dir(found[len(found)-1])
}

// owner gives dir to a user that the server accepts to run as: it refuses root.
func owner(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	u, err := user.Lookup("postgres")
	must(t, "look up the server's user", err)
	uid, err := strconv.Atoi(u.Uid)
	must(t, "read uid", err)
	gid, err := strconv.Atoi(u.Gid)
	must(t, "read gid", err)
	must(t, "give the directory away", os.Chown(dir, uid, gid))
	return &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
	}
}

// allowAllHosts lets every address log in by password, not only loopback: what
// can reach the server is up to settings.
func allowAllHosts(t testing.TB, data string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, "open pg_hba.conf", err)
	_, err = f.WriteString("host all all all scram-sha-256\n")
	must(t, "write pg_hba.conf", err)
	must(t, "close pg_hba.conf", f.Close())
}

func (c *Cluster) run(t testing.TB, as *syscall.SysProcAttr, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.Bin, program), args...)
	cmd.Dir = c.Dir
	cmd.SysProcAttr = as
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

func (c *Cluster) launch(t testing.TB, as *syscall.SysProcAttr, data string, settings []string) {
	t.Helper()
	args := []string{"-D", data, "-p", strconv.Itoa(c.Port), "-k", c.Dir, "-h", "127.0.0.1,::1",
		"-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB"}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(c.Bin, "postgres"), args...)
	cmd.Dir = c.Dir
	cmd.SysProcAttr = as
	cmd.Stderr = &log
	must(t, "start server", cmd.Start())
	t.Cleanup(func() {
		// SIGINT is the server's fast shutdown.
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Errorf("stop server: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			t.Logf("server: %v\n%s", err, log.String())
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		ready := exec.Command(filepath.Join(c.Bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(c.Port))
		if ready.Run() == nil {
			return
		}
	}
	t.Fatalf("server not ready in 30 s\n%s", log.String())
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, "find a free port", err)
	port := l.Addr().(*net.TCPAddr).Port
	must(t, "release the port", l.Close())
	return port
}

func must(t testing.TB, doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}
