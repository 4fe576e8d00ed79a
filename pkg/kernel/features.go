package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
)

// feature is a group of programs that need the same of the kernel.
type feature struct {
	name     string
	programs []string
}

var features = []feature{
	{name: "cgroup/connect", programs: []string{bpf.HeadgateProgHeadgateConnect4, bpf.HeadgateProgHeadgateConnect6}},
	{name: "cgroup/sendmsg", programs: []string{bpf.HeadgateProgHeadgateSendmsg4, bpf.HeadgateProgHeadgateSendmsg6}},
	{name: "cgroup/recvmsg", programs: []string{bpf.HeadgateProgHeadgateRecvmsg4, bpf.HeadgateProgHeadgateRecvmsg6}},
	{name: "cgroup/getpeername", programs: []string{bpf.HeadgateProgHeadgateGetpeername4, bpf.HeadgateProgHeadgateGetpeername6}},
	{name: "cgroup/bind", programs: []string{
		bpf.HeadgateProgHeadgateBind4, bpf.HeadgateProgHeadgateBind6, bpf.HeadgateProgHeadgatePostBind4, bpf.HeadgateProgHeadgatePostBind6,
	}},
	{name: "cgroup/sock_create", programs: []string{bpf.HeadgateProgHeadgateSockCreate}},
	{name: "cgroup/sock_release", programs: []string{bpf.HeadgateProgHeadgateSockRelease}},
	{name: "cgroup_skb/egress", programs: []string{bpf.HeadgateProgHeadgateEgress}},
	{name: "sockops", programs: []string{bpf.HeadgateProgHeadgateSockops}},
	{name: "iter/task", programs: []string{bpf.HeadgateProgHeadgateTasks}},
	{name: "cgroup/connect_unix", programs: []string{bpf.HeadgateProgHeadgateConnectUnix}},
	{name: "cgroup/sendmsg_unix", programs: []string{bpf.HeadgateProgHeadgateSendmsgUnix}},
	{name: "lsm"},
}

// judge turns the outcomes of loading into the feature's capability. What [Open]
// would do without is in lost.
func (f feature) judge(spec *ebpf.CollectionSpec, outcome map[string]error, lost []Loss) Capability {
	c := Capability{Name: f.name, Programs: f.programs, Open: noStart, Remedy: "Linux 5.15 or later, and a daemon that may load it"}
	if f.name == "lsm" {
		c.Programs = lsmPrograms(spec)
	}
	for _, l := range lost {
		if pattern := strings.TrimSuffix(l.Program, "*"); strings.HasPrefix(c.Programs[0], pattern) {
			c.Optional, c.Open, c.Remedy, c.Cause = true, l.Open, l.Remedy, l.Cause
		}
	}
	// LSM programs may load and yet be lost.
	if tried := c.tried(outcome); tried.State != Present || c.Cause == nil {
		return tried
	}
	return c.held(c.Cause)
}

func lsmPrograms(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name, p := range spec.Programs {
		if p.Type == ebpf.LSM {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// tried says how loading c's programs ended.
func (c Capability) tried(outcome map[string]error) Capability {
	var failed []string
	var errs []error
	for _, name := range c.Programs {
		if err := outcome[name]; err != nil {
			failed = append(failed, name)
			errs = append(errs, fmt.Errorf("load %s: %w", name, err))
		}
	}
	switch n := len(c.Programs); {
	case len(failed) == 0 && n == 1:
		c.Detail = "1 program loads"
	case len(failed) == 0:
		c.Detail = fmt.Sprintf("%d programs load", n)
	case len(failed) == n:
		c.Detail = fmt.Sprintf("none of its programs loads (%d)", n)
	default:
		c.Detail = fmt.Sprintf("%d of %d programs do not load: %s", len(failed), n, strings.Join(failed, ", "))
	}
	return c.held(first(errs))
}

// judgeTyped and judgeRaw are about the two forms of the programs that follow
// processes: one of them is enough.
func judgeTyped(outcome map[string]error) Capability {
	return judgeForm("tp_btf", outcome, func(h hook) (string, string) { return h.btf, h.raw })
}

func judgeRaw(outcome map[string]error) Capability {
	return judgeForm("raw_tp", outcome, func(h hook) (string, string) { return h.raw, h.btf })
}

func judgeForm(name string, outcome map[string]error, forms func(hook) (this, other string)) Capability {
	c := Capability{Name: name, Optional: true, Open: "nothing: the other form of these programs serves as well", Remedy: "none is needed"}
	for _, h := range processHooks {
		this, other := forms(h)
		c.Programs = append(c.Programs, this)
		if outcome[other] != nil {
			c.Optional, c.Open, c.Remedy = false, noStart, "Linux 5.15 or later, and a daemon with CAP_PERFMON"
		}
	}
	return c.tried(outcome)
}
