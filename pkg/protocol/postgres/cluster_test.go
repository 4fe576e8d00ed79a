package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// cluster is a real server for the tests of this package, started when the first
// of them needs it.
type cluster struct {
	once   sync.Once
	server *pgtest.Cluster
	err    error
}

const (
	superuser     = pgtest.Admin
	adminPassword = pgtest.AdminPassword
	testDatabase  = "postgres"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

var shared cluster

// need returns the address of a running server. Where none is installed it skips
// the test, as [pgtest.Skip] does; one that does not start is a failure.
func need(tb testing.TB) string {
	tb.Helper()
	shared.once.Do(shared.start)
	if errors.Is(shared.err, pgtest.ErrMissing) {
		pgtest.Skip(tb, shared.err.Error())
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server.Addr()
}

// start starts the server on a thread that stays until the process ends.
func (c *cluster) start() {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		c.server, c.err = sharedVersion().Open("max_prepared_transactions=2")
		if c.err == nil {
			_, c.err = c.server.Exec(testDatabase, schema)
		}
		close(done)
		select {}
	}()
	<-done
}

// inVersion is set to run the tests of this package against another version than
// the system's.
const inVersion = "HEADGATE_TEST_POSTGRES"

func sharedVersion() pgtest.Version {
	if os.Getenv(inVersion) == "18" {
		return pgtest.V18
	}
	return pgtest.System
}

// Every test of this package has to hold with the newest server as well: the
// program runs once more, with that one.
func TestAllOfThisHoldsOnPostgreSQL18(t *testing.T) {
	if os.Getenv(inVersion) != "" {
		return // this is that run
	}
	pgtest.V18.Need(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-test.run=^Test", "-test.skip=^TestPrivileged")
	cmd.Env = append(os.Environ(), inVersion+"=18")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out[max(0, len(out)-32<<10):])
	}
}

func TestTheSharedServerHasTheVersionThatWasAskedFor(t *testing.T) {
	need(t)
	version, err := shared.server.Exec(testDatabase, "show server_version_num")
	if err != nil || sharedVersion() == pgtest.V18 && !strings.HasPrefix(version, "18") {
		t.Errorf("the server is %q, %v", version, err)
	}
}

func (c *cluster) stop() error {
	if c.server == nil {
		return nil
	}
	return c.server.Close()
}

func dsn(addr, name, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", name, password, addr, testDatabase)
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
