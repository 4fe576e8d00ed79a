package e2e

import (
	"strings"
	"testing"
	"time"
)

// What an agent says past the proxy is in no session, but in the metrics: to the
// byte, under the rule that let it go, also when another policy is in force by
// the time that it ends, and another daemon.
func TestPrivilegedDirectFlowsAreInTheMetrics(t *testing.T) {
	const unread = serverV4 + ":7123"
	r := prepareBareRig(t)
	repeating(t, unread)
	policy := func(rule string) string {
		text := strings.Replace(withAgents(), "resources:",
			"resources:\n  - {name: unread, protocol: tcp, inspection: none, hosts: [\""+unread+"\"]}", 1)
		return strings.Replace(text, "name: work", "name: "+rule, 1)
	}
	want := func(rule string, flows, bytes float64) {
		t.Helper()
		label := `rule="` + rule + `"`
		within(t, 5*time.Second, "the end of its flows", func() bool { return r.metric("headgate_direct_flows_total", label) >= flows })
		up, down := r.metric("headgate_direct_bytes_total", label, `direction="up"`), r.metric("headgate_direct_bytes_total", label, `direction="down"`)
		if n := r.metric("headgate_direct_flows_total", label); n != flows || up != bytes || down != bytes {
			t.Errorf("rule %s: %v flows, %v bytes up, %v down; want %v and %v", rule, n, up, down, flows, bytes)
		}
		if seconds := r.metric("headgate_direct_seconds_total", label); seconds <= 0 {
			t.Errorf("rule %s: %v seconds", rule, seconds)
		}
	}
	r.policy(policy("work"))
	r.start()
	w := r.worker(whereabouts{run: "ci"})
	for _, name := range []string{"one", "two"} {
		w.want("ok", "open", name, "tcp", unread)
		w.want("ok 12345", "say", name, "12345")
	}
	w.want("ok", "close", "one")
	want("work", 1, 5)
	if n := r.metric("headgate_direct_established_total", `rule="work"`); n != 2 {
		t.Errorf("%v flows were established, want 2", n)
	}
	r.reload(policy("play"))
	w.want("ok", "open", "three", "tcp", unread)
	w.want("ok 123", "say", "three", "123")
	w.want("ok", "close", "two")
	want("work", 2, 10)
	w.want("ok", "close", "three")
	want("play", 1, 3)
	r.stop()
	r.start()
	want("play", 1, 3)
	want("__other__", 2, 10) // no policy of this daemon has the rule
	r.reload(policy("work"))
	want("play", 1, 3)
	want("__other__", 2, 10)
}
