package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/process"
)

// grow starts a helper that starts descendants on demand.
func grow(t *testing.T, f *fixture) (*obedient, func() int) {
	t.Helper()
	return growing(t, helper(t, f.jobs, "grow"))
}

func growing(t *testing.T, cmd *exec.Cmd) (*obedient, func() int) {
	t.Helper()
	o := obey(t, cmd)
	return o, func() int {
		t.Helper()
		_, err := fmt.Fprint(o.in, "+")
		must(t, err)
		var pid int
		must(t, o.out.Decode(&pid))
		return pid
	}
}

func TestPrivilegedMarkedDescendantJoinsNoOtherTree(t *testing.T) {
	f := attach(t, Options{ProcsLimit: 1})
	o, next := grow(t, f)
	must(t, enrolPID(t, f, o.cmd.Process.Pid))
	child := next() // finds no room
	if _, err := f.TreeOf(child); !errors.Is(err, ErrFull) {
		t.Errorf("tree of a descendant without room: %v", err)
	}
	// Now there is room.
	must(t, f.maps.Procs.Delete(uint32(o.cmd.Process.Pid)))
	if err := enrolPID(t, f, child); !errors.Is(err, ErrEnrolled) {
		t.Errorf("a descendant of a tree joins another: %v", err)
	}
	if _, err := f.TreeOf(os.Getpid()); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("tree of a process that is free: %v", err)
	}
}

func TestPrivilegedEnrolIntoAFullTableLeavesNobodyFree(t *testing.T) {
	for room, refused := range []int{4, 3, 2} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			f := attach(t, Options{ProcsLimit: uint32(room + 1)})
			f.listen(t)
			// Somebody who takes the first place.
			first := obey(t, helper(t, f.jobs, "serve"))
			must(t, enrolPID(t, f, first.cmd.Process.Pid))
			o, next := grow(t, f)
			pids := []int{o.cmd.Process.Pid, next(), next(), next()}
			if err := enrolPID(t, f, pids[0]); !errors.Is(err, ErrFull) {
				t.Errorf("enrol: %v", err)
			}
			var full int
			for _, pid := range pids {
				_, err := f.TreeOf(pid)
				if errors.Is(err, ErrFull) {
					full++
				} else if err != nil {
					t.Errorf("process %d is free: %v", pid, err)
				}
			}
			if full != refused {
				t.Errorf("%d of the tree's processes have no room, want %d", full, refused)
			}
			// What they fork from now on is refused as well.
			if _, err := f.TreeOf(next()); !errors.Is(err, ErrFull) {
				t.Errorf("a child after the enrolment: %v", err)
			}
		})
	}
}

func TestPrivilegedRootWithoutRoomIsRefused(t *testing.T) {
	f := attach(t, Options{ProcsLimit: 1})
	f.listen(t)
	first := obey(t, helper(t, f.jobs, "serve"))
	must(t, enrolPID(t, f, first.cmd.Process.Pid))
	o := obey(t, helper(t, f.jobs, "serve"))
	if d := o.dial(t, fmt.Sprintf("127.0.0.1:%d", f.port)); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	if err := enrolPID(t, f, o.cmd.Process.Pid); !errors.Is(err, ErrFull) {
		t.Errorf("enrol: %v", err)
	}
	if d := o.dial(t, "198.51.100.7:5432"); d.Errno != unix.EPERM {
		t.Errorf("a process that there was no room for connects: %v", d.Errno)
	}
	f.wantCount(t, "denied_unmarked", 1)
}

func TestPrivilegedMarkLeavesItsNeighboursAlone(t *testing.T) {
	f := attach(t, Options{})
	neighbours := bpf.HeadgateMarks{}
	neighbours.Of[0], neighbours.Of[63] = 1, 1
	must(t, f.maps.Marked.Put(uint32(100), neighbours))
	must(t, f.marks.set(100*64+7))
	neighbours.Of[7] = 1
	var got bpf.HeadgateMarks
	must(t, f.maps.Marked.Lookup(uint32(100), &got))
	if got != neighbours {
		t.Errorf("the line of marks is %v", got)
	}
	for pid, want := range map[uint32]bool{100*64 + 7: true, 100*64 + 8: false, 101*64 - 1: true} {
		if got, err := f.marks.has(pid); got != want || err != nil {
			t.Errorf("mark of %d: %v (%v), want %v", pid, got, err, want)
		}
	}
	if err := f.marks.set(1 << 22); err == nil {
		t.Error("a pid beyond the table is marked")
	}
	if _, err := f.marks.has(1 << 22); err == nil {
		t.Error("a pid beyond the table has a mark to read")
	}
}

func TestPrivilegedEnrolDestroysTheConnectionOfAThreadWithItsOwnFiles(t *testing.T) {
	f := attach(t, Options{})
	testenv.Netns(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		addr, err := netlink.ParseAddr("198.51.100.1/32")
		must(t, err)
		must(t, netlink.AddrAdd(lo, addr))
		l, err := net.Listen("tcp4", "198.51.100.1:0")
		must(t, err)
		defer l.Close()
		cmd := helper(t, f.jobs, "thread", l.Addr().String())
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		c, err := l.Accept()
		must(t, err)
		defer c.Close()
		must(t, enrolPID(t, f, cmd.Process.Pid))
		// Unless its connection was destroyed it reads until this end closes.
		destroyed := f.count(t, "sockets_destroyed")
		must(t, c.Close())
		said, err := io.ReadAll(out)
		must(t, err)
		must(t, cmd.Wait())
		if destroyed != 1 || string(said) != "connection aborted" {
			t.Errorf("%d sockets were destroyed, and the thread read %q", destroyed, said)
		}
		f.wantCount(t, "sockets_kept", 0)
	})
}

func TestPrivilegedTreeIsGatheredInOneCgroup(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	// As where the hooks are attached below the root: what runs elsewhere is not
	// mediated.
	outside := testenv.Cgroup(t)
	cmd := helper(t, outside, "grow")
	_, next := growing(t, cmd)
	pids := []int{cmd.Process.Pid, next(), next()}
	id, err := f.StartOf(cmd.Process.Pid)
	must(t, err)
	root, err := f.Enrol(t.Context(), cmd.Process.Pid, id.Start, 1)
	must(t, err)
	members, err := f.Members(root)
	must(t, err)
	var found []int
	for _, m := range members {
		found = append(found, int(m.PID))
	}
	slices.Sort(found)
	slices.Sort(pids)
	if !slices.Equal(found, pids) {
		t.Errorf("members %v, want %v", found, pids)
	}
	if others, err := f.Members(process.ID{PID: root.PID, Start: root.Start - 1}); err != nil || len(others) != 0 {
		t.Errorf("a tree of nobody has the members %v (%v)", others, err)
	}
	// An entry of a process that has gone, and whose pid is ours now: we stay.
	ours, err := f.StartOf(os.Getpid())
	must(t, err)
	stale := bpf.HeadgateProc{Start: ours.Start - tick, RootStart: root.Start, RootTgid: root.PID}
	must(t, f.maps.Procs.Put(ours.PID, stale))
	must(t, f.Gather(t.Context(), root, f.jobs))
	want := "/" + filepath.Join(filepath.Base(f.dir), "jobs")
	for _, pid := range pids {
		if path, err := cgroup.Of(pid); err != nil || path != want {
			t.Errorf("process %d is in cgroup %s (%v), want %s", pid, path, err, want)
		}
	}
	if path, err := cgroup.Of(0); err != nil || filepath.Base(path) != "daemon" {
		t.Errorf("a process that is no member was moved to %s (%v)", path, err)
	}
}

func TestPrivilegedGatheredProcessLosesItsOlderConnections(t *testing.T) {
	f := attach(t, Options{})
	testenv.Netns(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		addr, err := netlink.ParseAddr("198.51.100.1/32")
		must(t, err)
		must(t, netlink.AddrAdd(lo, addr))
		l, err := net.Listen("tcp4", "198.51.100.1:0")
		must(t, err)
		defer l.Close()
		outside := testenv.Cgroup(t)
		o := obey(t, helper(t, outside, "serve"))
		must(t, enrolPID(t, f, o.cmd.Process.Pid))
		// Out of reach of the hooks, though enrolled.
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				accepted <- c
			}
		}()
		_, err = fmt.Fprintln(o.in, l.Addr())
		must(t, err)
		c := <-accepted
		defer c.Close()
		root, err := f.StartOf(o.cmd.Process.Pid)
		must(t, err)
		must(t, f.Gather(t.Context(), root, f.jobs))
		f.wantCount(t, "sockets_destroyed", 1)
		must(t, c.Close())
		var d dialed
		must(t, o.out.Decode(&d))
		if d.Errno != unix.ECONNABORTED {
			t.Errorf("the connection ended with %v", d.Errno)
		}
	})
}

func TestPrivilegedAliveListsWhoLives(t *testing.T) {
	f := attach(t, Options{})
	before, err := bootTime()
	must(t, err)
	cmd := helper(t, f.jobs, "serve")
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	child, err := f.StartOf(cmd.Process.Pid)
	must(t, err)
	ours, err := f.StartOf(os.Getpid())
	must(t, err)
	alive, asOf, err := f.Alive()
	must(t, err)
	if !alive[child] || !alive[ours] || asOf <= before || asOf < child.Start {
		t.Errorf("as of %d: child %v, ourselves %v", asOf, alive[child], alive[ours])
	}
	must(t, in.Close())
	must(t, cmd.Wait())
	alive, _, err = f.Alive()
	must(t, err)
	if alive[child] || !alive[ours] {
		t.Errorf("after its exit: child %v, ourselves %v", alive[child], alive[ours])
	}
}
