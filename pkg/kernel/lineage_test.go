package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/process"
)

func TestPrivilegedDetachedGrandchildIsAttributedAfterItsExit(t *testing.T) {
	f := listening(t, Options{})
	tree := f.follow(t)
	cmd := helper(t, f.jobs, "detach", "1", "198.51.100.7:5432", "[2001:db8::7]:443")
	// The pipe stays open until the last descendant has exited.
	results := outcome(t, cmd)
	wantErrno(t, results, 0)
	for range results {
		s := f.next(t)
		must(t, s.err)
		if int(s.origin.Root.PID) != cmd.Process.Pid || s.origin.Process == s.origin.Root {
			t.Errorf("process %v has root %v, want %d", s.origin.Process, s.origin.Root, cmd.Process.Pid)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		p, err := tree.Wait(ctx, s.origin.Process, s.origin.Exec)
		cancel()
		must(t, err)
		l := p.Lineage()
		if len(l) != 3 || l[2].ID != s.origin.Root || p.Partial {
			t.Fatalf("lineage of %d processes, partial %v", len(l), p.Partial)
		}
		exe, err := os.Executable()
		must(t, err)
		for _, a := range l {
			if !names(a.Image.Exe, exe) || a.Cgroup != s.origin.Cgroup || a.Image.Inode == 0 {
				t.Errorf("ancestor %+v with image %+v, want %s", a, a.Image, exe)
			}
		}
		want := []string{"/proc/self/exe", "198.51.100.7:5432", "[2001:db8::7]:443"}
		if !slices.Equal(p.Image.Argv, want) || p.Image.ArgvTruncated {
			t.Errorf("argv %q, want %q", p.Image.Argv, want)
		}
		if l[1].Image.Argv[1] != "0" || l[2].Image.Argv[1] != "1" {
			t.Errorf("ancestors ran %q and %q", l[1].Image.Argv, l[2].Image.Argv)
		}
	}
}

func TestPrivilegedImageMatchesTheFile(t *testing.T) {
	f := listening(t, Options{})
	tree := f.follow(t)
	long := make([]string, 300)
	for i := range long {
		long[i] = fmt.Sprintf("argument-number-%d", i)
	}
	cmd := helper(t, f.jobs, "serve", long...)
	o := obey(t, cmd)
	if d := o.dial(t, "198.51.100.7:1"); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	s := f.next(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := tree.Wait(ctx, s.origin.Process, s.origin.Exec)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat("/proc/self/exe", &st))
	if p.Image.Inode != st.Ino || p.Image.Device != st.Dev {
		t.Errorf("image is file %d on %x, want %d on %x", p.Image.Inode, p.Image.Device, st.Ino, st.Dev)
	}
	if !p.Image.ArgvTruncated || len(p.Image.Argv) < 200 || p.Image.Argv[1] != long[0] {
		t.Errorf("argv of %d arguments, truncated %v", len(p.Image.Argv), p.Image.ArgvTruncated)
	}
}

func TestPrivilegedUIDRuleEnrols(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	must(t, f.EnrolUID(64123, 9))
	tree := f.follow(t)
	// Under that uid from its first instruction: the rule is met at exec.
	cmd := helper(t, f.jobs, "dial", "198.51.100.7:5432")
	cmd.Path = readable(t)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 64123, Gid: 64123}
	wantErrno(t, outcome(t, cmd), 0)
	s := f.next(t)
	must(t, s.err)
	if s.origin.UID != 64123 || s.origin.Enrolment != 9 || s.origin.Exec == 0 {
		t.Errorf("record %+v", s.origin)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := tree.Wait(ctx, s.origin.Process, s.origin.Exec)
	must(t, err)
	if p.Partial || p.UID != 64123 || !names(p.Image.Exe, cmd.Path) {
		t.Errorf("process %+v with %+v", p, p.Image)
	}
	f.wantCount(t, "enrolled_uid", 1)
	// Another uid in the same cgroup is not concerned, until the rule is gone.
	wantErrno(t, dial(t, f.jobs, fmt.Sprintf("127.0.0.1:%d", f.port)), 0)
	must(t, f.RemoveUID(64123))
	f.wantCount(t, "redirected4", 1)
}

func TestPrivilegedRuleThatCameLaterIsMetAtConnect(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	tree := f.follow(t)
	o := obey(t, helper(t, f.jobs, "serve"))
	if d := o.dial(t, fmt.Sprintf("127.0.0.1:%d", f.port)); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	if s := f.next(t); !errors.Is(s.err, ErrNoOrigin) {
		t.Fatalf("unmediated connection: %v", s.err)
	}
	// A rule for an ancestor of its cgroup.
	id, err := cgroup.ID(f.dir)
	must(t, err)
	must(t, f.EnrolCgroup(id, 3))
	if d := o.dial(t, "198.51.100.7:1"); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	s := f.next(t)
	must(t, s.err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := tree.Wait(ctx, s.origin.Process, 0)
	must(t, err)
	exe, err := os.Executable()
	must(t, err)
	if s.origin.Enrolment != 3 || s.origin.Exec != 0 || p.Image.Exe != exe || !p.Partial {
		t.Errorf("record %+v, process %+v with %+v", s.origin, p, p.Image)
	}
}

func TestPrivilegedNarrowestCgroupRuleWins(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	deep := filepath.Join(f.jobs, "a", "b")
	must(t, cgroup.Create(deep))
	for path, n := range map[string]uint32{f.dir: 1, f.jobs: 2, filepath.Join(f.jobs, "a"): 3} {
		id, err := cgroup.ID(path)
		must(t, err)
		must(t, f.EnrolCgroup(id, n))
	}
	wantErrno(t, dial(t, deep, "198.51.100.7:1"), 0)
	if s := f.next(t); s.origin.Enrolment != 3 {
		t.Errorf("enrolment %d, want that of the nearest ancestor", s.origin.Enrolment)
	}
}

func TestPrivilegedExplicitTreeTakesItsDescendants(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	// A shell with a child that runs already.
	child := helper(t, f.jobs, "serve")
	sh := exec.Command("sh", "-c", `"$0" <&3 & wait`, fmt.Sprintf("/proc/%d/exe", os.Getpid()))
	sh.Env, sh.SysProcAttr = child.Env, child.SysProcAttr
	r, w, err := os.Pipe()
	must(t, err)
	sh.ExtraFiles = []*os.File{r}
	out, err := sh.StdoutPipe()
	must(t, err)
	must(t, sh.Start())
	must(t, r.Close())
	o := &obedient{cmd: sh, in: w, out: json.NewDecoder(out)}
	defer o.end(t)()
	if d := o.dial(t, fmt.Sprintf("127.0.0.1:%d", f.port)); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	childPID := f.next(t).claim.PID

	start, err := ProcStart(sh.Process.Pid)
	must(t, err)
	root, err := f.Enrol(t.Context(), sh.Process.Pid, start, 5)
	must(t, err)
	if !SameStart(root.Start, start) || root.Start == start {
		t.Errorf("start time %d of the root is not exact (/proc says %d)", root.Start, start)
	}
	if d := o.dial(t, "198.51.100.7:1"); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	s := f.next(t)
	must(t, s.err)
	if s.origin.Root != root || s.origin.Enrolment != 5 || int(s.origin.Process.PID) != childPID {
		t.Errorf("record %+v, want process %d in the tree of %v", s.origin, childPID, root)
	}
	if _, err := f.Enrol(t.Context(), sh.Process.Pid, start, 6); !errors.Is(err, ErrEnrolled) {
		t.Errorf("enrolling a member again: %v", err)
	}
	wantSeeds(t, f, root, s.origin.Process)
}

func wantSeeds(t *testing.T, f *fixture, root, child process.ID) {
	t.Helper()
	events, err := f.Seeds()
	must(t, err)
	tree := process.NewTree(100)
	for _, ev := range events {
		must(t, tree.Apply(ev))
	}
	p, ok := tree.Lookup(child, 0)
	if !ok {
		t.Fatalf("the seeds %+v lack %v", events, child)
	}
	l := p.Lineage()
	if len(l) != 2 || l[1].ID != root || len(l[1].Image.Argv) == 0 || l[1].Image.Argv[0] != "sh" {
		t.Errorf("seeded lineage %+v", l)
	}
}

func TestPrivilegedEnrolRefusesAnotherProcess(t *testing.T) {
	f := attach(t, Options{})
	o := obey(t, helper(t, f.jobs, "serve"))
	start, err := ProcStart(o.cmd.Process.Pid)
	must(t, err)
	if _, err := f.Enrol(t.Context(), o.cmd.Process.Pid, start-tick, 1); !errors.Is(err, ErrGone) {
		t.Errorf("enrol with another start time: %v", err)
	}
	if _, err := f.TreeOf(o.cmd.Process.Pid); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("the process is enrolled: %v", err)
	}
	if _, err := f.Enrol(t.Context(), 1<<22+1, start, 1); !errors.Is(err, ErrGone) {
		t.Errorf("enrol of nobody: %v", err)
	}
}

func TestPrivilegedFullTableRefusesTheChild(t *testing.T) {
	f := attach(t, Options{ProcsLimit: 1})
	f.listen(t)
	o := obey(t, helper(t, f.jobs, "fork"))
	must(t, enrolPID(t, f, o.cmd.Process.Pid))
	if d := o.dial(t, "198.51.100.7:1"); d.Errno != unix.EPERM {
		t.Errorf("the child that had no room connects: %v", d.Errno)
	}
	if f.count(t, "procs_full") == 0 || f.count(t, "denied_unmarked") == 0 {
		t.Error("nothing was counted")
	}
	other := obey(t, helper(t, f.jobs, "serve"))
	if err := enrolPID(t, f, other.cmd.Process.Pid); !errors.Is(err, ErrFull) {
		t.Errorf("enrol into a full table: %v", err)
	}
}

func TestPrivilegedEnrolDestroysOlderConnections(t *testing.T) {
	f := attach(t, Options{})
	testenv.Netns(t, func() {
		// An address that is not loopback, and leads nowhere else.
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		addr, err := netlink.ParseAddr("198.51.100.1/32")
		must(t, err)
		must(t, netlink.AddrAdd(lo, addr))
		l, err := net.Listen("tcp4", "198.51.100.1:0")
		must(t, err)
		defer l.Close()
		local, err := net.Listen("tcp4", "127.0.0.1:0")
		must(t, err)
		defer local.Close()

		held, heldOut := hold(t, f, l)
		spared, sparedOut := hold(t, f, local)
		must(t, enrolPID(t, f, held.Process.Pid))
		must(t, enrolPID(t, f, spared.Process.Pid))
		said, err := io.ReadAll(heldOut)
		must(t, err)
		must(t, held.Wait())
		if string(said) != "connection aborted" {
			t.Errorf("the helper read %q from a connection older than its enrolment", said)
		}
		f.wantCount(t, "sockets_destroyed", 1)
		f.wantCount(t, "sockets_kept", 0)
		must(t, spared.Process.Kill())
		if said, err := io.ReadAll(sparedOut); err != nil || len(said) != 0 {
			t.Errorf("a connection to loopback ended with %q", said)
		}
		_ = spared.Wait() // killed
	})
}

func TestPrivilegedEnrolDestroysConnectionsToNamedLoopback(t *testing.T) {
	f := attach(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	held, out := hold(t, f, l)
	must(t, f.SetDestinations([]Destination{{
		Prefix: netip.MustParsePrefix("127.0.0.0/8"), Port: l.Addr().(*net.TCPAddr).AddrPort().Port(), Verdict: Proxy,
	}}))
	must(t, enrolPID(t, f, held.Process.Pid))
	said, err := io.ReadAll(out)
	must(t, err)
	must(t, held.Wait())
	if string(said) != "connection aborted" {
		t.Errorf("the helper read %q from a connection older than its enrolment", said)
	}
}

// A UDP socket that is connected sends without another hook.
func TestPrivilegedEnrolDisconnectsOlderDatagramSockets(t *testing.T) {
	f := attach(t, Options{})
	testenv.Netns(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		addr, err := netlink.ParseAddr("198.51.100.1/32")
		must(t, err)
		must(t, netlink.AddrAdd(lo, addr))
		c, err := net.ListenPacket("udp4", "198.51.100.1:0")
		must(t, err)
		defer c.Close()
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		cmd := helper(t, f.jobs, "stream", c.LocalAddr().String())
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		_, _, err = c.ReadFrom(make([]byte, 16))
		must(t, err)
		must(t, enrolPID(t, f, cmd.Process.Pid))
		must(t, in.Close())
		said, err := io.ReadAll(out)
		must(t, err)
		must(t, cmd.Wait())
		if string(said) == "<nil>" {
			t.Error("a UDP socket that was connected before the enrolment still sends")
		}
		f.wantCount(t, "sockets_destroyed", 1)
	})
}

// streamRole sends a datagram on a connected socket, and another once its input
// ends.
func streamRole(targets []string) error {
	c, err := net.Dial("udp", targets[0])
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("before")); err != nil {
		return err
	}
	if _, err := io.ReadAll(os.Stdin); err != nil {
		return err
	}
	_, err = c.Write([]byte("after"))
	if err == nil {
		// The first may report what happened to the socket.
		_, err = c.Write([]byte("after"))
	}
	_, err = fmt.Print(err)
	return err
}

// hold starts a helper with a connection to l, and leaves it open at this end
// until the test ends.
func hold(t *testing.T, f *fixture, l net.Listener) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := helper(t, f.jobs, "hold", l.Addr().String())
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	c, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return cmd, out
}

func enrolPID(t *testing.T, f *fixture, pid int) error {
	t.Helper()
	id, err := f.StartOf(pid)
	must(t, err)
	_, err = f.Enrol(t.Context(), pid, id.Start, 1)
	return err
}

// readable copies the test binary to where any user may execute it.
func readable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "headgate-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	b, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	path := filepath.Join(dir, "helper")
	must(t, os.WriteFile(path, b, 0o755))
	return path
}

func TestPrivilegedExitForgetsTheProcess(t *testing.T) {
	f := listening(t, Options{})
	for range 3 {
		wantErrno(t, dial(t, f.jobs, "198.51.100.7:1"), 0)
	}
	procs, err := f.enrolled()
	must(t, err)
	if len(procs) != 0 {
		t.Errorf("%d exited processes are still enrolled", len(procs))
	}
}

func TestPrivilegedEntryOfAnEarlierProcessDoesNotCount(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	o := obey(t, helper(t, f.jobs, "serve"))
	id, err := f.StartOf(o.cmd.Process.Pid)
	must(t, err)
	must(t, f.maps.Procs.Put(id.PID, bpf.HeadgateProc{Start: id.Start - 1, RootTgid: id.PID, RootStart: id.Start - 1}))
	if d := o.dial(t, fmt.Sprintf("127.0.0.1:%d", f.port)); d.Errno != 0 {
		t.Errorf("a process is mediated for what an earlier one with its pid was: %v", d.Errno)
	}
	if _, err := f.TreeOf(o.cmd.Process.Pid); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("the process is enrolled: %v", err)
	}
	// Enrolling it replaces the entry.
	must(t, enrolPID(t, f, o.cmd.Process.Pid))
	if d := o.dial(t, fmt.Sprintf("127.0.0.1:%d", f.port)); d.Errno != unix.EPERM {
		t.Errorf("the enrolled process is not mediated: %v", d.Errno)
	}
}

func TestPrivilegedReusedPidInheritsNoMark(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	// As if every pid but ours had belonged to an enrolled process whose exit
	// nobody saw.
	var all bpf.HeadgateMarks
	for i := range all.Of {
		all.Of[i] = 1
	}
	ours := uint32(os.Getpid())
	for line := range f.maps.Marked.MaxEntries() {
		marks := all
		if line == ours/uint32(len(all.Of)) {
			marks.Of[ours%uint32(len(all.Of))] = 0
		}
		must(t, f.maps.Marked.Put(line, marks))
	}
	wantErrno(t, dial(t, f.jobs, fmt.Sprintf("127.0.0.1:%d", f.port)), 0)
	f.wantCount(t, "denied_unmarked", 0)
}

// names reports whether the kernel's path is that of our file. The kernel's
// begins at the root of the mount namespace, which in a changed root is above
// ours.
func names(kernels, ours string) bool { return strings.HasSuffix(kernels, ours) }
