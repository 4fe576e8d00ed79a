package kernel

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
)

// verifierBudget is far below the verifier's limit of a million instructions: a
// change that multiplies the paths through a program must be seen here first.
const verifierBudget = 100_000

func TestPrivilegedProgramsStayWithinTheVerifierBudget(t *testing.T) {
	f := attach(t, Options{})
	programs, err := f.Programs()
	must(t, err)
	for _, h := range cgroupHooks {
		lost := slices.ContainsFunc(f.Lost(), func(l Loss) bool { return l.Program == h.program })
		if attached := slices.ContainsFunc(programs, func(p ProgramInfo) bool { return p.Name == h.program }); attached == lost {
			t.Errorf("%s: attached %v, lost %v", h.program, attached, lost)
		}
	}
	if len(programs) != len(f.links) {
		t.Errorf("%d programs are attached", len(programs))
	}
	for _, p := range programs {
		t.Logf("%-24s %-28s %6d instructions verified", p.Name, p.AttachType, p.Instructions)
		if p.Instructions > verifierBudget {
			t.Errorf("%s needs %d instructions of the verifier, more than %d", p.Name, p.Instructions, verifierBudget)
		}
		onCgroup := !strings.Contains(p.AttachType, "tp") && !strings.HasPrefix(p.AttachType, "lsm")
		if onCgroup != (p.Cgroup == f.dir) {
			t.Errorf("%s is attached to cgroup %q", p.Name, p.Cgroup)
		}
	}
}

func TestPrivilegedRawTracepointsServeWhereTypedOnesDoNot(t *testing.T) {
	privileges(t)
	spec, err := bpf.LoadHeadgate()
	must(t, err)
	// As on a kernel that refuses tp_btf: what the typed form attaches to is
	// unknown.
	for _, h := range processHooks {
		spec.Programs[h.btf].AttachTo = "no_such_tracepoint"
	}
	withoutUnsupported(spec)
	coll, err := loadCollection(spec, ebpf.CollectionOptions{})
	must(t, err)
	defer coll.Close()
	for _, h := range processHooks {
		l, err := attachTracepoint(coll.Programs[h.raw], h)
		must(t, err)
		must(t, l.Close())
	}
}

func TestPrivilegedRunsAreCounted(t *testing.T) {
	f := listening(t, Options{})
	stats, err := ebpf.EnableStats(0) // BPF_STATS_RUN_TIME
	must(t, err)
	defer stats.Close()
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:1"), 0)
	programs, err := f.Programs()
	must(t, err)
	for _, p := range programs {
		if p.Name == bpf.HeadgateProgHeadgateConnect4 && p.RunCount == 0 {
			t.Error("connect4 ran, and no run is reported")
		}
	}
}

func TestPrivilegedHeartbeatKeepsConnectionsGoing(t *testing.T) {
	f := listening(t, Options{})
	now, err := bootTime()
	must(t, err)
	must(t, f.change(func(s *bpf.HeadgateDaemonSettings) { s.Heartbeat, s.HeartbeatLimit = 1, now/2 }))
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:1"), unix.EPERM)
	must(t, f.Heartbeat())
	wantErrno(t, dial(t, f.jobs, "198.51.100.7:1"), 0)
}
