package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

func TestPrivilegedPinsEnforceAfterTheDaemon(t *testing.T) {
	pins := filepath.Join(testenv.BPFFS(t), "headgate")
	f := listening(t, Options{PinDir: pins})
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
	o := obey(t, helper(t, f.jobs, "serve"))

	f.stop()
	must(t, f.Kernel.Close())
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432", "[2001:db8::7]:443", "169.254.169.254:80"), unix.EPERM)

	// Twice: once over links of an earlier daemon, once over updated ones.
	for range 2 {
		f.open(t, Options{CgroupPath: f.dir, PinDir: pins})
		f.wantInflight(t, 0)
		f.listen(t)
		for len(f.served) > 0 {
			<-f.served
		}
		if d := o.dial(t, "198.51.100.7:5432"); d.Errno != 0 {
			t.Fatalf("connect after the daemon came back: %v", d.Errno)
		}
		s := f.next(t)
		must(t, s.err)
		if int(s.origin.Root.PID) != o.cmd.Process.Pid {
			t.Errorf("the process lost its tree: %+v", s.origin)
		}
		wantOneLinkEach(t, f)
		f.stop()
		must(t, f.Kernel.Close())
	}
	f.open(t, Options{CgroupPath: f.dir, PinDir: pins})
	must(t, f.Detach())
	wantEmpty(t, filepath.Dir(pins))
}

// wantOneLinkEach makes sure that no program runs twice.
func wantOneLinkEach(t *testing.T, f *fixture) {
	t.Helper()
	before := f.count(t, "redirected4")
	wantErrno(t, dial(t, f.jobs, "198.51.100.9:1"), 0)
	must(t, f.next(t).err)
	if got := f.count(t, "redirected4"); got != before+1 {
		t.Errorf("one connection was redirected %d times", got-before)
	}
	if n := f.count(t, "storage_failed"); n != 0 {
		t.Errorf("storage failed %d times", n)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	for _, name := range pinned(t, dir) {
		t.Errorf("%s is left in %s", name, dir)
	}
}

// pinned lists a BPF file system without what the kernel puts there itself.
func pinned(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".debug") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestPrivilegedDetachRestores(t *testing.T) {
	fs := testenv.BPFFS(t)
	pins := filepath.Join(fs, "headgate")
	f := listening(t, Options{PinDir: pins})
	// What somebody else pinned beside us is none of our business.
	must(t, os.Mkdir(filepath.Join(fs, "other"), 0o700))
	o := obey(t, helper(t, f.jobs, "serve"))
	if d := o.dial(t, "198.51.100.7:1"); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	must(t, f.next(t).err)
	must(t, f.Detach())
	if d := o.dial(t, fmt.Sprintf("127.0.0.1:%d", f.port)); d.Errno != 0 {
		t.Errorf("the process is still mediated: %v", d.Errno)
	}
	if s := f.next(t); s.err == nil {
		t.Error("the connection has an origin still")
	}
	if left := pinned(t, fs); !slices.Equal(left, []string{"other"}) {
		t.Errorf("left behind: %v", left)
	}
}

func TestPrivilegedUninstallRemovesWhatADeadDaemonLeft(t *testing.T) {
	fs := testenv.BPFFS(t)
	pins := filepath.Join(fs, "headgate")
	must(t, Uninstall(pins)) // nothing is there
	f := listening(t, Options{PinDir: pins})
	if err := Uninstall(pins); !errors.Is(err, ErrBusy) {
		t.Errorf("uninstall under a running daemon: %v", err)
	}
	if _, err := Open(Options{CgroupPath: f.dir, PinDir: pins}); !errors.Is(err, ErrBusy) {
		t.Errorf("a second daemon: %v", err)
	}
	must(t, f.Kernel.Close())
	must(t, Uninstall(pins))
	wantEmpty(t, fs)
	wantErrno(t, dial(t, f.jobs, fmt.Sprintf("127.0.0.1:%d", f.port)), 0)
}

func TestPrivilegedOtherLayoutIsRefusedAndKept(t *testing.T) {
	f := attach(t, Options{})
	pins := filepath.Join(testenv.BPFFS(t), "headgate")
	dir := filepath.Join(pins, abi)
	must(t, os.MkdirAll(dir, 0o700))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 40, MaxEntries: 16})
	must(t, err)
	defer m.Close()
	theirs := filepath.Join(dir, bpf.HeadgateMapInflight)
	must(t, m.Pin(theirs))
	if _, err := Open(Options{CgroupPath: f.dir, PinDir: pins}); !errors.Is(err, ErrABI) {
		t.Errorf("open over a map of another layout: %v", err)
	}
	if left := pinned(t, dir); !slices.Equal(left, []string{bpf.HeadgateMapInflight}) {
		t.Errorf("after the refusal there is %v, want only the map of the other layout", left)
	}
	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(filepath.Join(pins, "v0"), 0o700))
	if _, err := Open(Options{CgroupPath: f.dir, PinDir: pins}); !errors.Is(err, ErrABI) {
		t.Errorf("open beside another version: %v", err)
	}
}

func TestPrivilegedRemovedCgroupIsAttachedAnew(t *testing.T) {
	pins := filepath.Join(testenv.BPFFS(t), "headgate")
	old := testenv.Cgroup(t)
	gone := filepath.Join(old, "gone")
	must(t, cgroup.Create(gone))
	k, err := Open(Options{CgroupPath: gone, PinDir: pins})
	must(t, err)
	must(t, k.Close())
	must(t, cgroup.Remove(gone))
	f := listening(t, Options{PinDir: pins})
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:1"), 0)
	must(t, f.next(t).err)
	must(t, f.Detach())
}

func TestPrivilegedPinsNeedABPFFileSystem(t *testing.T) {
	f := attach(t, Options{})
	if k, err := Open(Options{CgroupPath: f.dir, PinDir: t.TempDir()}); err == nil {
		must(t, k.Detach())
		t.Error("pins on an ordinary file system are taken for pins")
	}
}

func TestPrivilegedPinsThatWereTakenAwayComeBack(t *testing.T) {
	pins := filepath.Join(testenv.BPFFS(t), "headgate")
	f := listening(t, Options{PinDir: pins})
	link, table := f.pins.link(bpf.HeadgateProgHeadgateConnect4), filepath.Join(f.pins.dir, bpf.HeadgateMapProcs)
	must(t, os.Remove(link))
	must(t, os.Remove(table))
	faults := func() (all []string) {
		links, err := f.Links()
		must(t, err)
		for _, l := range links {
			if l.Fault != nil {
				all = append(all, l.Program+": "+l.Fault.Error())
			}
		}
		return all
	}
	if got := faults(); len(got) != 1 || !strings.HasPrefix(got[0], "headgate_connect4: its pin was removed") {
		t.Errorf("without its pin: %q", got)
	}
	restored, err := f.Repin()
	must(t, err)
	slices.Sort(restored)
	if want := []string{filepath.Base(link), filepath.Base(table)}; !slices.Equal(restored, want) {
		t.Errorf("restored %q, want %q", restored, want)
	}
	if got := faults(); len(got) != 0 {
		t.Errorf("with its pin back: %q", got)
	}
	f.wantCount(t, "pins_restored", 2)
}
