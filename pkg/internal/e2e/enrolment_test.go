package e2e

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
)

// Users that nobody else on the machine is.
const (
	lonelyUser = 1_904_277_311
	loginUser  = 1_904_277_412
)

const (
	target    = serverV4 + ":7107"
	udpTarget = serverV4 + ":7109"
)

const enrolmentPolicy = `
version: 1
agents:
  - {name: ci}
{agents}
resources:
  - {name: opaque, protocol: tcp, hosts: ["192.0.2.10:7107"]}
rules:
  - {name: work, effect: allow, resources: ["*"], operations: ["*"]}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

func withAgents(lines ...string) string {
	text := ""
	for _, l := range lines {
		text += "  - " + l + "\n"
	}
	return strings.Replace(enrolmentPolicy, "{agents}\n", text, 1)
}

// agentOf has a worker connect, and returns the agent that the record has for
// it; empty if it went directly.
func (r *bareRig) agentOf(w *worker) string {
	r.t.Helper()
	w.want("ok far side", hearing(target)...)
	// A session is in the record before anything is heard.
	agent := ""
	for _, s := range events[audit.SessionOpen](r, audit.KindSessionOpen) {
		if int(s.Origin.Process.PID) == w.pid && s.Origin.Target.String() == target {
			agent = s.Agent
		}
	}
	return agent
}

func (r *bareRig) wantAgent(agent string, w *worker) {
	r.t.Helper()
	if got := r.agentOf(w); got != agent {
		r.t.Errorf("pid %d in %s is agent %q, want %q", w.pid, w.cmd.Args, got, agent)
	}
}

func (r *bareRig) soonAgent(agent string, limit time.Duration, w *worker) {
	r.t.Helper()
	var got string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		if got = r.agentOf(w); got == agent {
			return
		}
	}
	r.t.Errorf("pid %d in %s is still agent %q, want %q", w.pid, w.cmd.Args, got, agent)
}

// enrolled waits for the event of a tree's beginning.
func (r *bareRig) enrolled(w *worker, agent, how string) {
	r.t.Helper()
	e := soonEvent(r, audit.KindEnrol, "enrolment of pid "+strconv.Itoa(w.pid), func(e audit.Enrol) bool { return int(e.Root.PID) == w.pid })
	if e.Agent != agent || e.How != how {
		r.t.Errorf("pid %d was enrolled as %q by %q, want %q by %q", w.pid, e.Agent, e.How, agent, how)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	check(t, err)
	check(t, os.WriteFile(to, text, 0o755))
	check(t, os.Chmod(to, 0o755))
}

func move(t *testing.T, pid int, to string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))
}

// A rule for an executable is for the file, by whatever name, and not for
// another file with the same bytes.
func TestPrivilegedExecutableIsEnrolledByItsFile(t *testing.T) {
	r := prepareBareRig(t)
	tool := filepath.Join(r.dir, "tool")
	copyFile(t, r.errand, tool)
	check(t, os.Link(tool, filepath.Join(r.dir, "hard-link")))
	check(t, os.Symlink(tool, filepath.Join(r.dir, "symlink")))
	copyFile(t, tool, filepath.Join(r.dir, "copy"))
	outside := whereabouts{cgroup: r.cgroupOf("outside"), uid: nobody}
	greeting(t, "", target, "far side")
	running := func(name string) *worker {
		at := outside
		at.program = filepath.Join(r.dir, name)
		return r.worker(at)
	}
	early, earlyCopy := running("tool"), running("copy")
	early.want("ok", "open", "before", "tcp", target)
	r.policy(withAgents(`{name: by-exe, executables: ["{dir}/tool", "{dir}/late"]}`))
	r.start()

	r.enrolled(early, "by-exe", "executable")
	r.wantAgent("by-exe", early)
	early.want("no ECONNABORTED", "say", "before", "x")
	r.wantAgent("", earlyCopy)
	for name, agent := range map[string]string{"tool": "by-exe", "hard-link": "by-exe", "symlink": "by-exe", "copy": "", "errand": ""} {
		w := running(name)
		r.wantAgent(agent, w)
		if agent != "" {
			r.enrolled(w, agent, "executable")
		}
	}
	w := running("errand")
	r.wantAgent("", w)
	if err := w.tell("become", filepath.Join(r.dir, "tool")); err != nil {
		t.Fatal(err)
	}
	w.started()
	r.wantAgent("by-exe", w)
	// Nor is that undone by becoming something else.
	if err := w.tell("become", r.errand); err != nil {
		t.Fatal(err)
	}
	w.started()
	r.wantAgent("by-exe", w)

	copyFile(t, r.errand, filepath.Join(r.dir, "late"))
	late := running("late")
	r.soonAgent("by-exe", 25*time.Second, late)
}

const container = "docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"

// Globs are for cgroups that are there, that come later, and for all below them.
func TestPrivilegedCgroupsAreEnrolledByTheirNames(t *testing.T) {
	r := prepareBareRig(t)
	greeting(t, "", target, "far side")
	outside, old := r.cgroupOf("outside"), r.cgroupOf("jobs-old")
	oldInner := r.cgroupOf("jobs-old/inner")
	early := r.worker(whereabouts{cgroup: old, uid: nobody})
	early.want("ok", "open", "before", "tcp", target)
	inner := r.worker(whereabouts{cgroup: oldInner, uid: nobody})
	r.policy(withAgents(
		`{name: by-glob, cgroups: ["{cgroup}/jobs-*", "{cgroup}/deep/**/leaf"]}`,
		`{name: inner, cgroups: ["{cgroup}/jobs-*/inner"]}`,
		`{name: unit, units: ["actions.runner.*.service"]}`,
		`{name: job, containers: ["docker"]}`))
	r.start()
	r.enrolled(early, "by-glob", "cgroup")
	r.wantAgent("by-glob", early)
	early.want("no ECONNABORTED", "say", "before", "x")
	// Of two rules the nearer one.
	r.enrolled(inner, "inner", "cgroup")
	r.wantAgent("inner", inner)
	late := r.worker(whereabouts{cgroup: oldInner, uid: nobody})
	r.wantAgent("inner", late)
	r.enrolled(late, "inner", "cgroup")

	for path, agent := range map[string]string{
		"jobs-new": "by-glob", "jobs-new/a/b": "by-glob",
		"deep/leaf": "by-glob", "deep/a/b/leaf": "by-glob", "deep/a/b": "",
		"actions.runner.org-repo.service": "unit", "actions.runner.org-repo.service/child": "unit", "actions.service": "",
		container: "job", container + "/init": "job", "docker-0123.scope": "",
	} {
		t.Run(strings.ReplaceAll(path, "/", "|"), func(t *testing.T) {
			r.t = t
			at := ""
			for part := range strings.SplitSeq(path, "/") {
				at = filepath.Join(at, part)
				r.cgroupOf(at)
			}
			at = filepath.Join(r.cgroup, at)
			started := r.worker(whereabouts{cgroup: at, uid: nobody})
			moved := r.worker(whereabouts{cgroup: outside, uid: nobody})
			r.wantAgent("", moved)
			move(t, moved.pid, at)
			r.soonAgent(agent, 5*time.Second, started)
			r.soonAgent(agent, 5*time.Second, moved)
			if agent != "" {
				r.enrolled(started, agent, "cgroup")
				r.enrolled(moved, agent, "cgroup")
				// Once an agent, always one.
				move(t, moved.pid, outside)
				r.wantAgent(agent, moved)
			}
			started.stop()
			moved.stop()
		})
	}
	r.t = t
	// Who comes before a cgroup is known belongs to the cgroups around it.
	r.cgroupOf("jobs-inner")
	newInner := r.cgroupOf("jobs-inner/inner")
	within(t, 5*time.Second, "inner cgroup enrolled", func() bool { return r.logHas(`/jobs-inner/inner","agent":"inner"`) })
	r.wantAgent("inner", r.worker(whereabouts{cgroup: newInner, uid: nobody}))
	r.wantAgent("inner", r.worker(whereabouts{cgroup: r.cgroupOf("jobs-inner/inner/a"), uid: nobody}))
}

// What users had open before they were agents is closed, over TCP and over UDP.
func TestPrivilegedUsersAreEnrolledWithWhatTheyHaveOpen(t *testing.T) {
	r := prepareBareRig(t)
	greeting(t, "", target, "far side")
	echoing(t, udpTarget, "far side")
	at := whereabouts{cgroup: r.cgroupOf("outside"), uid: lonelyUser}
	early := r.worker(at)
	early.want("ok", "open", "tcp", "tcp", target)
	early.want("ok far side", "say", "tcp", "x")
	early.want("ok", "open", "udp", "udp", udpTarget)
	early.want("ok far side", "say", "udp", "x")
	id := strconv.Itoa(lonelyUser)
	// Of two that name a user the first by name has it.
	r.policy(withAgents(`{name: one, users: ["`+id+`"]}`, `{name: another, users: ["`+id+`"]}`, `{name: two, users: ["`+id+`"]}`))
	r.start()
	r.enrolled(early, "another", "user")
	early.want("no ECONNABORTED", "say", "tcp", "x")
	if got := early.do("say", "udp", "x"); !strings.HasPrefix(got, "no ") {
		t.Errorf("a UDP socket from before the enrolment: %q", got)
	}
	r.wantAgent("another", early)
	late := r.worker(at)
	r.wantAgent("another", late)
	r.enrolled(late, "another", "user")
	child := early.do(append([]string{"child"}, hearing(target)...)...)
	if child != "ok ok far side" {
		t.Errorf("a child: %q", child)
	}
	late.want("no EPERM", "hear", "udp", udpTarget)
}

// As sshd does it: somebody has connected, and the process becomes the user who
// logs in. That session goes on; what the process has connected itself does not.
// Nor does a daemon that starts anew end what an agent has made since.
func TestPrivilegedSessionSurvivesThatItsUserIsAnAgent(t *testing.T) {
	const session, unread = serverV4 + ":7122", serverV4 + ":7123"
	r := prepareBareRig(t)
	greeting(t, "", target, "far side")
	repeating(t, unread)
	id := strconv.Itoa(loginUser)
	r.policy(strings.Replace(withAgents(`{name: people, users: ["`+id+`"]}`), "resources:",
		"resources:\n  - {name: unread, protocol: tcp, inspection: none, hosts: [\""+unread+"\"]}", 1))
	r.start()
	at := whereabouts{cgroup: r.cgroupOf("outside")}
	w := r.worker(at)
	w.want("ok", "open", "own", "tcp", target)
	w.want("ok far side", "say", "own", "x")
	check(t, w.tell("accept", "session", "tcp", session))
	var peer net.Conn
	within(t, 5*time.Second, "somebody listens", func() (ok bool) {
		var err error
		peer, err = net.Dial("tcp", session)
		return err == nil
	})
	defer peer.Close()
	if got := w.hear(); got != "ok" {
		t.Fatalf("accept: %q", got)
	}
	goesOn := func() {
		t.Helper()
		_, err := peer.Write([]byte("typed"))
		check(t, err)
		w.want("ok typed", "say", "session", "shown")
	}
	goesOn()
	w.want("ok", "setuid", id)
	w.want("ok far side", hearing(target)...) // by which it becomes an agent
	r.enrolled(w, "people", "user")
	within(t, 5*time.Second, "the end of what it had", func() bool { return r.logHas("connections from before the enrolment ended") })
	w.want("no ECONNABORTED", "say", "own", "x")
	goesOn()
	w.want("ok", "open", "direct", "tcp", unread)
	w.want("ok x", "say", "direct", "x")

	ended := r.counter("sockets_destroyed")
	r.stop()
	r.start()
	another := r.worker(at)
	another.want("ok", "open", "own", "tcp", target)
	another.want("ok", "setuid", id)
	another.want("ok far side", hearing(target)...)
	// The trees from before come first.
	within(t, 5*time.Second, "the end of what another has", func() bool { return r.counter("sockets_destroyed") > 0 })
	another.want("no ECONNABORTED", "say", "own", "x")
	if n := r.counter("sockets_destroyed"); ended != 1 || n != 1 {
		t.Errorf("one daemon ended %d connections, the next %d", ended, n)
	}
	goesOn()
	check(t, peer.Close())
	w.want("ok x", "say", "direct", "x")
}

// repeating says back what it hears.
func repeating(t *testing.T, address string) {
	l, err := net.Listen("tcp", address)
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
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// A rule that is gone enrols nobody any more, and frees nobody.
func TestPrivilegedEnrolmentOutlivesItsRule(t *testing.T) {
	r := newBareRig(t, withAgents(`{name: jobs, cgroups: ["{cgroup}/jobs"]}`))
	greeting(t, "", target, "far side")
	at := whereabouts{cgroup: r.cgroupOf("jobs"), uid: nobody}
	w := r.worker(at)
	r.soonAgent("jobs", 5*time.Second, w)
	r.reload(withAgents(`{name: jobs}`))
	r.wantAgent("jobs", w)
	if err := w.tell("become", r.errand); err != nil {
		t.Fatal(err)
	}
	w.started()
	r.wantAgent("jobs", w)
	r.wantAgent("", r.worker(at))
	// An agent that the policy does not know may do nothing.
	r.reload(withAgents())
	if got := w.do(hearing(target)...); !strings.HasPrefix(got, "no ") {
		t.Errorf("an agent that the policy does not know: %q", got)
	}
}

func TestPrivilegedProcessIsEnrolledByItsPid(t *testing.T) {
	r := newBareRig(t, withAgents())
	greeting(t, "", target, "far side")
	w := r.worker(whereabouts{cgroup: r.cgroupOf("outside"), uid: nobody})
	r.wantAgent("", w)
	w.want("ok", "open", "before", "tcp", target)
	r.cli("enrol", "--socket", r.socket, "--agent", "ci", strconv.Itoa(w.pid)).want(t, 0, "as agent \"ci\"")
	w.want("no ECONNABORTED", "say", "before", "x")
	r.wantAgent("ci", w)
	r.enrolled(w, "ci", "enrol")
	r.cli("enrol", "--socket", r.socket, "--agent", "ci", strconv.Itoa(w.pid)).want(t, 1, "enrolled already")
}
