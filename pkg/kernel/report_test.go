package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

func TestEveryProgramIsPartOfOneCapability(t *testing.T) {
	spec, err := bpf.LoadHeadgate()
	must(t, err)
	seen := map[string]int{}
	for _, f := range features {
		for _, name := range f.judge(spec, nil, nil).Programs {
			seen[name]++
		}
	}
	for _, name := range append(judgeTyped(nil).Programs, judgeRaw(nil).Programs...) {
		seen[name]++
	}
	for name := range spec.Programs {
		if seen[name] != 1 {
			t.Errorf("%s is part of %d capabilities", name, seen[name])
		}
	}
	if len(seen) != len(spec.Programs) {
		t.Errorf("%d programs are named, the object has %d", len(seen), len(spec.Programs))
	}
}

func TestCountersOfProgramsExist(t *testing.T) {
	spec, err := bpf.LoadHeadgate()
	must(t, err)
	names, err := counterNames(spec)
	must(t, err)
	for program, counters := range countersOf {
		for _, c := range counters {
			if spec.Programs[program] == nil || !slices.Contains(names, c) {
				t.Errorf("%s counts %s", program, c)
			}
		}
	}
}

func TestWhatDoesNotLoadIsOptionalOnlyIfOpenDoesWithout(t *testing.T) {
	refused := map[string]error{
		bpf.HeadgateProgHeadgateConnectUnix: unix.EINVAL, bpf.HeadgateProgHeadgateConnect4: unix.EINVAL, bpf.HeadgateProgHeadgateForkRaw: unix.EINVAL,
	}
	spec, err := bpf.LoadHeadgate()
	must(t, err)
	lost := []Loss{{Program: bpf.HeadgateProgHeadgateConnectUnix, Open: "sockets", Remedy: "permissions"}}
	for _, f := range features {
		c := f.judge(spec, refused, lost)
		switch f.name {
		case "cgroup/connect_unix":
			if c.State != Missing || !c.Optional || c.Open != "sockets" || c.Remedy != "permissions" {
				t.Errorf("a loss that Open takes: %+v", c)
			}
		case "cgroup/connect":
			if c.State != Missing || c.Optional || c.Open != noStart || !strings.Contains(c.Detail, "headgate_connect4") {
				t.Errorf("what Open needs: %+v", c)
			}
		default:
			if c.State != Present {
				t.Errorf("what loads: %+v", c)
			}
		}
	}
	if c := judgeRaw(refused); c.State != Missing || !c.Optional {
		t.Errorf("one form of two: %+v", c)
	}
	refused[bpf.HeadgateProgHeadgateFork] = unix.EINVAL
	if c := judgeRaw(refused); c.State != Missing || c.Optional {
		t.Errorf("neither form: %+v", c)
	}
}

// What cannot be had on the machine of the tests is what Open finds too.
func TestPrivilegedProbeSaysWhatOpenFinds(t *testing.T) {
	f := attach(t, Options{})
	var lost []string
	for _, l := range f.Lost() {
		lost = append(lost, l.Open)
	}
	before := linksTo(t, f.dir)
	for _, c := range Probe(Options{CgroupPath: f.dir, PinDir: "/sys/fs/bpf/headgate-none"}) {
		t.Logf("%-20s %d optional=%v %s (%v)", c.Name, c.State, c.Optional, c.Detail, c.Cause)
		if c.State == Missing != (c.Cause != nil) {
			t.Errorf("%s: state %d, cause %v", c.Name, c.State, c.Cause)
		}
		if c.State == Missing && !slices.Contains(lost, c.Open) && !strings.HasPrefix(c.Name, "cgroup2") {
			t.Errorf("%s is missing, and Open did not lose it: %v", c.Name, c.Cause)
		}
		lost = slices.DeleteFunc(lost, func(open string) bool { return c.State == Missing && open == c.Open })
	}
	if len(lost) > 0 {
		t.Errorf("Open lost what is not missing: %q", lost)
	}
	if after := linksTo(t, f.dir); !slices.Equal(before, after) {
		t.Errorf("attached before: %v, after: %v", before, after)
	}
	if _, err := os.Stat("/sys/fs/bpf/headgate-none"); err == nil {
		t.Error("probing made a directory of pins")
	}
}

// linksTo lists the numbers of the links to a cgroup.
func linksTo(t *testing.T, dir string) []link.ID {
	t.Helper()
	fd, err := os.Open(dir)
	must(t, err)
	defer fd.Close()
	var ids []link.ID
	for _, h := range cgroupHooks {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(fd.Fd()), Attach: h.attach})
		if errors.Is(err, unix.EINVAL) {
			continue // a hook that this kernel does not have
		}
		must(t, err)
		for _, p := range result.Programs {
			id, _ := p.LinkID()
			ids = append(ids, id)
		}
	}
	return ids
}

func TestPrivilegedExclusiveProgramIsFoundAtTheAttachPointAndAboveIt(t *testing.T) {
	privileges(t)
	dir := testenv.Cgroup(t)
	below := filepath.Join(dir, "job")
	must(t, os.Mkdir(below, 0o755))
	t.Cleanup(func() { must(t, os.Remove(below)) })
	if c := probeAttachPoint(below); c.State != Present {
		t.Fatalf("an empty cgroup: %+v", c)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer p.Close()
	fd, err := os.Open(dir)
	must(t, err)
	defer fd.Close()
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(fd.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect}))
	defer func() {
		must(t, link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(fd.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect}))
	}()
	for _, path := range []string{dir, below} {
		c := probeAttachPoint(path)
		if c.State != Missing || !strings.Contains(c.Cause.Error(), "allows none beside it") {
			t.Errorf("%s: %+v", path, c)
		}
		if k, err := Open(Options{CgroupPath: path}); err == nil {
			t.Errorf("%s: attached all the same (%v)", path, k.Close())
		}
	}
}

func TestPrivilegedLinkThatWasTakenAwayIsFound(t *testing.T) {
	f := attach(t, Options{})
	infos, err := f.Links()
	must(t, err)
	for _, l := range infos {
		if l.Fault != nil || l.ID == 0 || l.AtRoot || l.Cgroup != 0 && l.Cgroup != f.cgroupID {
			t.Errorf("healthy link: %+v", l)
		}
	}
	i := slices.IndexFunc(f.links, func(a attachment) bool { return a.program == bpf.HeadgateProgHeadgateConnect4 })
	must(t, f.links[i].link.Detach())
	infos, err = f.Links()
	must(t, err)
	for j, l := range infos {
		if (l.Fault != nil) != (i == j) {
			t.Errorf("%s after connect4 was detached: %v", l.Program, l.Fault)
		}
	}
}
