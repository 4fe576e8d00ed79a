package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/record"
	"github.com/headgate/headgate/pkg/transparent"
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
	byFilter      = "filter"      // by the one that headgate run installs
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
	// confine is the filter that the tree is run under; empty means none. What a
	// row with one tries has to work without it.
	confine string
	want    string
	// errno of a refusal, or several with | between; empty means EPERM.
	errno string
	// target of a mediated session; empty means the witness's first address.
	target string
	// reply is part of what must be answered; empty means "witness".
	reply string
	// seen is how a refusal is to be seen.
	seen string
	// reason and remedy are said of what is not refused, or not at once.
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
	whole   *testing.T // not of a row alone
	witness *witness
	program string
	words   *strings.Replacer
	proxy   string // its port
	denied  string // directory of the unix sockets
	// neighbour is another network namespace, with a way to the witness.
	neighbour string
	older     older
}

const escapePolicy = `
version: 1
agents:
  - {name: ci}
  - {name: by-cgroup, cgroups: ["%[2]s", "%[2]s-*"]}
  - {name: by-user, users: ["4242"]}
{extraAgents}
resources:
  - name: shop
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d"]
    credential: shop
    tls: {verify: off}
  - name: witness
    protocol: tls
    hosts: ["192.0.2.10:7007", "192.0.2.10:7011", "[2001:db8::10]:7007", "127.0.0.1:7007", "[::1]:7007"]
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
	escapeAgents = `
  - {name: by-executable, executables: ["{dir}/enrolled"]}`
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
	got, before := e.attempt(w)
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

// attempt does what a row says, and returns what was there before.
func (e *escapes) attempt(w way) (report, snapshot) {
	e.t.Helper()
	if w.confine != "" {
		free := w
		free.confine = ""
		if got := e.escape(free); got.Result != "connected" {
			return got, e.snapshot()
		}
	}
	before := e.snapshot()
	if w.run != nil {
		return w.run(e), before
	}
	got := e.escape(w)
	if w.confine != "" && got.Result == unavailable {
		got.Result = refused
	}
	return got, before
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
	case byPermissions, byAnswer, byFilter, byNothing, bySession:
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
		if got.Result == "connected" || !slices.Contains(strings.Split(errno, "|"), got.Errno) || len(contacts) > 0 {
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
			// A flow of datagrams ends when nothing was sent for a while.
			ended := s.End != nil || s.Origin.Transport == transparent.UDP && s.Decisions > 0
			return ended && int(s.Origin.Process.PID) == got.PID && s.Origin.Target == want
		})
	}) {
		e.t.Errorf("no session of pid %d to %v in the record, but %+v", got.PID, want, list)
	}
}

// refusalSeen looks for the sign of a refusal.
func (e *escapes) refusalSeen(w way, got report, before snapshot) {
	e.t.Helper()
	switch w.seen {
	case byPermissions, byAnswer, byFilter, byNothing:
		return
	case bySession:
		e.denialSeen(before)
		return
	}
	if after := e.denials(); after[w.seen] <= before.denied[w.seen] {
		e.t.Errorf("not counted as denied_%s: before %v, after %v", w.seen, before.denied, after)
	} else {
		e.recorded(w, got, before)
	}
}

// denialSeen looks for a session in which something was denied.
func (e *escapes) denialSeen(before snapshot) {
	e.t.Helper()
	if !e.soon(func() bool {
		return slices.ContainsFunc(e.sessionsSince(before), func(s audit.SessionSummary) bool { return s.Denied > 0 })
	}) {
		e.t.Error("no session that was denied is in the record")
	}
}

// recorded looks for the event of a refusal: its kind is the counter's reason,
// and its process the one that tried.
func (e *escapes) recorded(w way, got report, before snapshot) {
	e.t.Helper()
	if e.soon(func() bool {
		found := false
		e.entries(func(entry record.Entry) bool {
			if entry.Seq <= before.entries || entry.Kind != audit.KindEscape {
				return true
			}
			var event audit.EscapeAttempt
			decode(e.t, entry, &event)
			found = event.Kind == w.seen && int(event.Process.PID) == got.PID
			return !found
		})
		return found
	}) {
		return
	}
	e.t.Errorf("no event says that %s was refused to pid %d", w.name, got.PID)
}

// entries calls f with the record's entries until it returns false.
func (e *escapes) entries(f func(record.Entry) bool) {
	e.t.Helper()
	for entry, err := range record.Read(filepath.Join(e.state, "audit")) {
		if errors.Is(err, record.ErrTorn) {
			return // it is being written
		}
		check(e.t, err)
		if !f(entry) {
			return
		}
	}
}

func decode(t *testing.T, entry record.Entry, to any) {
	t.Helper()
	check(t, json.Unmarshal(entry.Body, to))
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
	return e.parse(e.tree([]string{e.bin, "run", "--socket", e.socket, "--agent", "ci", "--confine", cmp.Or(w.confine, "none"), "--"}, uid, argv...))
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
