package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
)

const metadataV4 = "169.254.169.254"

const observePolicy = `
version: 1
agents: [{name: ci}]
resources:
  - {name: opaque, protocol: tcp, hosts: ["192.0.2.10:7107"]}
  - {name: forbidden, protocol: tcp, hosts: ["192.0.2.30:7107"]}
  - {name: unread, protocol: tcp, inspection: none, hosts: ["192.0.2.20:7107"]}
  - {name: unsaid, protocol: tcp, inspection: none, hosts: ["192.0.2.20:7108"]}
  - {name: allowed, protocol: tcp, inspection: none, hosts: ["192.0.2.20:7110"]}
  - {name: datagrams, protocol: udp, hosts: ["192.0.2.20:7109"]}
  - {name: private, protocol: unix, paths: ["{dir}/denied"]}
  - {name: names, protocol: dns, names: ["one.open.internal"], servers: ["192.0.2.10:53"]}
rules:
  - {name: work, effect: allow, resources: [opaque, names, allowed], operations: ["*"]}
  - {name: not-there, effect: deny, resources: [forbidden, private, unread, datagrams], operations: ["*"]}
defaults: {mode: observe, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

func enforcing() string { return strings.Replace(observePolicy, "mode: observe", "mode: enforce", 1) }

// newObserveRig starts servers at all that the policy names, and at what it does
// not, and a daemon that observes.
func newObserveRig(t *testing.T) *bareRig {
	t.Helper()
	r := prepareBareRig(t)
	withAddresses(t, dbV4, forbiddenV4, elsewhereV4, metadataV4)
	nameServer(t, "", serverV4, "--host-record=one.open.internal,"+elsewhereV4, "--host-record=other.internal,"+elsewhereV4)
	for _, address := range []string{serverV4, forbiddenV4, dbV4, elsewhereV4} {
		greeting(t, "", address+":7107", "far side")
	}
	greeting(t, "", dbV4+":7108", "far side")
	greeting(t, "", dbV4+":7110", "far side")
	greeting(t, "", metadataV4+":80", "metadata")
	echoing(t, udpTarget, "far side")
	echoing(t, dbV4+":7109", "far side")
	r.policy(observePolicy)
	r.start()
	return r
}

// Observing refuses nothing that it can do without, and the record has all that
// enforcing would refuse.
func TestPrivilegedObservingRefusesNothing(t *testing.T) {
	r := newObserveRig(t)
	// By the daemon's own list, and by the policy.
	builtin, denied := fmt.Sprintf("/tmp/.s.PGSQL.headgate-%d", os.Getpid()), filepath.Join(r.dir, "denied")
	serveUnix(t, builtin)
	serveUnix(t, denied)
	w := r.worker(whereabouts{run: "ci"})
	before := r.counter("observed")
	w.want("ok", "bind", "free", "udp4", "0.0.0.0:0")
	for _, c := range []struct {
		kind, rule, target, answer string
		errand                     []string
	}{
		{"udp", "", udpTarget, "far side", []string{"hear", "udp", udpTarget}},
		{"udp", "", udpTarget, "far side", []string{"tell", "free", "x", udpTarget}},
		{"socket_type", "", "", "", []string{"socket", "raw"}},
		{"socket_type", "", "", "", []string{"socket", "raw6"}},
		{"socket_type", "", "", "", []string{"socket", "udplite"}},
		{"unix", "", builtin, "far side", []string{"hear", "unix", builtin}},
		{"metadata", "", metadataV4 + ":80", "metadata", hearing(metadataV4 + ":80")},
		{"unix", "not-there", denied, "far side", []string{"hear", "unix", denied}},
		{"rule", "not-there", dbV4 + ":7107", "far side", hearing(dbV4 + ":7107")},
		{"rule", "default", dbV4 + ":7108", "far side", hearing(dbV4 + ":7108")},
		{"rule", "not-there", dbV4 + ":7109", "far side", []string{"hear", "udp", dbV4 + ":7109"}},
	} {
		n := r.counter("observed")
		w.want(strings.TrimSpace("ok "+c.answer), c.errand...)
		if r.counter("observed") != n+1 {
			t.Errorf("%v: counted %d as observed", c.errand, r.counter("observed")-n)
		}
		if e := r.refusal(w.pid, c.kind, c.target, true); e.Agent != "ci" {
			t.Errorf("the event: %+v", e)
		}
		r.wantRule(w.pid, c.target, c.rule)
	}
	w.want("ok far side", hearing(dbV4+":7110")...)
	if n := r.counter("observed") - before; n != 11 {
		t.Errorf("%d observed", n)
	}
	// What the proxy judges is in the record as decisions.
	for _, target := range []string{serverV4 + ":7107", forbiddenV4 + ":7107", elsewhereV4 + ":7107"} {
		w.want("ok far side", hearing(target)...)
		would := "deny"
		if target == serverV4+":7107" {
			would = "allow"
		}
		r.wantWould(r.opened(w.pid, target).Session, would)
	}
	// Who speaks second loses some time.
	w.want("ok far side", "listen", "tcp", elsewhereV4+":7107")
	w.want("ok "+elsewhereV4, "ask", "udp", trusted, "other.internal.")
	w.want("ok "+elsewhereV4, "ask", "tcp", trusted, "other.internal.")
	for _, e := range events[audit.EscapeAttempt](r, audit.KindEscape) {
		if !e.Observed {
			t.Errorf("refused: %+v", e)
		}
	}
	// What mediation itself needs stays refused.
	status, err := control.NewClient(r.socket).Status(t.Context())
	check(t, err)
	own := fmt.Sprintf("127.0.0.1:%d", status.Port)
	w.want("no EPERM", hearing(own)...)
	r.refusal(w.pid, "own_port", own, false)
	metrics := strings.TrimSuffix(strings.TrimPrefix(r.scrape, "http://"), "/metrics")
	w.want("no EPERM", hearing(metrics)...)
	r.refusal(w.pid, "own_port", metrics, false)
}

// ruled is the rule in an event of the kernel side.
type ruled struct {
	audit.EscapeAttempt
	Rule string `json:"rule"`
}

// wantRule looks for the rule that refused something, or would have.
func (r *bareRig) wantRule(pid int, target, rule string) {
	r.t.Helper()
	e := soonEvent(r, audit.KindEscape, "refusal of "+target, func(e ruled) bool {
		return int(e.Process.PID) == pid && e.Target == target
	})
	if e.Rule != rule {
		r.t.Errorf("%s by rule %q, want %q", target, e.Rule, rule)
	}
}

// What a rule says is in force whatever the defaults' mode is: one that enforces
// is no part of what is observed, and one that observes is no denial.
func TestPrivilegedRulesHaveTheirOwnMode(t *testing.T) {
	r := newObserveRig(t)
	denied := filepath.Join(r.dir, "denied")
	serveUnix(t, denied)
	w := r.worker(whereabouts{run: "ci"})
	for _, c := range []struct{ rule, defaults, outcome string }{
		{"enforce", "observe", "no EPERM"}, {"observe", "observe", "ok far side"},
		{"enforce", "enforce", "no EPERM"}, {"observe", "enforce", "ok far side"},
	} {
		// What the rule denies, another would allow.
		text := strings.Replace(observePolicy, "mode: observe", "mode: "+c.defaults, 1)
		text = strings.Replace(text, "{name: not-there,", "{name: not-there-"+c.rule+"-"+c.defaults+", mode: "+c.rule+",", 1)
		r.reload(strings.Replace(text, "rules:\n", "rules:\n  - {name: there, effect: allow, resources: [private, unread, datagrams]}\n", 1))
		for target, errand := range map[string][]string{
			denied: {"hear", "unix", denied}, dbV4 + ":7107": hearing(dbV4 + ":7107"), dbV4 + ":7109": {"hear", "udp", dbV4 + ":7109"},
		} {
			w.want(c.outcome, errand...)
			soonEvent(r, audit.KindEscape, "refusal of "+target, func(e ruled) bool {
				return e.Target == target && e.Rule == "not-there-"+c.rule+"-"+c.defaults && e.Observed == (c.rule == "observe")
			})
		}
		// The default is observed or not, too.
		if c.defaults == "observe" {
			w.want("ok far side", hearing(dbV4+":7108")...)
		} else {
			w.want("no EPERM", hearing(dbV4+":7108")...)
		}
	}
}

// wantWould looks for what a session's connection would have come to.
func (r *bareRig) wantWould(session, would string) {
	r.t.Helper()
	d := soonEvent(r, audit.KindDecision, "decision of "+session, func(d audit.Decision) bool { return d.Session == session })
	if d.Verdict != "allow" || d.WouldHave != would {
		r.t.Errorf("decided: %+v, would have: want %s", d, would)
	}
}

func serveUnix(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// Who hears it tells.
				_, _ = fmt.Fprintln(c, "far side")
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
}

// A socket that is open when the mode changes is under the new one.
func TestPrivilegedModeChangesUnderOpenSockets(t *testing.T) {
	r := newObserveRig(t)
	w := r.worker(whereabouts{run: "ci"})
	says := func(outcome string) {
		t.Helper()
		w.want(outcome, "say", "connected", "x")
		w.want(outcome, "tell", "free", "x", udpTarget)
	}
	w.want("ok", "bind", "free", "udp4", "0.0.0.0:0")
	w.want("ok", "open", "connected", "udp", udpTarget)
	w.want("ok", "open", "stream", "tcp", metadataV4+":80")
	w.want("ok metadata", "say", "stream", "x")
	w.want("ok", "open", "raw", "ip4:icmp", serverV4)
	if got := w.do("say", "raw", "xxxxxxxx"); !strings.HasPrefix(got, "ok ") {
		t.Errorf("a raw socket: %q", got)
	}
	says("ok far side")
	r.reload(enforcing())
	says("no EPERM")
	w.wantNo("say", "stream", "x")
	r.refusal(w.pid, "egress", metadataV4+":80", false)
	w.want("no EPERM", "say", "raw", "xxxxxxxx")
	w.want("ok", "open", "deferred", "udp", udpTarget)
	w.want("no EPERM", "say", "deferred", "x")
	w.want("no EPERM", "socket", "raw")
	w.want("no EPERM", hearing(metadataV4+":80")...)
	w.wantNo(hearing(elsewhereV4 + ":7107")...)
	r.reload(observePolicy)
	says("ok far side")
	w.want("ok far side", "say", "deferred", "x")
	w.want("ok", "socket", "raw")
	w.want("ok metadata", hearing(metadataV4+":80")...)
	r.reload(enforcing())
	says("no EPERM")
	w.want("no EPERM", "say", "deferred", "x")
}
