package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// clientsPolicy lets everything pass and changes nothing, but logs agents in.
const clientsPolicy = `
version: 1
agents:
  - {name: ci}
resources:
  - name: shop
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d", "[2001:db8::10]:%[1]d", "127.0.0.1:%[1]d", "[::1]:%[1]d"]
    credential: shop
    tls: {verify: off}
rules:
  - {name: everything, effect: allow, resources: ["*"], operations: ["*"]}
defaults: {mode: enforce, unmatched: allow, unknown_operation: allow, on_failure: closed}
`

const clientsDatabase = "clients"

// client is a program that people use, with a script that prints what it gets.
type client struct {
	name string
	argv []string
	env  []string
	// sslmode is how it asks the gate for TLS. The server has none.
	sslmode string
	// least is how many lines it prints at least.
	least int
}

// What people use has to get the same, through a gate that allows everything, as
// directly: every row, tag, message, field of an error and notification, the
// same dump, and the same tables afterwards.
func TestPrivilegedClientsSeeTheSameThroughTheGate(t *testing.T) {
	for _, version := range pgtest.Versions() {
		t.Run(version.String(), func(t *testing.T) {
			r := newRigOn(t, version, clientsPolicy, "max_prepared_transactions=4")
			for _, c := range r.clients(version) {
				t.Run(c.name, func(t *testing.T) { r.compare(t, c) })
			}
		})
	}
}

// clients returns those that work with a server of that version. The tools are
// those of the system's version, and pg_dump refuses a newer server.
func (r *rig) clients(version pgtest.Version) []client {
	r.t.Helper()
	dir := filepath.Join(r.dir, "clients")
	check(r.t, os.CopyFS(dir, os.DirFS("testdata/clients")))
	file := func(name string) string { return filepath.Join(dir, name) }
	python := []string{"PYTHONDONTWRITEBYTECODE=1"}
	node := []string{"NODE_PATH=" + filepath.Join(pgtest.Cache(), "node", "node_modules"), "NODE_NO_WARNINGS=1"}
	// The library of version 18 comes with its server, and asks for protocol 3.2 if
	// it is told to.
	newest := []string{"LD_LIBRARY_PATH=" + filepath.Join(pgtest.Cache(), "postgresql-18", "lib"), "PGMAXPROTOCOLVERSION=latest"}
	psql := []string{"/bin/sh", file("use_psql.sh"), r.server.Bin, file("use_psql.sql")}
	list := []client{
		{"psql", psql, nil, "prefer", 2500},
		{"psql with libpq 18, protocol 3.2", psql, newest, "verify-full", 2500},
		{"pgbench", []string{"/bin/sh", file("use_pgbench.sh"), r.server.Bin}, nil, "disable", 50},
		{"psycopg2", []string{"/usr/bin/python3", file("use_psycopg2.py")}, python, "require", 90},
		{"psycopg 3", []string{"/usr/bin/python3", file("use_psycopg3.py")}, python, "disable", 150},
		{"psycopg 3 with libpq 18, protocol 3.2", []string{"/usr/bin/python3", file("use_psycopg3.py")}, append(python, newest...), "verify-full", 150},
		{"asyncpg", []string{"/usr/bin/python3", file("use_asyncpg.py")}, python, "verify-full", 80},
		{"node-postgres", []string{nodeProgram(r.t), file("node/use_pg.js")}, node, "verify-full", 80},
	}
	if version == pgtest.System {
		dump := []string{"/bin/sh", file("use_dump.sh"), r.server.Bin, file("use_dump.sql")}
		list = append(list, client{"pg_dump and pg_restore", dump, nil, "verify-ca", 50})
	}
	return list
}

func nodeProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; scripts/test-deps.sh installs it", err)
	}
	return path
}

// compare runs the client with the server itself and as an agent, each time with
// a fresh database.
func (r *rig) compare(t *testing.T, c client) {
	r.env = append([]string{"PGDATABASE=" + clientsDatabase, "PGUSER=" + pgtest.App, "HOME=/nonexistent"}, c.env...)
	r.patience = 3 * time.Minute
	before := r.handedOver(t)
	began := time.Now()
	r.freshDatabase(t)
	direct := r.outsider(c.argv...)
	took := time.Since(began)
	if around := r.handedOver(t); around != before {
		t.Errorf("%d connections of the direct run went through the gate", around-before)
	}
	began = time.Now()
	r.freshDatabase(t)
	r.env = append(r.env, "PGSSLMODE="+c.sslmode)
	if strings.HasPrefix(c.sslmode, "verify") {
		authority := r.cli("ca", "--path", "--socket", r.socket)
		authority.want(t, 0)
		r.env = append(r.env, "PGSSLROOTCERT="+strings.TrimSpace(authority.text))
	}
	gated := r.agent(c.argv...)
	sessions := r.handedOver(t) - before
	if sessions == 0 {
		t.Error("no connection went through the gate")
	}
	want, got := strings.Split(direct.text, "\n"), strings.Split(gated.text, "\n")
	if direct.status != 0 || len(want) < c.least {
		t.Errorf("the direct run proves nothing: status %d, %d lines:\n%s", direct.status, len(want), direct.text[max(0, len(direct.text)-4096):])
	}
	if gated.status != direct.status {
		t.Errorf("status %d, without the gate %d:\n%s", gated.status, direct.status, gated.text[max(0, len(gated.text)-4096):])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("through the gate it gets something else (-direct +through the gate):\n%s", diff[:min(len(diff), 16<<10)])
	}
	t.Logf("%s: direct %d lines in %.1f s, through the gate %d lines in %.1f s (%d connections, sslmode %s), differences %d",
		c.name, len(want), took.Seconds(), len(got), time.Since(began).Seconds(), sessions, c.sslmode, differing(want, got))
}

// differing returns how many lines are not the same.
func differing(a, b []string) int {
	shorter := min(len(a), len(b))
	n := len(a) + len(b) - 2*shorter
	for i := range shorter {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// What would copy whole clusters is refused in PostgreSQL's own terms, whatever
// the policy allows.
func TestPrivilegedReplicationClientsAreRefused(t *testing.T) {
	r := newRig(t, clientsPolicy, "wal_level=logical")
	tool := func(name string) string { return filepath.Join(r.server.Bin, name) }
	slot := []string{"--create-slot", "--slot=s", "--plugin=pgoutput", "-d", pgtest.Database}
	target := filepath.Join("/tmp", filepath.Base(r.dir)+"-backup")
	for name, argv := range map[string][]string{
		"pg_basebackup":               {tool("pg_basebackup"), "-D", target, "-X", "stream"},
		"pg_receivewal":               {tool("pg_receivewal"), "-D", "/tmp", "-n"},
		"pg_recvlogical":              append([]string{tool("pg_recvlogical")}, slot...),
		"a connection of replication": psql("-c", "IDENTIFY_SYSTEM", "dbname="+pgtest.Database+" replication=database"),
	} {
		o := r.agent(argv...)
		if o.status == 0 {
			t.Errorf("%s: it was let through", name)
		}
		o.want(t, o.status, "FATAL:  headgate: denied", "replication can't be mediated")
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("there is a backup")
	}
	if n := r.sql("select count(*) from pg_replication_slots"); n != "0" {
		t.Errorf("%s slots were made", n)
	}
}

// handedOver returns how many connections the gate got.
func (r *rig) handedOver(t *testing.T) uint64 {
	t.Helper()
	status, err := control.NewClient(r.socket).Status(t.Context())
	check(t, err)
	return status.Counters["handed_over"]
}

func (r *rig) freshDatabase(t *testing.T) {
	t.Helper()
	r.server.SQL(t, "postgres", "drop database if exists "+clientsDatabase+" with (force)")
	r.server.SQL(t, "postgres", fmt.Sprintf("create database %s owner %s template template0", clientsDatabase, pgtest.App))
}
