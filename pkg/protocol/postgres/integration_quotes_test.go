package postgres_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// quoting is a schema whose definitions quote a value wherever they can.
const quoting = `drop schema if exists quoting cascade; create schema quoting;
create type quoting.word as enum ('the-value');
create table quoting.t (id int primary key, v text default 'the-value' check (v <> 'the-value'), w quoting.word,
  g text generated always as ('the-value'::text) stored);
create index on quoting.t (id) where v = 'the-value';
create view quoting.v as select 'the-value'::text as x from quoting.t where v <> 'the-value';
create function quoting.f(a text default 'the-value') returns text language sql as $$ select 'the-value' $$;
create policy p on quoting.t using (v = 'the-value');
comment on table quoting.t is 'the-value';
grant usage on schema quoting to agent; grant select on all tables in schema quoting to agent`

// aboutDefinitions are the commands of psql that show definitions, and nothing that
// another test may change.
var aboutDefinitions = []string{
	`\d+ quoting.t`, `\d+ quoting.v`, `\dT+ quoting.*`, `\df+ quoting.*`, `\dd quoting.*`, `\dt+ quoting.*`, `\di+ quoting.*`, `\dp quoting.*`,
	`\sf quoting.f`, `\sv quoting.v`, `\drds`, `\dew+`, `\ddp`, `\dx+`,
}

// tells returns what a tool says, which has to end well.
func tells(tb testing.TB, addr, name string, args ...string) string {
	tb.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	args = append([]string{"-d", testDatabase, "-U", superuser, "-h", host, "-p", port}, args...)
	cmd := exec.CommandContext(testContext(tb), filepath.Join(shared.server.Bin, name), args...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+adminPassword, "PGSSLMODE=disable")
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// ownKey is what no two dumps have in common.
var ownKey = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

func TestToolsShowDefinitionsUnlessAMaskDeniesThem(t *testing.T) {
	if sharedVersion() != pgtest.System {
		return // the tools are of the system's version
	}
	mustExec(t, mustDirect(t), quoting)
	rule := ssnRule()
	allow := newGate(t, func(g *gate) { g.masks = mustMask(t, rule) })
	rule.DenyDefinitions = true
	deny := newGate(t, func(g *gate) { g.masks = mustMask(t, rule) })
	commands := []string{"-X"}
	for _, c := range aboutDefinitions {
		commands = append(commands, "-c", c)
	}
	want := tells(t, need(t), "psql", commands...)
	if diff := cmp.Diff(want, tells(t, allow.addr, "psql", commands...)); diff != "" || !strings.Contains(want, "the-value") {
		t.Errorf("psql through the gate (-want +got):\n%s", diff)
	}
	if got := tells(t, deny.addr, "psql", commands...); strings.Contains(got, "the-value") || !strings.Contains(got, hiddenValue) {
		t.Errorf("psql shows the value:\n%s", got)
	}
	var plain []string
	for _, addr := range []string{need(t), allow.addr} {
		plain = append(plain, ownKey.ReplaceAllString(tells(t, addr, "pg_dump", "--table=quoting.*"), ""))
	}
	if diff := cmp.Diff(plain[0], plain[1]); diff != "" || !strings.Contains(plain[0], "the-value") {
		t.Errorf("pg_dump through the gate (-want +got):\n%s", diff)
	}
	if got := tells(t, deny.addr, "pg_dump", "--schema=quoting"); strings.Contains(got, "the-value") || !strings.Contains(got, hiddenValue) {
		t.Errorf("pg_dump shows the value:\n%s", got)
	}
}
