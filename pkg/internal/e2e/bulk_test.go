package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// bulkPolicy protects a column and looks for card numbers everywhere.
const bulkPolicy = `
version: 1
agents:
  - {name: ci}
resources:
  - name: shop
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d"]
    credential: shop
    tls: {verify: off}
  - {name: opaque, protocol: tcp, hosts: ["[2001:db8::10]:%[1]d"]}
rules:
  - {name: work, effect: allow, resources: ["*"], operations: ["*"]}
masks:
  - {name: ids, resources: [shop], columns: ["*.*.ssn"], with: keep-last-4}
  - {name: people, resources: [shop], detect: [pan, email, ssn], with: keep-last-4}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

// The rows are of about 100 bytes. In people each has a protected column and a
// card number.
const bulkTables = `
create table plain as select g as id, md5(g::text) as a, md5((g+1)::text) as b, md5((g+2)::text) as c from generate_series(1, 1000000) g;
create table people as select g as id, md5(g::text) as a, '078-05-' || lpad((g %% 9999 + 1)::text, 4, '0') as ssn,
  '4111 1111 1111 1111' as card, timestamp '2026-01-01' + g * interval '1 second' as at, 'no. ' || g as note from generate_series(1, 1000000) g;
grant select on plain, people to %[1]s`

// past is how an agent reaches the server through a relay that looks at nothing.
var past = []string{"/usr/bin/env", "PGHOST=" + serverV6, "PGUSER=" + pgtest.App, "PGPASSWORD=" + pgtest.AppPassword, "PGSSLMODE=disable"}

// A million rows stream through the gate, masked, in memory that does not depend
// on their number. The figures are for people; only memory and masking decide.
func TestPrivilegedMillionRowsAreMaskedInBoundedMemory(t *testing.T) {
	r := newRig(t, bulkPolicy, "jit=off", "max_parallel_workers_per_gather=0")
	r.sql(fmt.Sprintf(bulkTables, pgtest.App))
	r.agent(r.client, "drain", "select * from people limit 10000", "4111").want(t, 0, "10000 rows")
	const growth = 16 << 20 // of the process: the collector's rhythm is part of it
	relayed := append(slices.Clone(past), r.client, "drain")
	plain := []string{"/usr/bin/env", "PGSSLMODE=disable", r.client, "drain"}
	overTLS := []string{"/usr/bin/env", "PGSSLMODE=require", r.client, "drain"}
	for _, bench := range []struct {
		name  string
		agent []string
		table string
		text  string
		hits  string
	}{
		{"relayed, nothing looked at", relayed, "plain", "4111 ", " 0 with the text"},
		{"masks, nothing to mask", plain, "plain", "4111 ", " 0 with the text"},
		{"a column and a card number in each row", plain, "people", "4111 1111", " 0 with the text"},
		{"the same, for the column", plain, "people", "078-05", " 0 with the text"},
		{"the same, the agent's side over TLS", overTLS, "people", "4111 1111", " 0 with the text"},
		{"relayed, people", relayed, "people", "4111 1111", "1000000 with the text"},
	} {
		before := r.memory(true)
		used, start := r.processor(), time.Now()
		o := r.agent(append(bench.agent, "select * from "+bench.table, bench.text)...)
		took, cpu := time.Since(start), r.processor()-used
		o.want(t, 0, "1000000 rows", bench.hits)
		peak := r.memory(false)
		if peak > before+growth {
			t.Errorf("%s: the daemon grew from %d to %d bytes", bench.name, before, peak)
		}
		size, err := strconv.Atoi(regexp.MustCompile(`(\d+) bytes`).FindStringSubmatch(o.text)[1])
		check(t, err)
		wire := float64(size+1_000_000*(7+4*5)) / 1e6
		t.Logf("%s: %.0f MB in %v, %.2f ms of processor per MB: %.0f MB/s per core; resident %d MiB, at most %d", bench.name,
			wire, took.Round(time.Millisecond), cpu.Seconds()*1e3/wire, wire/cpu.Seconds(), before>>20, peak>>20)
	}
}

// memory returns the daemon's resident memory in bytes: now, after the peak was
// reset, or the peak since.
func (r *rig) memory(reset bool) int {
	r.t.Helper()
	field := "VmHWM:"
	if reset {
		check(r.t, os.WriteFile(r.proc("clear_refs"), []byte("5"), 0))
		field = "VmRSS:"
	}
	text, err := os.ReadFile(r.proc("status"))
	check(r.t, err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == field {
			n, err := strconv.Atoi(fields[1])
			check(r.t, err)
			return n << 10
		}
	}
	r.t.Fatalf("no %s", field)
	return 0
}

// processor returns what the daemon has used of the processors.
func (r *rig) processor() time.Duration {
	r.t.Helper()
	text, err := os.ReadFile(r.proc("stat"))
	check(r.t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.Atoi(f)
		check(r.t, err)
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all architectures here
	return time.Duration(ticks) * tick
}

func (r *rig) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(r.daemon.Process.Pid), name)
}
