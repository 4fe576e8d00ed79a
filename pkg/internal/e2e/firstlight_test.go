package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/record"
)

// The one test that tells the whole story: an unprivileged, nested, detached
// child runs Debian's psql and a static Go client against the server's own
// address; it has no password and was told of no proxy.
func TestPrivilegedFirstLight(t *testing.T) {
	r := newRig(t, rigPolicy)

	t.Run("rows are masked for psql", func(t *testing.T) {
		o := r.agent(psql("-c", "select * from customers order by id")...)
		o.want(t, 0, "Ada Lovelace", "**** **** **** 1111", "************5559")
		o.wantNot(t, "4111", "5500", "123-45-6789", "219-09-9998")
	})
	t.Run("rows are masked for a static Go client in binary format", func(t *testing.T) {
		o := r.agent(r.client, "query", "select name, card, ssn as renamed, balance from customers order by id")
		o.want(t, 0, "Ada Lovelace", "1111")
		o.wantNot(t, "4111", "123-45-6789")
	})
	t.Run("a detector finds what no column rule names", func(t *testing.T) {
		o := r.agent(psql("-c", "select note from orders order by id")...)
		o.want(t, 0, "plain note", "paid with ************1111")
	})
	t.Run("all addresses of the server are the same gate", func(t *testing.T) {
		for _, host := range []string{serverV4, serverV6, "::ffff:" + serverV4, "127.0.0.1", "::1"} {
			o := r.agent(psql("-h", host, "-c", "select card from customers where id = 1")...)
			o.want(t, 0, "**** **** **** 1111")
		}
	})
	t.Run("outside the tree nothing is touched", func(t *testing.T) {
		r.outsider(psql("-c", "select card from customers where id = 1")...).want(t, 0, "4111 1111 1111 1111")
	})
	t.Run("a denied statement names its rule and changes nothing", func(t *testing.T) {
		denied := r.metric("headgate_decisions_total", `verdict="deny"`, `rule="no-destruction"`)
		o := r.agent(psql("-v", "VERBOSITY=verbose", "-c", "DROP TABLE customers")...)
		o.want(t, 1, "42501", `"no-destruction"`, "Destructive statements go through migrations.", "HINT", "id "+r.last().Summary.ID)
		if got := r.sql("select count(*) from customers"); got != "3" {
			t.Errorf("the table has %s rows", got)
		}
		if now := r.metric("headgate_decisions_total", `verdict="deny"`, `rule="no-destruction"`); now != denied+1 {
			t.Errorf("denials counted: %v, then %v", denied, now)
		}
	})
	t.Run("what is allowed works", func(t *testing.T) {
		r.agent(psql("-c", "insert into orders (customer, note) values (3, 'by an agent')")...).want(t, 0)
		if got := r.sql("select count(*) from orders where note = 'by an agent'"); got != "1" {
			t.Errorf("%s rows were inserted", got)
		}
	})
	t.Run("the metrics moved", func(t *testing.T) {
		if n := r.metric("headgate_redirects_total", `result="redirected"`); n < 8 {
			t.Errorf("%v redirects", n)
		}
		if n := r.metric("headgate_attached_programs"); n < 20 {
			t.Errorf("%v programs attached", n)
		}
		if n := r.metric("headgate_kernel_events_lost_total"); n != 0 {
			t.Errorf("%v events lost", n)
		}
		if n := r.metric("headgate_masked_values_total"); n < 4 {
			t.Errorf("%v values masked", n)
		}
	})
	t.Run("the record verifies", func(t *testing.T) {
		r.cli("sessions", "verify", "--state", r.state).want(t, 0, "nobody edited the record")
	})
	t.Run("a session plays back", func(t *testing.T) {
		r.agent(psql("-c", "select card from customers where id = 1")...).want(t, 0)
		o := r.cli("sessions", "play", "--state", r.state, r.last().Summary.ID)
		o.want(t, 0, "/bin/sh", "psql", "select card from customers where id = 1", "**** **** **** 1111")
		o.wantNot(t, "4111")
	})
}

// A blocked statement behaves as a real error: the transaction is aborted and
// COMMIT rolls back; in a pipeline what came before is rolled back.
func TestPrivilegedBlockedStatementKeepsTransactions(t *testing.T) {
	r := newRig(t, rigPolicy)
	o := r.agent(psql("-v", "VERBOSITY=verbose",
		"-c", "begin", "-c", "insert into orders (note) values ('in a transaction')",
		"-c", "drop table customers", "-c", "select 1", "-c", `\echo state :TRANSACTION_STATE`, "-c", "commit")...)
	o.want(t, 0, "42501", "25P02", "ROLLBACK")
	if got := r.sql("select count(*) from orders where note = 'in a transaction'"); got != "0" {
		t.Errorf("%s rows survived the transaction", got)
	}
	o = r.agent(r.client, "pipeline", "insert into orders (note) values ('in a pipeline')", "drop table customers", "select 1")
	o.want(t, 1, "42501", "no-destruction")
	if got := r.sql("select count(*) from orders where note = 'in a pipeline'"); got != "0" {
		t.Errorf("%s rows survived the pipeline", got)
	}
	o = r.agent(psql("-c", "begin", "-c", "insert into orders (note) values ('kept')", "-c", "savepoint s",
		"-c", "drop table customers", "-c", "rollback to s", "-c", "commit")...)
	o.want(t, 0, "COMMIT")
	if got := r.sql("select count(*) from orders where note = 'kept'"); got != "1" {
		t.Errorf("%s rows after the savepoint", got)
	}
}

// Each of these does what a rule denies, however it is written, or can't be
// understood. None may reach the server.
func TestPrivilegedEvasionsAreJudgedForWhatTheyDo(t *testing.T) {
	r := newRig(t, rigPolicy)
	before := r.sql("select (select count(*) from customers), (select count(*) from orders)")
	for name, argv := range map[string][]string{
		"comment inside":    psql("-c", "DROP/**/TABLE customers"),
		"leading comment":   psql("-c", "/* select 1 */ DROP TABLE customers"),
		"line comment":      psql("-c", "-- select 1\nDROP TABLE customers"),
		"second statement":  {r.client, "simple", "SELECT 1; DROP TABLE customers"},
		"writing CTE":       psql("-c", "WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d"),
		"anonymous block":   psql("-c", "DO $$ BEGIN EXECUTE 'dr' || 'op table customers'; END $$"),
		"prepared":          {r.client, "simple", "PREPARE p AS DELETE FROM orders; EXECUTE p"},
		"explain analyze":   psql("-c", "EXPLAIN ANALYZE DELETE FROM orders"),
		"9 MiB of comment":  {r.client, "padded", strconv.Itoa(9 << 20), "DROP TABLE customers"},
		"extended protocol": {r.client, "query", "DROP TABLE customers"},
		"not a statement":   psql("-c", "DROP TABEL customers"),
		"copy query":        psql("-c", "COPY (DELETE FROM orders RETURNING *) TO STDOUT"),
	} {
		t.Run(name, func(t *testing.T) {
			o := r.agent(argv...)
			if o.status == 0 || !strings.Contains(o.text, "headgate: denied") {
				t.Errorf("status %d:\n%.400s", o.status, o.text)
			}
			if got := r.sql("select (select count(*) from customers), (select count(*) from orders)"); got != before {
				t.Fatalf("the tables have %s rows, had %s", got, before)
			}
		})
	}
	t.Run("an oversize harmless statement is refused as unknown", func(t *testing.T) {
		r.agent(r.client, "padded", strconv.Itoa(9<<20), "SELECT 1").want(t, 1, "unknown_operation")
	})
}

// The process that made the connection is gone when anybody looks: the record
// has it, and the shells above it, with what they executed.
func TestPrivilegedLineageOutlivesTheProcess(t *testing.T) {
	r := newRig(t, rigPolicy)
	r.agent(psql("-c", "select 1")...).want(t, 0, "1")
	open := r.last().Open
	if open.LineagePartial || open.Agent != "ci" || !open.Principal.IsAnonymous() {
		t.Errorf("agent %q, principal %v, partial %v", open.Agent, open.Principal, open.LineagePartial)
	}
	var exes []string
	for _, p := range open.Lineage {
		exes = append(exes, filepath.Base(p.Exe))
		if p.UID != nobody {
			t.Errorf("%s ran as uid %d", p.Exe, p.UID)
		}
	}
	// psql's own wrapper is a Perl script on Debian that executes the client.
	if len(exes) < 3 || exes[0] != "psql" || !slices.Contains(exes, "dash") {
		t.Errorf("lineage %v, want psql below shells", exes)
	}
	if argv := open.Lineage[0].Argv; !slices.Contains(argv, "select 1") {
		t.Errorf("argv %q", argv)
	}
	if open.Lineage[len(open.Lineage)-1].ID != open.Origin.Root {
		t.Error("the lineage does not end at the root of the tree")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", open.Origin.Process.PID)); err == nil {
		t.Skip("a pid was recycled")
	}
}

func TestPrivilegedRulesEnrolUsersAndCgroups(t *testing.T) {
	r := newRig(t, rigPolicy)
	selection := psql("-c", "select card from customers where id = 1")
	for cgroup, want := range map[string]string{"agents": "by-user", "by-rule": "by-cgroup"} {
		t.Run(want, func(t *testing.T) {
			uid := uint32(nobody)
			if want == "by-user" {
				uid = 4242
			}
			o := r.treeIn(cgroup, uid, selection...)
			o.want(t, 0, "**** **** **** 1111")
			if agent := r.last().Summary.Agent; agent != want {
				t.Errorf("agent %q", agent)
			}
		})
	}
	r.treeIn("agents", nobody, append([]string{"env", "PGUSER=" + pgtest.App, "PGPASSWORD=" + pgtest.AppPassword}, selection...)...).
		want(t, 0, "4111 1111 1111 1111")
}

// After kill -9 enrolled processes are refused and others are not; after the
// restart the chain verifies, and the session that was open has an end.
func TestPrivilegedKilledDaemonFailsClosed(t *testing.T) {
	r := newRig(t, rigPolicy)
	held := r.command(nobody, r.bin, "run", "--socket", r.socket, "--", r.client, "hold", "select 1")
	stdin, err := held.StdinPipe()
	check(t, err)
	stdout, err := held.StdoutPipe()
	check(t, err)
	check(t, held.Start())
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "ready" {
		continue
	}
	// A tree that is enrolled already and connects when it is told to.
	waiting := r.command(nobody, append([]string{r.bin, "run", "--socket", r.socket, "--", "/bin/sh", "-c", `echo enrolled; read line; "$@" 2>&1`, "sh"},
		psql("-c", "select 1")...)...)
	tell, err := waiting.StdinPipe()
	check(t, err)
	heard, err := waiting.StdoutPipe()
	check(t, err)
	check(t, waiting.Start())
	answer := bufio.NewScanner(heard)
	answer.Scan()

	r.kill()
	_, err = tell.Write([]byte("now\n"))
	check(t, err)
	var said []string
	for answer.Scan() {
		said = append(said, answer.Text())
	}
	if err := waiting.Wait(); err == nil || len(said) == 0 || said[0] == "1" {
		t.Errorf("an enrolled process got %q (%v)", said, err)
	}
	o := r.tree([]string{r.bin, "run", "--socket", r.socket, "--"}, nobody, psql("-c", "select 1")...)
	if o.status == 0 || !strings.Contains(o.text, "daemon does not answer") {
		t.Errorf("headgate run without a daemon: %+v", o)
	}
	r.outsider(psql("-c", "select 1")...).want(t, 0, "1")
	check(t, stdin.Close())
	if err := held.Wait(); err != nil {
		t.Logf("the held session ended with %v", err)
	}

	r.start()
	r.cli("sessions", "verify", "--state", r.state).want(t, 0, "nobody edited the record", "0 of them open")
	list, err := audit.Sessions(r.state, audit.Filter{})
	check(t, err)
	synthetic := 0
	for _, s := range list {
		if s.End != nil && s.End.Synthetic && s.End.Reason == audit.ReasonDaemonStopped {
			synthetic++
		}
	}
	if synthetic != 1 {
		t.Errorf("%d sessions have a synthetic end, want 1", synthetic)
	}
	r.agent(psql("-c", "select card from customers where id = 1")...).want(t, 0, "**** **** **** 1111")
}

func TestPrivilegedRefusalsBeforeAnyProtocol(t *testing.T) {
	r := newRig(t, rigPolicy)
	t.Run("instance metadata", func(t *testing.T) {
		o := r.agent("/bin/bash", "-c", "exec 3<>/dev/tcp/169.254.169.254/80")
		o.want(t, 1, "Operation not permitted")
	})
	t.Run("the proxy's own port", func(t *testing.T) {
		status := r.cli("status", "--socket", r.socket)
		port := between(status.text, "proxy on port ", "\n")
		o := r.agent("/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port)
		o.want(t, 1, "Operation not permitted")
		outside, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_, err = outside.Read(make([]byte, 1))
			outside.Close()
		}
		if err == nil {
			t.Error("a stranger was served by the proxy")
		}
	})
	t.Run("an address that no resource names", func(t *testing.T) {
		o := r.agent(psql("-h", serverV4, "-p", "1", "-c", "select 1")...)
		o.want(t, 2, "unknown_resource")
	})
	t.Run("another address of a server on loopback", func(t *testing.T) {
		o := r.agent(psql("-h", "127.0.0.2", "-c", "select card from customers")...)
		o.want(t, 2, "unknown_resource")
		o.wantNot(t, "4111")
	})
	t.Run("the metrics", func(t *testing.T) {
		port := between(r.scrape, "127.0.0.1:", "/")
		o := r.agent("/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port)
		o.want(t, 1, "Operation not permitted")
	})
	t.Run("nested enrolment", func(t *testing.T) {
		o := r.agent(r.bin, "run", "--socket", r.socket, "--agent", "default", "--", "true")
		o.want(t, 1, "enrolled already")
	})
	t.Run("reload by root in a tree", func(t *testing.T) {
		o := r.tree([]string{r.bin, "run", "--socket", r.socket, "--agent", "default", "--"}, 0, r.bin, "reload", "--socket", r.socket)
		o.want(t, 1, "an agent may not reload the policy")
	})
	t.Run("an agent that the policy does not have", func(t *testing.T) {
		o := r.tree([]string{r.bin, "run", "--socket", r.socket, "--agent", "nobody-knows", "--"}, nobody, "true")
		if o.status == 0 || !strings.Contains(o.text, "no agent") {
			t.Errorf("%+v", o)
		}
	})
}

func between(s, from, to string) string {
	_, rest, _ := strings.Cut(s, from)
	found, _, _ := strings.Cut(rest, to)
	return found
}

// The opaque protocol: allowed by rule at connect, counted, recorded as metadata.
func TestPrivilegedOpaqueBytesPassByRule(t *testing.T) {
	r := newRig(t, rigPolicy)
	l, err := net.Listen("tcp4", net.JoinHostPort(serverV4, "7007"))
	check(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// The agent reads to the end.
			_, _ = c.Write([]byte("server speaks first\n"))
			c.Close()
		}
	}()
	o := r.agent("/bin/bash", "-c", "cat </dev/tcp/"+serverV4+"/7007")
	o.want(t, 0, "server speaks first")
	s := r.last().Summary
	if s.Protocol != "tcp" || s.Resource != "opaque" || s.End.BytesDown == 0 {
		t.Errorf("recorded as %q to %q, %d bytes down", s.Protocol, s.Resource, s.End.BytesDown)
	}
	if n := r.metric("headgate_decisions_total", `protocol="tcp"`, `verdict="allow"`); n != 1 {
		t.Errorf("%v decisions counted", n)
	}
}

// A new policy reaches sessions that are running, also those that never ask
// because their bytes are only relayed.
func TestPrivilegedReloadEndsWhatItForbids(t *testing.T) {
	r := newRig(t, rigPolicy)
	l, err := net.Listen("tcp4", net.JoinHostPort(serverV4, "7007"))
	check(t, err)
	defer l.Close()
	arrived := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			arrived <- c
		}
	}()
	relayed := r.command(nobody, r.bin, "run", "--socket", r.socket, "--agent", "ci", "--",
		"/bin/bash", "-c", "cat </dev/tcp/"+serverV4+"/7007; echo status $?")
	var heard bytes.Buffer
	relayed.Stdout, relayed.Stderr = &heard, &heard
	check(t, relayed.Start())
	server := <-arrived
	defer server.Close()
	path := filepath.Join(r.dir, "policies", "policy.yaml")
	text, err := os.ReadFile(path)
	check(t, err)

	check(t, os.WriteFile(path, []byte("version: 1\nrulez: []\n"), 0o644))
	r.cli("reload", "--socket", r.socket).want(t, 1, `unknown key "rulez"`, "the old policy stays in force")
	r.agent(psql("-c", "select card from customers where id = 1")...).want(t, 0, "**** **** **** 1111")

	forbidding := string(text) + "\n" // the rule comes behind those that are there
	forbidding = strings.Replace(forbidding, "masks:", "  - {name: closed, effect: deny, resources: [opaque]}\nmasks:", 1)
	check(t, os.WriteFile(path, []byte(forbidding), 0o644))
	r.cli("reload", "--socket", r.socket).want(t, 0, "generation 2")
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("the relayed session goes on")
	}
	if err := relayed.Wait(); err != nil {
		t.Logf("the agent's shell: %v\n%s", err, heard.String())
	}
	if s := r.lastTo("opaque").Summary; s.End.Reason != "denied" {
		t.Errorf("the relayed session ended by %q", s.End.Reason)
	}
}

// A disk that is full denies: no row is inserted whose statement is not in the
// record. (A full file system still takes what fits into a file's last page.)
func TestPrivilegedFullDiskDenies(t *testing.T) {
	r := newRig(t, rigPolicy)
	r.stateOnSmallDisk(t)
	r.agent(psql("-c", "select 1")...).want(t, 0)
	fillDisk(t, filepath.Join(r.state, "fill"))
	refused := false
	for i := 0; i < 50 && !refused; i++ {
		o := r.tree([]string{r.bin, "run", "--socket", r.socket, "--"}, nobody,
			psql("-c", fmt.Sprintf("insert into orders (note) values ('attempt %d')", i))...)
		refused = o.status != 0
	}
	if !refused {
		t.Error("50 statements passed with a full disk")
	}
	recorded := ""
	for entry, err := range record.Read(filepath.Join(r.state, "audit")) {
		check(t, err)
		recorded += string(entry.Body)
	}
	for _, note := range strings.Fields(strings.ReplaceAll(r.sql("select note from orders where note like 'attempt%'"), " ", "_")) {
		if text := strings.ReplaceAll(note, "_", " "); !strings.Contains(recorded, text) {
			t.Errorf("%q was inserted without a record", text)
		}
	}
}

func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	check(t, err)
	chunk := make([]byte, 64<<10)
	for size := len(chunk); size > 0; size /= 2 {
		for err := error(nil); err == nil; {
			_, err = f.Write(chunk[:size])
		}
	}
	check(t, f.Close())
}

// stateOnSmallDisk restarts the daemon with its state on a small file system.
func (r *rig) stateOnSmallDisk(t *testing.T) {
	t.Helper()
	r.stop()
	check(t, os.RemoveAll(r.state))
	check(t, os.Mkdir(r.state, 0o700))
	check(t, syscall.Mount("headgate-test", r.state, "tmpfs", 0, "size=512k"))
	t.Cleanup(func() {
		r.stop()
		check(t, syscall.Unmount(r.state, 0))
	})
	r.start()
}
