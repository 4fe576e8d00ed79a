package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/mask"
)

// ugly is a table with whatever a format has to quote. Its values have no
// e-mail address in them.
const ugly = `drop table if exists ugly;
create table ugly (id int primary key, body text, more text, raw bytea, list text[], doc jsonb, num numeric, at timestamptz, ssn text);
insert into ugly select i, b, reverse(b), convert_to(b, 'UTF8'), array[b, null, ''], to_jsonb(b), i * 1.5, 'epoch', 'secret ' || i
 from unnest(array['', 'plain', E'tab\tend\nline\rfeed\\back\\\\', E'\\N', E'\\.', '"quoted"', '''single''', 'a,b;c|d', '[redacted]',
  E'\b\f\v\x01\x1b', 'é ß 漢字 🦊', 'NULL', E'"', E'""', '{"a": [1, "x,y"]}', repeat(E'long\t"line"\n', 2000)]) with ordinality as t(b, i);
insert into ugly (id) values (100);
grant select on ugly to agent`

// copyOptions are ways to write the same rows.
var copyOptions = []string{
	"", "(format csv)", "(format binary)", "(header)", "(null '')", "(null 'plain')", `(null 'NULL', delimiter '|')`, `(delimiter E'\x01')`,
	"(format csv, header, force_quote *)", "(format csv, force_quote (body, ssn), null 'NULL')", `(format csv, escape '\')`,
	`(format csv, delimiter ';', quote '''', escape '"')`, `(format csv, delimiter E'\t', quote E'\x01')`, "(format csv, null 'plain')",
	"csv header quote '|'", "with binary",
}

func TestACopyThatNoMaskTouchesIsWhatTheServerSent(t *testing.T) {
	direct := mustDirect(t)
	mustExec(t, direct, ugly)
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, mask.Rule{Name: "d", Detect: []string{"email"}, With: "redact"}) })
	conn := mustConnect(t, g)
	for _, options := range copyOptions {
		for _, what := range []string{"ugly", "(select * from ugly order by id desc)", "ugly (body)", "(select from ugly)"} {
			sql := fmt.Sprintf("copy %s to stdout %s", what, options)
			if what == "ugly (body)" || what == "(select from ugly)" {
				sql = strings.Replace(sql, "(body, ssn)", "*", 1)
			}
			want, err := copied(t, direct, sql)
			if err != nil {
				t.Fatal(err)
			}
			got, err := copied(t, conn, sql)
			if err != nil || got != want {
				t.Errorf("%s: %v (-want +got):\n%.2000s", sql, err, cmp.Diff(want, got))
			}
		}
	}
}

func TestWhatIsLeftOfAMaskedCopyCanBeLoadedAgain(t *testing.T) {
	direct := mustDirect(t)
	mustExec(t, direct, ugly)
	mustExec(t, direct, "drop table if exists ugly_again; create table ugly_again (like ugly)")
	g := newGate(t, func(g *gate) {
		g.masks = mustMask(t, mask.Rule{Name: "m", Columns: []string{"public.ugly.ssn", "public.ugly.num"}, With: "redact"})
	})
	conn := mustConnect(t, g)
	for _, options := range copyOptions {
		sql := "copy ugly to stdout " + options
		data, err := copied(t, conn, sql)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		if strings.Contains(data, "secret") {
			t.Errorf("%s: a protected value came", sql)
		}
		mustExec(t, direct, "truncate ugly_again")
		from := "copy ugly_again from stdin " + strings.NewReplacer("force_quote *", "freeze off", "force_quote (body, ssn)", "freeze off").Replace(options)
		if _, err := direct.PgConn().CopyFrom(testContext(t), strings.NewReader(data), from); err != nil {
			t.Errorf("%s: load again: %v", sql, err)
			continue
		}
		var differ, masked int
		err = direct.QueryRow(testContext(t), `select count(*) filter (where (u.body, u.more, u.raw, u.list, u.doc, u.at) is distinct from (a.body, a.more, a.raw, a.list, a.doc, a.at)),
			count(*) filter (where a.num is null and a.ssn is not distinct from case when u.ssn is null then null else '[redacted]' end)
			from ugly u left join ugly_again a using (id)`).Scan(&differ, &masked)
		if err != nil {
			t.Fatal(err)
		}
		lost := map[string][2]int{ // what such a string for NULL loses on the real server, too
			"(null '')": {1, 17}, "(null 'plain')": {1, 16}, "(null 'NULL', delimiter '|')": {1, 16},
		}
		want, ok := lost[options]
		if !ok {
			want = [2]int{0, 17}
		}
		if differ != want[0] || masked != want[1] {
			t.Errorf("%s: %d rows differ and %d are masked, want %v", sql, differ, masked, want)
		}
	}
}

func TestColumnsBesideAGeneratedOneGetTheStricterTreatment(t *testing.T) {
	direct := mustDirect(t)
	mustExec(t, direct, `drop table if exists computed;
		create table computed (id int, twice int generated always as (id * 2) stored, ssn text, name text, other text);
		insert into computed (id, ssn, name, other) values (1, '123-45-6789', 'Ada', 'kept');
		drop table if exists computed2;
		create table computed2 (ssn text, twice int generated always as (id * 2) stored, id int);
		insert into computed2 (ssn, id) values ('123-45-6789', 1);
		grant select on computed, computed2 to agent`)
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	for sql, want := range map[string]string{
		// id may be id or twice, ssn may be twice or ssn, name may be ssn or name.
		"copy computed to stdout":                        "1\t\\N\t[redacted]\tkept\n",
		"copy computed (id, ssn, name, other) to stdout": "1\t[redacted]\tAda\tkept\n",
		"copy computed2 to stdout":                       "\\N\t1\n", // text or int
		"copy (select * from computed) to stdout":        "1\t2\t[redacted]\tAda\tkept\n",
	} {
		got, err := copied(t, conn, sql)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", sql, err, diff)
		}
	}
}

func TestALargeValueIsMasked(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.masks = mustMask(t, mask.Rule{Name: "d", Detect: []string{"email"}, With: "redact"})
	})
	conn := mustConnect(t, g)
	for _, options := range []string{"", "csv", "binary"} {
		got, err := copied(t, conn, `copy (select repeat(e'a\tb\n', 2000000) || ' ada@example.com '::text || repeat('"', 1000000)) to stdout `+options)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(got, "example.com") || !strings.Contains(got, " [redacted] ") || len(got) < 9_000_000 {
			t.Errorf("%q: %d bytes", options, len(got))
		}
	}
}

func TestACopyCanBeCancelledInTheMiddle(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	started := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := conn.PgConn().CopyTo(context.Background(), &firstWrite{started: started},
			"copy (select ssn || '', generate_series(1, 1000000000) from customers) to stdout")
		failed <- err
	}()
	<-started
	if err := conn.PgConn().CancelRequest(testContext(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		wantCode(t, err, "57014")
	case <-testContext(t).Done():
		t.Fatal("never cancelled")
	}
	got, err := copied(t, conn, "copy (select ssn from customers where id = 1) to stdout")
	if err != nil || got != "[redacted]\n" {
		t.Errorf("after that: %q, %v", got, err)
	}
}

// firstWrite tells when something is written for the first time.
type firstWrite struct{ started chan struct{} }

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.started != nil {
		close(w.started)
		w.started = nil
	}
	return len(p), nil
}

func TestAMaskedCopyIsInTheRecord(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	if _, err := copied(t, conn, "copy (select id, ssn, balance from customers order by id) to stdout csv header"); err != nil {
		t.Fatal(err)
	}
	_, err := copied(t, conn, "copy (select id / 0, ssn from customers) to stdout")
	wantCode(t, err, "22012")
	var tables [][]string
	var outcomes []string
	g.set(func() {
		for _, f := range g.frames {
			for _, row := range f.Rows {
				line := f.Columns
				for _, cell := range row {
					if cell == nil {
						line = append(line, "NULL")
					} else {
						line = append(line, *cell)
					}
				}
				tables = append(tables, line)
			}
			if o := f.Outcome; o != nil {
				outcomes = append(outcomes, fmt.Sprintf("%s%s rows=%d masked=%d %v", o.Tag, o.Code, o.Rows, o.Masked, o.Detected))
			}
		}
	})
	want := [][]string{
		{"id", "ssn", "balance", "1", "[redacted]", "12.5"}, {"id", "ssn", "balance", "2", "[redacted]", "99"},
		{"id", "ssn", "balance", "3", "NULL", "NULL"},
	}
	if diff := cmp.Diff(want, tables); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"COPY 3 rows=3 masked=2 map[column:2]", "22012 rows=0 masked=0 map[]"}, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// tool runs a program of PostgreSQL's against an address.
func tool(tb testing.TB, addr, name string, input io.Reader, args ...string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		pgtest.Skip(tb, name+" is not installed")
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(tb), path, args...)
	cmd.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER=agent", "PGPASSWORD=agent-password", "PGDATABASE="+testDatabase,
		"PGSSLMODE=disable", "PGGSSENCMODE=disable")
	cmd.Stdin = input
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s %q: %v\n%s", name, args, err, said.String())
	}
	return out.String()
}

func TestPsqlCopiesMaskedDataIntoAFile(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	file := filepath.Join(t.TempDir(), "out.csv")
	tool(t, g.addr, "psql", nil, "-X", "-v", "ON_ERROR_STOP=1", "-c",
		`\copy (select id, ssn from customers order by id) to '`+file+`' with (format csv, header)`)
	got, err := os.ReadFile(file)
	if diff := cmp.Diff("id,ssn\n1,[redacted]\n2,[redacted]\n3,\n", string(got)); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	out := tool(t, g.addr, "psql", nil, "-X", "-c", "copy (select id, ssn from customers order by id) to stdout", "-c", `\copy parted_1 to stdout`)
	if diff := cmp.Diff("1\t[redacted]\n2\t[redacted]\n3\t\\N\n1\t[redacted]\n", out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestADumpThroughTheGateIsMaskedAndCanBeRestored(t *testing.T) {
	if sharedVersion() != pgtest.System {
		return // pg_dump is of the system's version
	}
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	direct := mustDirect(t)
	mustExec(t, direct, "drop schema if exists backup cascade; create schema backup; create table backup.people (id int primary key, ssn text, number text, doc jsonb);"+
		"insert into backup.people values (1, '123-45-6789', 'x', '{\"a\": \"\\\\n\"}'), (2, null, null, null); grant usage on schema backup to agent; grant select on backup.people to agent")
	g.set(func() { g.masks = mustMask(t, mask.Rule{Name: "m", Columns: []string{"backup.*.ssn"}, With: "redact"}) })
	for _, args := range [][]string{{}, {"--inserts"}, {"-F", "custom"}} {
		dump := tool(t, g.addr, "pg_dump", nil, append([]string{"--schema=backup", "--no-owner", "--no-acl"}, args...)...)
		if strings.Contains(dump, secretNumber) {
			t.Fatalf("%v: a protected value is in the dump", args)
		}
		mustExec(t, direct, "drop schema backup cascade")
		restore(t, dump, args)
		var got string
		if err := direct.QueryRow(testContext(t), "select string_agg(p::text, ' ' order by id) from backup.people p").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if want := `(1,[redacted],x,"{""a"": ""\\\\n""}") (2,,,)`; got != want {
			t.Errorf("%v: restored %s, want %s", args, got, want)
		}
		mustExec(t, direct, "update backup.people set ssn = '123-45-6789' where id = 1; grant usage on schema backup to agent; grant select on backup.people to agent")
	}
}

// restore loads a dump past the gate.
func restore(tb testing.TB, dump string, args []string) {
	tb.Helper()
	host, port, err := net.SplitHostPort(need(tb))
	if err != nil {
		tb.Fatal(err)
	}
	name, rest := "psql", []string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", testDatabase, "-U", superuser, "-h", host, "-p", port}
	if len(args) > 1 {
		name, rest = "pg_restore", rest[4:]
	}
	cmd := exec.CommandContext(testContext(tb), name, rest...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+adminPassword, "PGSSLMODE=disable")
	cmd.Stdin = strings.NewReader(dump)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("restore %v: %v\n%s", args, err, out)
	}
}
