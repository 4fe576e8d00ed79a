package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/record"
)

// byRule runs the program, or the one that a rule names, in one of the rig's
// cgroups, and leaves it to the rules whether that makes it an agent.
func byRule(name string, uid uint32, argv string) func(*escapes) report {
	return func(e *escapes) report {
		return e.parse(e.treeIn(name, uid, strings.Fields(e.words.Replace(argv))...))
	}
}

// laterCgroup is one that a pattern of the policy stands for, and that was not
// there when the daemon read it.
func laterCgroup(e *escapes) report {
	const name = "by-rule-later"
	check(e.t, os.Mkdir(filepath.Join(e.cgroup, name), 0o755))
	if !e.soon(func() bool { return e.logged("cgroup enrolled", name) }) {
		e.t.Error("the daemon does not say that it enrolled the cgroup")
	}
	return byRule(name, nobody, "{escape} tcp {v4}")(e)
}

// logged tells whether a line of the daemon's log has all of the texts.
func (e *escapes) logged(texts ...string) bool {
	e.t.Helper()
	files, err := filepath.Glob(filepath.Join(e.dir, "daemon-log*"))
	check(e.t, err)
	for _, file := range files {
		log, err := os.ReadFile(file)
		check(e.t, err)
		for line := range strings.Lines(string(log)) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return true
			}
		}
	}
	return false
}

// lateUser is whom a rule names that comes while the processes run.
const lateUser = 4343

// older are processes that were no agents when they made their sockets.
type older map[string]*olderProcess

type olderProcess struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader
}

// olderKinds are the ways of those, and what follows their name.
var olderKinds = [][]string{
	{"older-tcp", "{patient}"}, {"older-udp", "{udp4}"}, {"older-unbound", "{udp4}"},
	{"older-made-tcp", "{v4}"}, {"older-forked", "{v4}"},
}

// olderWay goes on as a process that had what it has when it became an agent.
func olderWay(kind string) func(*escapes) report {
	return func(e *escapes) report {
		if e.older == nil {
			e.startOlder()
		}
		return e.finish(e.older[kind])
	}
}

// startOlder starts all of them, and only then has the policy name their user.
func (e *escapes) startOlder() {
	e.t.Helper()
	row := e.t
	e.t = e.whole // they outlive the row
	defer func() { e.t = row }()
	e.older = older{}
	for _, argv := range olderKinds {
		e.older[argv[0]] = e.prepare(lateUser, argv...)
	}
	path := filepath.Join(e.dir, "policies", "policy.yaml")
	text, err := os.ReadFile(path)
	check(e.t, err)
	late := strings.Replace(string(text), "resources:", fmt.Sprintf("  - {name: late, users: [\"%d\"]}\nresources:", lateUser), 1)
	check(e.t, os.WriteFile(path, []byte(late), 0o644))
	_, err = control.NewClient(e.rig.socket).Reload(e.t.Context())
	check(e.t, err)
	for _, argv := range olderKinds {
		e.enrolledSoon(e.older[argv[0]])
	}
	e.forgetAll()
}

// prepare starts a process that is no agent, and waits until it has its socket.
func (e *escapes) prepare(uid uint32, argv ...string) *olderProcess {
	e.t.Helper()
	dir, err := os.Open(filepath.Join(e.cgroup, "outside"))
	check(e.t, err)
	defer dir.Close()
	cmd := e.command(uid, append([]string{e.program}, strings.Fields(e.words.Replace(strings.Join(argv, " ")))...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cmd.SysProcAttr.Credential, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	p := &olderProcess{cmd: cmd}
	p.in, err = cmd.StdinPipe()
	check(e.t, err)
	out, err := cmd.StdoutPipe()
	check(e.t, err)
	p.lines = bufio.NewReader(out)
	check(e.t, cmd.Start())
	p.wait(e)
	return p
}

func (p *olderProcess) wait(e *escapes) {
	e.t.Helper()
	if text, err := p.lines.ReadString('\n'); text != "ready\n" {
		e.t.Errorf("%v is not ready: %q, %v", p.cmd.Args, text, err)
	}
}

func (p *olderProcess) goOn(e *escapes) {
	e.t.Helper()
	// A process that is gone shows in what it does not say.
	_, _ = io.WriteString(p.in, "go\n")
}

// finish has the process go on and returns its report.
func (e *escapes) finish(p *olderProcess) report {
	e.t.Helper()
	p.goOn(e)
	text, err := io.ReadAll(p.lines)
	check(e.t, err)
	if err := p.cmd.Wait(); err != nil {
		e.t.Errorf("%v: %v", p.cmd.Args, err)
	}
	return e.parse(outcome{text: string(text)})
}

// enrolledSoon waits until the record says that the process is an agent.
func (e *escapes) enrolledSoon(p *olderProcess) {
	e.t.Helper()
	for range 5 { // the daemon looks for running processes every ten seconds
		if e.soon(func() bool { return e.enrolmentOf(p.cmd.Process.Pid) }) {
			return
		}
	}
	e.t.Errorf("%v is not enrolled", p.cmd.Args)
}

func (e *escapes) enrolmentOf(pid int) bool {
	e.t.Helper()
	found := false
	e.entries(func(entry record.Entry) bool {
		var event audit.Enrol
		if entry.Kind == audit.KindEnrol {
			decode(e.t, entry, &event)
			found = int(event.Root.PID) == pid
		}
		return !found
	})
	return found
}

// becoming is a process that no rule names when it makes its socket.
func becoming(uid uint32, argv ...string) func(*escapes) report {
	return func(e *escapes) report {
		p := e.prepare(uid, argv...)
		e.enrolledSoon(p)
		if !e.soon(func() bool {
			return e.logged("connections from before the enrolment ended", fmt.Sprintf(`"pid":%d,`, p.cmd.Process.Pid))
		}) {
			e.t.Errorf("the daemon does not say that it ended what %v had", argv)
		}
		e.forgetAll()
		return e.finish(p)
	}
}

// forgetAll is for contacts of processes that were no agents yet.
func (e *escapes) forgetAll() {
	w := e.witness
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.contacts {
		w.contacts[i].network = forgotten
	}
}

// openNeighbour makes another network namespace, with a way to the witness.
func (e *escapes) openNeighbour() {
	e.t.Helper()
	holder := exec.CommandContext(e.t.Context(), "unshare", "--net", "--", "sleep", "600")
	check(e.t, holder.Start())
	e.t.Cleanup(func() {
		// How it ended does not matter.
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	proc := fmt.Sprintf("/proc/%d", holder.Process.Pid)
	here, err := os.Readlink("/proc/self/ns/net")
	check(e.t, err)
	if !e.soon(func() bool {
		there, err := os.Readlink(proc + "/ns/net")
		return err == nil && there != here
	}) {
		e.t.Fatal("no other network namespace")
	}
	inside := fmt.Sprintf("--net=%s/ns/net", proc)
	for _, line := range []string{
		fmt.Sprintf("ip link add name way0 type veth peer name way1 netns %d", holder.Process.Pid),
		"ip addr add 198.51.100.1/24 dev way0", "ip link set way0 up",
		"nsenter " + inside + " ip addr add 198.51.100.2/24 dev way1", "nsenter " + inside + " ip link set way1 up",
		// A neighbour that says that loopback is there.
		"ip neigh add 127.0.0.1 lladdr 02:00:00:00:00:01 dev way0",
		"nsenter " + inside + " ip link set lo up", "nsenter " + inside + " ip route add default via 198.51.100.1",
	} {
		argv := strings.Fields(line)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			e.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	e.neighbour = proc + "/ns/net"
	e.witness.tables = append(e.witness.tables, proc+"/net/")
}
