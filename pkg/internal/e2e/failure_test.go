package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate/headgate/pkg/kernel"
)

// selects is what an agent of the cgroup rule, which needs no daemon to be
// enrolled, gets for a harmless statement.
func (r *rig) selects() outcome {
	r.t.Helper()
	return r.treeIn("by-rule", nobody, psql("-c", "select 'served'")...)
}

func (r *rig) wantServed() {
	r.t.Helper()
	r.selects().want(r.t, 0, "served")
}

func (r *rig) wantRefused() {
	r.t.Helper()
	o := r.selects()
	o.wantNot(r.t, "served")
	if o.status == 0 {
		r.t.Errorf("an agent was served:\n%s", o.text)
	}
	r.outsider(psql("-c", "select 'served'")...).want(r.t, 0, "served")
}

// A daemon that hangs is as good as none: agents are refused once its heartbeat
// is stale, others never are, and it goes on where it was.
func TestPrivilegedHungDaemonFailsClosed(t *testing.T) {
	r := newRig(t, rigPolicy)
	r.wantServed()
	check(t, r.daemon.Process.Signal(syscall.SIGSTOP))
	r.until("the heartbeat is stale", func() bool {
		return strings.Contains(r.treeIn("by-rule", nobody, psql("-c", "select 1")...).text, "not permitted")
	})
	r.wantRefused()
	check(t, r.daemon.Process.Signal(syscall.SIGCONT))
	r.until("the daemon beats again", func() bool { return strings.Contains(r.selects().text, "served") })
}

// A unit that starts while the daemon hangs is an agent's by its name, and is
// refused; so it is without a daemon.
func TestPrivilegedUnitThatStartsWithoutADaemonIsRefused(t *testing.T) {
	r := prepareBareRig(t)
	greeting(t, "", target, "far side")
	r.policy(withAgents(`{name: unit, units: ["actions.runner.*.service"], cgroups: ["{cgroup}/jobs-*"]}`, `{name: job, containers: ["docker"]}`))
	r.start()
	early := r.worker(whereabouts{cgroup: r.cgroupOf("jobs-early"), uid: nobody})
	r.wantAgent("unit", early)
	connects := func(name string) string {
		return r.worker(whereabouts{cgroup: r.cgroupOf(name), uid: nobody}).do("open", "x", "tcp", target)
	}
	wantRefused := func(suffix string) {
		t.Helper()
		for _, name := range []string{"actions.runner." + suffix + ".service", "jobs-" + suffix, strings.Replace(container, "0123", suffix, 1)} {
			if got := connects(name); got != "no EPERM" {
				t.Errorf("%s: %q", name, got)
			}
		}
		if got := connects("other-" + suffix); got != "ok" {
			t.Errorf("outsider: %q", got)
		}
	}
	check(t, r.daemon.Process.Signal(syscall.SIGSTOP))
	r.until("the heartbeat is stale", func() bool { return early.do("open", "x", "tcp", target) == "no EPERM" })
	wantRefused("aaaa")
	check(t, r.daemon.Process.Signal(syscall.SIGCONT))
	r.kill()
	wantRefused("bbbb")
}

// A second daemon is turned away, and the first does not notice.
func TestPrivilegedSecondInstanceIsTurnedAway(t *testing.T) {
	r := newRig(t, rigPolicy)
	o := r.cli("daemon", "--config", r.config)
	if o.status == 0 {
		t.Error("a second daemon came to its end in order")
	}
	o.want(t, o.status, "log is in use")
	r.wantServed()
}

// Who takes pins away does not free agents: the daemon puts them back, and when
// it is killed afterwards agents are refused.
func TestPrivilegedDeletedPinsComeBack(t *testing.T) {
	r := newRig(t, rigPolicy)
	// The second daemon takes over links that are pinned.
	r.kill()
	r.start()
	pins, err := filepath.Glob(filepath.Join(r.pins, "v*", "*"))
	check(t, err)
	if len(pins) < 30 {
		t.Fatalf("%d pins", len(pins))
	}
	for _, pin := range pins {
		check(t, os.Remove(pin))
	}
	r.wantServed()
	r.until("the pins are back", func() bool {
		for _, pin := range pins {
			if _, err := os.Lstat(pin); err != nil {
				return false
			}
		}
		return true
	})
	r.kill()
	r.wantRefused()
	r.start()
	r.wantServed()
}

// A table of processes that is full refuses those that it has no room for.
func TestPrivilegedFullTableRefuses(t *testing.T) {
	r := newRig(t, rigPolicy)
	r.stop()
	check(t, kernel.Uninstall(r.pins))
	r.write("conf.d/limits.yaml", "limits: {processes: 1}\n")
	r.start()
	// One of the shells has the room; what they start has none.
	r.wantRefused()
	r.until("it is counted", func() bool { return r.metric("headgate_kernel_denied_total", `reason="unmarked"`) > 0 })
	check(t, os.Remove(filepath.Join(r.dir, "conf.d/limits.yaml")))
	r.stop()
	check(t, kernel.Uninstall(r.pins))
	r.start()
	r.wantServed()
}

// With on_failure: open, agents go on without a daemon, but not to where a
// static rule forbids.
func TestPrivilegedFailOpenPassesAllButDenials(t *testing.T) {
	r := newRig(t, strings.Replace(rigPolicy, "on_failure: closed", "on_failure: open", 1))
	r.selects().want(t, 0, "served")
	r.kill()
	r.until("the heartbeat is stale, or nobody listens", func() bool {
		return strings.Contains(r.treeIn("by-rule", nobody, "/bin/bash", "-c", "exec 3<>/dev/tcp/"+serverV4+"/1").text, "refused")
	})
	r.treeIn("by-rule", nobody, "/bin/bash", "-c", "exec 3<>/dev/tcp/169.254.169.254/80").want(t, 1, "not permitted")
	r.start()
	status := r.cli("status", "--socket", r.socket)
	status.want(t, 0, "passed_open")
}
