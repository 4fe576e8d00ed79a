package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/record"
)

// What may become of a way out.
const (
	// mediated: an answer came, through a session in the record that has this
	// process and exactly this target; the witness saw the daemon alone.
	mediated = "mediated"
	// refused: the errno is the expected one, and the witness saw nobody.
	refused = "refused"
	// notCovered: the witness saw the agent itself, or what it asked for was done.
	// The row says why, and what to do.
	notCovered = "not covered"
	// harmless: it works, and leads nowhere that an agent may not be.
	harmless = "harmless"
	// unavailable: this kernel has no such thing. Nothing is proven.
	unavailable = "unavailable"
	// failing: it did not end as its row says. No row wants this.
	failing = "failing"
)

// How a refusal is to be seen, beside the counters of the kernel's side, which
// are named as in the metric headgate_kernel_denied_total.
const (
	bySession     = "session"     // a session in the record that was denied
	byPermissions = "permissions" // by the system's own; nothing of ours is asked
	byAnswer      = "answer"      // the daemon said so
	byNothing     = "errno"       // by its errno alone
)

// way is one row of the table: a way out and what must become of it.
type way struct {
	group, name string
	// argv is the way and its arguments for the escape program; the words in
	// braces are replaced. If run is set that does it instead.
	argv string
	run  func(e *escapes) report
	// root has it done by uid 0; else by nobody.
	root bool
	want string
	// errno of a refusal; empty means EPERM.
	errno string
	// target of a mediated session; empty means the witness's first address.
	target string
	// reply is part of what must be answered; empty means "witness".
	reply string
	// seen is how a refusal is to be seen.
	seen string
	// reason and remedy are said of what is not refused.
	reason, remedy string
}

// report is what the escape program says.
type report struct {
	Way    string `json:"way"`
	Result string `json:"result"`
	Errno  string `json:"errno"`
	Detail string `json:"detail"`
	Reply  string `json:"reply"`
	PID    int    `json:"pid"`
}

// escapes is the rig, the far side, and the program that tries to get there.
type escapes struct {
	*rig
	witness *witness
	program string
	words   *strings.Replacer
	proxy   string // its port
	denied  string // directory of the unix sockets
}

const escapePolicy = `
version: 1
agents:
  - {name: ci}
  - {name: by-cgroup, cgroups: ["%[2]s"]}
resources:
  - name: shop
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d"]
    credential: shop
  - name: witness
    protocol: tls
    hosts: ["192.0.2.10:7007", "[2001:db8::10]:7007", "127.0.0.1:7007", "[::1]:7007"]
{extra}
rules:
  - {name: work, effect: allow, resources: [shop, witness], operations: ["*"]}
{extraRules}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

// The parts of the policy that are about other things than TCP.
const (
	escapeResources = `
  - {name: private, protocol: unix, paths: ["{dir}/denied", "{dir}/denied-dgram", "{dir}/.s.PGSQL.*"]}
  - {name: names, protocol: dns, names: ["allowed.example"]}`
	escapeRules = `
  - {name: no-private, effect: deny, resources: [private], operations: ["*"]}
  - {name: look-up, effect: allow, resources: [names], operations: ["*"]}`
)

// resultsFile is what scripts/coverage.sh makes the table of; see escape_table_test.go.
const resultsFile = "testdata/escape/coverage.json"

// The table of ways out: whatever an agent tries ends as its row says. The
// result has to be the one that is committed, of which the table in docs/ and the
// one in README.md are made.
func TestPrivilegedWaysOut(t *testing.T) {
	e := newEscapes(t)
	var results []result
	for _, w := range escapeRows() {
		t.Run(w.group+"/"+w.name, func(t *testing.T) {
			e.t, e.witness.t = t, t
			results = append(results, e.try(w))
		})
	}
	e.t, e.witness.t = t, t
	if path := os.Getenv("HEADGATE_COVERAGE"); path != "" {
		text, err := json.MarshalIndent(results, "", "  ")
		check(t, err)
		check(t, os.WriteFile(path, append(text, '\n'), 0o644))
		return
	}
	// Not where only some rows were asked for.
	if len(results) == len(escapeRows()) {
		compareResults(t, results)
	}
}

func newEscapes(t *testing.T) *escapes {
	e := &escapes{}
	policyText := e.policyFor(t)
	e.rig = newRig(t, policyText)
	e.program = filepath.Join(e.dir, "escape")
	build := exec.Command("go", "build", "-o", e.program, "./testdata/escape")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build escape: %v\n%s", err, text)
	}
	e.witness = newWitness(t, e.daemon.Process.Pid)
	e.openWitness()
	e.openSystem()
	status, err := control.NewClient(e.socket).Status(t.Context())
	check(t, err)
	e.proxy = strconv.Itoa(int(status.Port))
	_, scrapePort, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(e.scrape, "http://"), "/metrics"))
	e.words = strings.NewReplacer("{v4}", serverV4+":7007", "{v6}", "["+serverV6+"]:7007", "{mapped}", "[::ffff:"+serverV4+"]:7007",
		"{unnamed}", serverV4+":7098", "{udp4}", serverV4+":7009", "{udp6}", "["+serverV6+"]:7009", "{udpmapped}", "[::ffff:"+serverV4+"]:7009",
		"{quic}", serverV4+":443", "{dns}", serverV4+":53", "{dns6}", "["+serverV6+"]:53", "{stub}", "127.0.0.53:53", "{dir}", e.dir, "{sockets}", e.denied, "{proxy}", e.proxy, "{metrics}", scrapePort,
		"{daemon}", strconv.Itoa(e.daemon.Process.Pid), "{pins}", e.pins, "{bin}", e.bin, "{socket}", e.socket, "{escape}", e.program,
		"{cgroup}", e.cgroup)
	return e
}

// policyFor returns the policy. The directory of the rig is not known yet: the
// denied sockets are in one of their own.
func (e *escapes) policyFor(t *testing.T) string {
	dir, err := os.MkdirTemp("", "headgate-sock")
	check(t, err)
	check(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	e.denied = dir
	full := strings.NewReplacer("{extra}", escapeResources, "{extraRules}", escapeRules, "{dir}", dir).Replace(escapePolicy)
	bin, _ := programs(t)
	path := t.TempDir()
	check(t, os.WriteFile(filepath.Join(path, "policy.yaml"), fmt.Appendf(nil, full, 5432, "/x"), 0o644))
	if out, err := exec.Command(bin, "policy", "check", path).CombinedOutput(); err != nil {
		t.Errorf("the policy of the ways out is not understood, those that need it will fail: %s", out)
		return strings.NewReplacer("{extra}", "", "{extraRules}", "").Replace(escapePolicy)
	}
	return full
}

// openWitness listens at every address that rows name.
func (e *escapes) openWitness() {
	w := e.witness
	for _, local := range []string{serverV4 + ":7007", "127.0.0.1:7007", "127.0.0.1:7008", serverV4 + ":7098"} {
		w.stream("tcp4", local, greet)
	}
	for _, local := range []string{"[" + serverV6 + "]:7007", "[::1]:7007"} {
		w.stream("tcp6", local, greet)
	}
	echo := func([]byte) []byte { return []byte("witness udp\n") }
	for _, local := range []string{serverV4 + ":7009", "127.0.0.1:7009", serverV4 + ":443"} {
		w.datagrams("udp4", local, echo)
	}
	w.datagrams("udp6", "["+serverV6+"]:7009", echo)
	for _, local := range []string{serverV4 + ":53", "127.0.0.53:53"} {
		w.datagrams("udp4", local, dnsAnswer)
		w.stream("tcp4", local, dnsStream)
	}
	w.datagrams("udp6", "["+serverV6+"]:53", dnsAnswer)
	w.stream("unix", filepath.Join(e.denied, "denied"), greet)
	w.stream("unix", filepath.Join(e.denied, "open"), greet)
	w.stream("unix", filepath.Join(e.denied, ".s.PGSQL.5432"), greet)
	w.stream("unix", "@headgate-escape", greet)
	w.datagrams("unixgram", filepath.Join(e.denied, "denied-dgram"), echo)
}

// openSystem allows in this network namespace what hosts allow, and makes the
// setuid program and the outsiders' cgroup.
func (e *escapes) openSystem() {
	e.t.Helper()
	for name, value := range map[string]string{
		"net/ipv4/ping_group_range": "0 2147483647",
		"net/ipv4/tcp_fastopen":     "3",
	} {
		check(e.t, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
	}
	text, err := os.ReadFile(e.program)
	check(e.t, err)
	path := filepath.Join(e.dir, "escape-setuid")
	check(e.t, os.WriteFile(path, text, 0o755))
	check(e.t, os.Chmod(path, 0o755|os.ModeSetuid))
	check(e.t, os.Mkdir(filepath.Join(e.cgroup, "outside"), 0o755))
	e.t.Cleanup(func() {
		for _, name := range []string{"outside", "elsewhere", "agents/own"} {
			if err := os.Remove(filepath.Join(e.cgroup, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				e.t.Errorf("remove cgroup: %v", err)
			}
		}
	})
}

// snapshot is what was there before a row.
type snapshot struct {
	witness, sessions int
	entries           uint64 // of the record
	denied            map[string]uint64
}

func (e *escapes) snapshot() snapshot {
	e.t.Helper()
	status, err := control.NewClient(e.socket).Status(e.t.Context())
	check(e.t, err)
	return snapshot{e.witness.mark(), len(e.sessionsSince(snapshot{})), status.AuditSeq, e.denials()}
}

// denials returns the kernel's counters of what was refused, by reason.
func (e *escapes) denials() map[string]uint64 {
	e.t.Helper()
	status, err := control.NewClient(e.socket).Status(e.t.Context())
	check(e.t, err)
	denied := map[string]uint64{}
	for name, n := range status.Counters {
		if reason, found := strings.CutPrefix(name, "denied_"); found {
			denied[reason] = n
		}
	}
	return denied
}

// try does what a row says and judges it.
func (e *escapes) try(w way) result {
	e.t.Helper()
	before := e.snapshot()
	var got report
	if w.run != nil {
		got = w.run(e)
	} else {
		got = e.escape(w)
	}
	contacts := e.witness.since(before.witness)
	r := result{Group: w.group, Name: w.name, Root: w.root, Outcome: w.want, Seen: seenAs(w), Reason: w.reason, Remedy: w.remedy}
	if got.Result == unavailable {
		if w.want != unavailable {
			e.t.Logf("not in this kernel: %s", got.Detail)
		}
		r.Outcome, r.Seen, r.Remedy, r.Reason = unavailable, "", "", "the kernel of the tests lacks it; by design: "+w.want
		return r
	}
	e.judge(w, got, before, contacts)
	if e.t.Failed() {
		r.Outcome, r.Seen, r.Reason, r.Remedy = failing, "", "its test fails; by design: "+w.want, ""
	}
	return r
}

// seenAs is how the outcome of a row is to be seen, in words for the table.
func seenAs(w way) string {
	switch {
	case w.want == mediated:
		return bySession
	case w.want != refused:
		return ""
	}
	switch w.seen {
	case byPermissions, byAnswer, byNothing, bySession:
		return w.seen
	}
	return "denied_" + w.seen
}

// judge fails the test if a row did not end as it must.
func (e *escapes) judge(w way, got report, before snapshot, contacts []contact) {
	e.t.Helper()
	direct := slices.ContainsFunc(contacts, func(c contact) bool { return c.direct })
	reply := cmp.Or(w.reply, "witness")
	answered := got.Result == "connected" && strings.Contains(got.Reply, reply)
	switch w.want {
	case mediated:
		if !answered || direct {
			e.t.Errorf("not mediated: %+v, the witness saw %v", got, contacts)
			return
		}
		e.sessionSeen(w, got, before)
	case refused:
		errno := cmp.Or(w.errno, "EPERM")
		if got.Result == "connected" || got.Errno != errno || len(contacts) > 0 {
			e.t.Errorf("not refused with %s: %+v, the witness saw %v", errno, got, contacts)
			return
		}
		e.refusalSeen(w, got, before)
	case notCovered, harmless:
		if !answered || reply == "witness" && !direct {
			e.t.Errorf("%s no longer: %+v, the witness saw %v", w.want, got, contacts)
		}
	default:
		e.t.Errorf("%s is there after all: %+v", w.name, got)
	}
}

// sessionSeen looks for the session of a mediated row.
func (e *escapes) sessionSeen(w way, got report, before snapshot) {
	e.t.Helper()
	want := netip.MustParseAddrPort(e.words.Replace(cmp.Or(w.target, "{v4}")))
	var list []audit.SessionSummary
	if !e.soon(func() bool {
		list = e.sessionsSince(before)
		return slices.ContainsFunc(list, func(s audit.SessionSummary) bool {
			return s.End != nil && int(s.Origin.Process.PID) == got.PID && s.Origin.Target == want
		})
	}) {
		e.t.Errorf("no session of pid %d to %v in the record, but %+v", got.PID, want, list)
	}
}

// What the kernel refuses is in the record too, as events of this kind, once
// recordsRefusals says so.
const (
	recordsRefusals = false
	kindRefusal     = "escape"
)

// refusalSeen looks for the sign of a refusal.
func (e *escapes) refusalSeen(w way, got report, before snapshot) {
	e.t.Helper()
	switch w.seen {
	case byPermissions, byAnswer, byNothing:
		return
	case bySession:
		e.denialSeen(before)
		return
	}
	if after := e.denials(); after[w.seen] <= before.denied[w.seen] {
		e.t.Errorf("not counted as denied_%s: before %v, after %v", w.seen, before.denied, after)
	} else if recordsRefusals {
		e.recorded(w, got, before)
	}
}

// denialSeen looks for a session in which something was denied.
func (e *escapes) denialSeen(before snapshot) {
	e.t.Helper()
	if !e.soon(func() bool {
		return slices.ContainsFunc(e.sessionsSince(before), func(s audit.SessionSummary) bool { return s.End != nil && s.Denied > 0 })
	}) {
		e.t.Error("no session that was denied is in the record")
	}
}

// recorded looks for the event of a refusal: its kind is the counter's reason,
// and its process the one that tried.
func (e *escapes) recorded(w way, got report, before snapshot) {
	e.t.Helper()
	if e.soon(func() bool {
		for entry, err := range record.Read(filepath.Join(e.state, "audit")) {
			if errors.Is(err, record.ErrTorn) {
				return false
			}
			check(e.t, err)
			var event struct {
				Kind    string     `json:"kind"`
				Process process.ID `json:"process"`
			}
			if entry.Seq <= before.entries || entry.Kind != kindRefusal {
				continue
			}
			check(e.t, json.Unmarshal(entry.Body, &event))
			if strings.TrimPrefix(event.Kind, "denied_") == w.seen && int(event.Process.PID) == got.PID {
				return true
			}
		}
		return false
	}) {
		return
	}
	e.t.Errorf("no event says that %s was refused to pid %d", w.name, got.PID)
}

// soon asks until the answer is yes, for a bounded time.
func (e *escapes) soon(yes func() bool) bool {
	ask := time.NewTicker(5 * time.Millisecond)
	defer ask.Stop()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-ask.C {
		if yes() {
			return true
		}
	}
	return false
}

func (e *escapes) sessionsSince(before snapshot) []audit.SessionSummary {
	e.t.Helper()
	all, err := audit.Sessions(e.state, audit.Filter{})
	check(e.t, err)
	return all[before.sessions:]
}

// escape runs the program as a row says: three processes down, detached.
func (e *escapes) escape(w way) report {
	e.t.Helper()
	uid := uint32(nobody)
	if w.root {
		uid = 0
	}
	argv := append([]string{e.program}, strings.Fields(e.words.Replace(w.argv))...)
	return e.parse(e.tree([]string{e.bin, "run", "--socket", e.socket, "--agent", "ci", "--"}, uid, argv...))
}

// parse finds the line of JSON.
func (e *escapes) parse(o outcome) report {
	e.t.Helper()
	var r report
	for l := range strings.Lines(o.text) {
		if strings.HasPrefix(l, "{") && json.Unmarshal([]byte(l), &r) == nil && r.Result != "" {
			return r
		}
	}
	e.t.Errorf("the program said nothing: %+v", o)
	return report{Result: "error"}
}
