package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
)

const (
	insideV4 = "198.51.100.7"
	insideV6 = "2001:db8:1::7"
)

const namespacePolicy = `
version: 1
agents: [{name: ci}]
resources:
  - {name: opaque, protocol: tcp, hosts: ["192.0.2.10:7107", "198.51.100.7:7107", "[2001:db8:1::7]:7107"]}
  - {name: names, protocol: dns, names: ["*"]}
rules:
  - {name: work, effect: allow, resources: ["*"], operations: ["*"]}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// namespace makes a network namespace that has the addresses on its loopback,
// and returns its file.
func namespace(t *testing.T, name string, addresses ...string) string {
	t.Helper()
	name = fmt.Sprintf("headgate-%d-%s", os.Getpid(), name)
	ip(t, "netns", "add", name)
	t.Cleanup(func() {
		// A test may have removed it.
		_ = exec.Command("ip", "netns", "del", name).Run()
	})
	ip(t, "-n", name, "link", "set", "lo", "up")
	for _, a := range addresses {
		ip(t, "-n", name, "addr", "add", a, "dev", "lo", "nodad")
	}
	return filepath.Join("/run/netns", name)
}

// inside runs f in a network namespace, or where the test is.
func inside(t *testing.T, path string, f func() error) {
	t.Helper()
	if path == "" {
		check(t, f())
		return
	}
	ns, err := os.Open(path)
	check(t, err)
	defer ns.Close()
	check(t, kernel.InNamespace(ns, f))
}

// entering is the prefix of a command that runs in a network namespace.
func entering(ns string) []string { return []string{"nsenter", "--net=" + ns, "--"} }

// An agent in a network namespace of its own is mediated there, and reaches what
// its addresses mean there.
func TestPrivilegedAgentInANamespaceReachesWhatIsInside(t *testing.T) {
	r := newBareRig(t, namespacePolicy)
	one := namespace(t, "one", serverV4+"/32", insideV4+"/32", insideV6+"/128")
	two := namespace(t, "two", serverV4+"/32", insideV4+"/32")
	for ns, text := range map[string]string{"": "home", one: "one", two: "two"} {
		greeting(t, ns, serverV4+":7107", text)
		if ns != "" {
			greeting(t, ns, insideV4+":7107", text)
		}
	}
	greeting(t, one, "["+insideV6+"]:7107", "one six")
	greeting(t, one, serverV4+":7999", "not for agents")

	home := r.worker(whereabouts{run: "ci"})
	first := r.worker(whereabouts{run: "ci"}, entering(one)...)
	second := r.worker(whereabouts{run: "ci"}, entering(two)...)
	for w, text := range map[*worker]string{home: "home", first: "one", second: "two"} {
		w.wantSoon("ok "+text, "no EPERM", hearing(serverV4+":7107")...)
	}
	first.want("ok one", hearing(insideV4+":7107")...)
	second.want("ok two", hearing(insideV4+":7107")...)
	first.want("ok one six", hearing("["+insideV6+"]:7107")...)
	// Denied there as anywhere.
	if got := first.do(hearing(serverV4 + ":7999")...); !strings.HasPrefix(got, "no ") {
		t.Errorf("what no resource names: %q", got)
	}
	// What is not there is not looked for elsewhere.
	if got := home.do(hearing(insideV4 + ":7107")...); !strings.HasPrefix(got, "no ") {
		t.Errorf("an address of another namespace: %q", got)
	}
	spaces := map[uint64]bool{}
	for _, w := range []*worker{home, first, second} {
		open := r.opened(w.pid, serverV4+":7107")
		spaces[open.Origin.Netns] = true
		if open.Agent != "ci" || open.Resource != "opaque" || len(open.Lineage) == 0 || int(open.Lineage[0].ID.PID) != w.pid {
			t.Errorf("the record of pid %d: %+v", w.pid, open)
		}
	}
	if len(spaces) != 3 {
		t.Errorf("the record has the namespaces %v", spaces)
	}
}

func hearing(address string) []string { return []string{"hear", "tcp", address} }

// What the daemon has open in a namespace must not keep it alive.
func TestPrivilegedNamespaceIsGivenUpAfterItsLastProcess(t *testing.T) {
	r := newBareRig(t, namespacePolicy)
	ns := namespace(t, "left", insideV4+"/32")
	inode := inodeOf(t, ns)
	stop := greeting(t, ns, insideV4+":7107", "inside")
	w := r.worker(whereabouts{run: "ci"}, entering(ns)...)
	w.wantSoon("ok inside", "no EPERM", hearing(insideV4+":7107")...)
	if !r.daemonHolds(inode) {
		t.Fatal("the daemon has nothing open in a namespace that it serves")
	}
	w.stop()
	stop()
	within(t, 40*time.Second, "namespace given up", func() bool { return !r.daemonHolds(inode) })
	if !r.logHas("network namespace is no longer served") {
		t.Error("the log does not say that the namespace was given up")
	}
	// And entered again it is served again.
	greeting(t, ns, insideV4+":7107", "again")
	again := r.worker(whereabouts{run: "ci"}, entering(ns)...)
	again.wantSoon("ok again", "no EPERM", hearing(insideV4+":7107")...)
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Stat(path, &st))
	return st.Ino
}

// daemonHolds tells whether the daemon has the namespace open.
func (r *bareRig) daemonHolds(inode uint64) bool {
	r.t.Helper()
	return slices.Contains(r.descriptors(), fmt.Sprintf("net:[%d]", inode))
}

// descriptors lists what the daemon has open.
func (r *bareRig) descriptors() []string {
	r.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", r.daemon.Process.Pid)
	entries, err := os.ReadDir(dir)
	check(r.t, err)
	var list []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		check(r.t, err)
		list = append(list, target)
	}
	return list
}

// logHas tells whether the daemon's log has a text.
func (r *bareRig) logHas(text string) bool {
	r.t.Helper()
	logs, err := filepath.Glob(filepath.Join(r.dir, "daemon-log*"))
	check(r.t, err)
	for _, path := range logs {
		b, err := os.ReadFile(path)
		check(r.t, err)
		if strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}

// Where somebody else has the proxy's port agents are refused, and the record
// says so.
func TestPrivilegedNamespaceWithoutAProxyRefuses(t *testing.T) {
	r := newBareRig(t, namespacePolicy)
	ns := namespace(t, "taken", insideV4+"/32")
	greeting(t, ns, insideV4+":7107", "inside")
	status, err := control.NewClient(r.socket).Status(t.Context())
	check(t, err)
	leave := greeting(t, ns, fmt.Sprintf("127.0.0.1:%d", status.Port), "somebody else")
	w := r.worker(whereabouts{run: "ci"}, entering(ns)...)
	for range 3 {
		w.want("no EPERM", hearing(insideV4+":7107")...)
	}
	e := r.refusal(w.pid, "no_listener", insideV4+":7107", false)
	if e.Agent != "ci" || len(e.Lineage) == 0 {
		t.Errorf("the event: %+v", e)
	}
	leave()
	w.wantSoon("ok inside", "no EPERM", hearing(insideV4+":7107")...)
	r.opened(w.pid, insideV4+":7107")
}

// An unprivileged agent can make itself a namespace; it is an agent there too.
func TestPrivilegedOwnUserNamespaceIsNoWayOut(t *testing.T) {
	r := newBareRig(t, namespacePolicy)
	greeting(t, "", serverV4+":7107", "home")
	w := r.worker(whereabouts{run: "ci", uid: nobody}, "unshare", "--user", "--map-root-user", "--net", "--",
		"sh", "-c", "ip link set lo up && ip addr add "+insideV4+"/32 dev lo && exec \"$@\"", "sh")
	// There is nothing inside; what matters is that the daemon was asked, and from where it dialled.
	within(t, 15*time.Second, "a session of an agent in its own namespace", func() bool {
		got := w.do(hearing(insideV4 + ":7107")...)
		if strings.HasPrefix(got, "ok") {
			t.Fatalf("somebody answered: %q", got)
		}
		return got != "no EPERM"
	})
	open := r.opened(w.pid, insideV4+":7107")
	if open.Origin.UID != nobody {
		t.Errorf("uid %d in the record", open.Origin.UID)
	}
	// The host's server is not there.
	if got := w.do(hearing(serverV4 + ":7107")...); !strings.HasPrefix(got, "no ") {
		t.Errorf("from an empty namespace: %q", got)
	}
}

func TestPrivilegedNamespaceWithoutIPv6IsServed(t *testing.T) {
	r := newBareRig(t, namespacePolicy)
	ns := namespace(t, "four", insideV4+"/32")
	name := filepath.Base(ns)
	for _, which := range []string{"all", "lo"} {
		if out, err := exec.Command("ip", "netns", "exec", name, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/"+which+"/disable_ipv6").CombinedOutput(); err != nil {
			t.Fatalf("disable IPv6: %v\n%s", err, out)
		}
	}
	greeting(t, ns, insideV4+":7107", "four")
	w := r.worker(whereabouts{run: "ci"}, entering(ns)...)
	w.wantSoon("ok four", "no EPERM", hearing(insideV4+":7107")...)
	w.wantSoon("ok four", "no EPERM", hearing("[::ffff:"+insideV4+"]:7107")...)
	if got := w.do(hearing("[" + insideV6 + "]:7107")...); !strings.HasPrefix(got, "no ") {
		t.Errorf("IPv6 where there is none: %q", got)
	}
}

// Jobs that come and go, each in its namespace, must not use up the daemon.
func TestPrivilegedManyNamespacesLeaveNothing(t *testing.T) {
	const many = 50
	r := newBareRig(t, namespacePolicy)
	before := len(r.descriptors())
	served := map[uint64]bool{}
	for i := range many {
		ns := namespace(t, fmt.Sprintf("job%d", i), insideV4+"/32")
		served[inodeOf(t, ns)] = true
		stop := greeting(t, ns, insideV4+":7107", "job")
		w := r.worker(whereabouts{run: "ci"}, entering(ns)...)
		w.wantSoon("ok job", "no EPERM", hearing(insideV4+":7107")...)
		w.stop()
		stop()
		ip(t, "netns", "del", filepath.Base(ns))
	}
	within(t, time.Minute, "all given up", func() bool {
		for _, d := range r.descriptors() {
			var inode uint64
			if n, err := fmt.Sscanf(d, "net:[%d]", &inode); err == nil && n == 1 && served[inode] {
				return false
			}
		}
		return true
	})
	// Descriptors of sessions that are about to close come and go.
	within(t, 10*time.Second, "no more descriptors than before", func() bool { return len(r.descriptors()) <= before+2 })
}
