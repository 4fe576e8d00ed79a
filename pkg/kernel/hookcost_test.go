package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

// hookRounds is the environment variable that says how often the hooks' cost is
// measured. Without it that is done once and shortly, to see that it works.
const hookRounds = "HEADGATE_HOOK_ROUNDS"

// caller makes system calls on demand, many at a time.
type caller struct {
	pid   int
	in    io.WriteCloser
	out   *json.Decoder
	batch int
}

func startCaller(t *testing.T, program, dir string, batch int) *caller {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	testenv.StartIn(t, cmd, dir)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { must(t, errors.Join(in.Close(), cmd.Wait())) })
	return &caller{cmd.Process.Pid, in, json.NewDecoder(out), batch}
}

// work is a kind of system call, and where it goes.
type work struct {
	call string
	to   netip.AddrPort
	few  bool // it is slow
}

func (c *caller) count(w work) int {
	if w.few {
		return max(c.batch/20, 50)
	}
	return c.batch
}

// time returns the nanoseconds of processor time that one call takes.
func (c *caller) time(t *testing.T, w work) float64 {
	t.Helper()
	_, err := fmt.Fprintf(c.in, "%s %d %s %d\n", w.call, c.count(w), w.to.Addr(), w.to.Port())
	must(t, err)
	var ns int64
	must(t, c.out.Decode(&ns))
	if ns < 0 {
		t.Fatalf("cannot measure %v", w)
	}
	return float64(ns) / float64(c.count(w))
}

// hooks is what is measured: a proxy, and where the callers are.
type hooks struct {
	*soak
	rounds int
	batch  int
	other  string // a cgroup that is attached to, with nobody enrolled
	bare   string // one that is not
	table  map[string][]float64
	rows   []string
}

func newHooks(t *testing.T) *hooks {
	t.Helper()
	h := &hooks{soak: newSoak(t, "hooks"), rounds: 1, batch: 1000, table: make(map[string][]float64)}
	if s := os.Getenv(hookRounds); s != "" {
		var err error
		if h.rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", hookRounds, err)
		}
		h.batch = 5000
	}
	h.other, h.bare = filepath.Join(h.dir, "other"), testenv.Cgroup(t)
	must(t, cgroup.Create(h.other))
	must(t, h.SetRules(Rules{}))
	return h
}

// whileRead runs f while somebody reads events and refusals, and lets all of
// them be read. A reader that has nothing else to do is woken by each.
func (h *hooks) whileRead(t *testing.T, f func()) {
	t.Helper()
	r := h.read(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Refusals(ctx, func(Refusal) error { return nil }) }()
	f()
	r.drained(t, h.soak)
	untilRead(t, h.maps.Refusals)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("refusals ended with %v", err)
	}
}

func (h *hooks) note(row string, value float64) {
	if _, ok := h.table[row]; !ok {
		h.rows = append(h.rows, row)
	}
	h.table[row] = append(h.table[row], value)
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// print shows the rows' medians and ranges, in nanoseconds.
func (h *hooks) print(t *testing.T, title string) {
	t.Helper()
	out := tabwriter.NewWriter(t.Output(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "median\tfrom\tto\t  %s, ns, %d rounds\n", title, h.rounds)
	for _, row := range h.rows {
		v := h.table[row]
		fmt.Fprintf(out, "%.0f\t%.0f\t%.0f\t  %s\n", median(v), slices.Min(v), slices.Max(v), row)
	}
	must(t, out.Flush())
	clear(h.table)
	h.rows = nil
}

// measure is what to note of one program.
type measure struct {
	program, row string
	work         work
}

// run has c make calls and notes what one run of the program took, without the
// runs that others caused: of hooks that see the whole machine, each of those
// costs foreign.
func (h *hooks) run(t *testing.T, c *caller, m measure, foreign float64) float64 {
	t.Helper()
	program, row, w := m.program, m.row, m.work
	p := h.programs[program]
	if p == nil {
		return 0 // not on this kernel
	}
	before, err := p.Stats()
	must(t, err)
	c.time(t, w)
	after, err := p.Stats()
	must(t, err)
	runs, took := float64(after.RunCount-before.RunCount), float64(after.Runtime-before.Runtime)
	if runs == 0 {
		t.Errorf("%s did not run for %v", program, w)
		return 0
	}
	if foreign != 0 {
		ours := float64(c.count(w))
		took, runs = took-max(runs-ours, 0)*foreign, ours
	}
	h.note(fmt.Sprintf("%-12s %s", short(program), row), took/runs)
	return took / runs
}

func short(program string) string { return program[len("headgate_"):] }

// floor measures a program that does nothing: what the clock itself costs.
func (h *hooks) floor(t *testing.T) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	dir := testenv.Cgroup(t)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInet4Connect, Program: p})
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(l.Close(), p.Close())) })
	c := startCaller(t, h.program, dir, h.batch)
	for range h.rounds {
		before, err := p.Stats()
		must(t, err)
		c.time(t, work{"reconnect", h.at("127.0.0.1", 9), false})
		after, err := p.Stats()
		must(t, err)
		h.note("a program that does nothing", float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount))
	}
}

func (h *hooks) at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// ruleSets are enrolment rules that the callers do not fall under.
func (h *hooks) ruleSets() map[string]Rules {
	uids := map[uint32]uint32{64123: 1}
	cgroups := map[uint64]uint32{1 << 40: 1}
	exes := map[File]uint32{{Device: 1, Inode: 1}: 1}
	return map[string]Rules{
		"no rule":     {},
		"a uid rule":  {UIDs: uids},
		"cgroup rule": {Cgroups: cgroups},
		"all rules":   {UIDs: uids, Cgroups: cgroups, Executables: exes},
	}
}

// destinations are n denials for elsewhere, beside what [newSoak] has.
func (h *hooks) destinations(n int) []Destination {
	list := h.soak.destinations()
	add := func(prefix string, port uint16, v Verdict) {
		list = append(list, Destination{Prefix: netip.MustParsePrefix(prefix), Port: port, Verdict: v})
	}
	add("127.0.0.4/32", 0, Direct)
	for i := range n / 2 {
		add(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255), 5432, Deny)
		add(fmt.Sprintf("2001:db8:%x::/48", i), 443, Proxy)
	}
	return list
}

// step is a system call, and the program that it is to be measured by.
type step struct {
	program, row string
	work
}

// everybody are calls that all processes make.
func (h *hooks) everybody() []step {
	v4, v6 := h.at("127.0.0.1", h.witness), h.at("::1", 9)
	return []step{
		{bpf.HeadgateProgHeadgateConnect4, "UDP to loopback", work{"reconnect", h.at("127.0.0.1", 9), false}},
		{bpf.HeadgateProgHeadgateConnect6, "UDP to loopback", work{"reconnect", v6, false}},
		{bpf.HeadgateProgHeadgateSockops, "TCP to loopback", work{"connect", v4, true}},
		{bpf.HeadgateProgHeadgateSendmsg4, "", work{"sendto", h.at("127.0.0.1", 9), false}},
		{bpf.HeadgateProgHeadgateSendmsg6, "", work{"sendto", v6, false}},
		{bpf.HeadgateProgHeadgateRecvmsg4, "", work{"recvfrom", h.at("127.0.0.1", 0), false}},
		{bpf.HeadgateProgHeadgateEgress, "UDP to loopback", work{"send", h.at("127.0.0.1", 9), false}},
		{bpf.HeadgateProgHeadgateSockCreate, "", work{"socket", v4, false}},
		{bpf.HeadgateProgHeadgateSockRelease, "", work{"socket", v4, false}},
		{bpf.HeadgateProgHeadgateGetpeername4, "", work{"getpeername", v4, false}},
	}
}

// members are calls whose verdict differs in a tree.
func (h *hooks) members() []step {
	return []step{
		{bpf.HeadgateProgHeadgateConnect4, "TCP to the proxy", work{"connect", h.at("127.0.0.2", h.witness), true}},
		{bpf.HeadgateProgHeadgateConnect6, "TCP to the proxy", work{"connect", h.at("::1", h.witness), true}},
		{bpf.HeadgateProgHeadgateSockops, "TCP to the proxy", work{"connect", h.at("127.0.0.2", h.witness), true}},
		{bpf.HeadgateProgHeadgateConnect4, "TCP by a rule that lets it", work{"connect", h.at("127.0.0.4", h.witness), true}},
		{bpf.HeadgateProgHeadgateSockops, "TCP by a rule that lets it", work{"connect", h.at("127.0.0.4", h.witness), true}},
		{bpf.HeadgateProgHeadgateConnect4, "UDP to the resolver", work{"reconnect", h.at("198.51.100.1", 53), false}},
		{bpf.HeadgateProgHeadgateGetpeername4, "of a redirect", work{"getpeername", h.at("127.0.0.2", h.witness), false}},
	}
}

func (h *hooks) processHooks() []step {
	name := func(hook hook) string {
		if h.programs[hook.btf] != nil {
			return hook.btf
		}
		return hook.raw
	}
	nowhere := h.at("127.0.0.1", 9)
	return []step{
		{name(processHooks[2]), "", work{"fork", nowhere, true}},
		{name(processHooks[3]), "", work{"exec", nowhere, true}},
		{name(processHooks[4]), "after a fork", work{"fork", nowhere, true}},
	}
}

// TestPrivilegedHookCosts prints what the programs cost. Only that they ran can
// fail: no timing does.
func TestPrivilegedHookCosts(t *testing.T) {
	h := newHooks(t)
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	must(t, err)
	defer stats.Close()
	h.floor(t)
	outsider := startCaller(t, h.program, h.other, h.batch)
	member := startCaller(t, h.program, h.jobs, h.batch)
	must(t, enrolPID(t, h.fixture, member.pid))
	for range h.rounds {
		for name, rules := range h.ruleSets() {
			must(t, h.SetRules(rules))
			for _, s := range h.everybody() {
				h.run(t, outsider, measure{s.program, s.row + " (outsider, " + name + ")", s.work}, 0)
			}
		}
		for _, s := range h.processHooks() {
			// Others on this machine are outsiders too, so their runs do no harm.
			foreign := h.run(t, outsider, measure{s.program, s.row + " (outsider, all rules)", s.work}, 0)
			h.run(t, member, measure{s.program, s.row + " (member, read later)", s.work}, foreign)
			h.whileRead(t, func() {
				h.run(t, member, measure{s.program, s.row + " (member, read at once)", s.work}, foreign)
			})
		}
		denied := step{bpf.HeadgateProgHeadgateConnect4, "denied", work{"connect", h.at("127.0.0.3", h.witness), true}}
		h.run(t, member, measure{denied.program, "denied (member, read later)", denied.work}, 0)
		h.whileRead(t, func() { h.run(t, member, measure{denied.program, "denied (member, read at once)", denied.work}, 0) })
		for _, n := range []int{0, 1000} {
			must(t, h.SetDestinations(h.destinations(n)))
			for _, s := range slices.Concat(h.everybody(), h.members()) {
				h.run(t, member, measure{s.program, fmt.Sprintf("%s (member, %d destinations)", s.row, n), s.work}, 0)
			}
		}
	}
	slices.Sort(h.rows)
	h.print(t, "time in the program")
}

// TestPrivilegedHookLatency prints what an application pays: one process,
// moved between a cgroup with nothing attached and one with everything.
func TestPrivilegedHookLatency(t *testing.T) {
	h := newHooks(t)
	must(t, h.SetRules(h.ruleSets()["all rules"]))
	must(t, h.SetDestinations(h.destinations(1000)))
	outsider := startCaller(t, h.program, h.other, h.batch)
	member := startCaller(t, h.program, h.other, h.batch)
	must(t, enrolPID(t, h.fixture, member.pid))
	works := []struct {
		row string
		work
	}{
		{"connect, UDP to loopback", work{"reconnect", h.at("127.0.0.1", 9), false}},
		{"connect, UDP to ::1", work{"reconnect", h.at("::1", 9), false}},
		{"connect, TCP to loopback", work{"connect", h.at("127.0.0.1", h.witness), true}},
		{"connect, TCP by a rule that lets it", work{"connect", h.at("127.0.0.4", h.witness), true}},
		{"connect, TCP to the proxy", work{"connect", h.at("127.0.0.2", h.witness), true}},
		{"socket and close", work{"socket", h.at("127.0.0.1", 9), false}},
		{"send, UDP to loopback", work{"send", h.at("127.0.0.1", 9), false}},
		{"sendto, UDP to loopback", work{"sendto", h.at("127.0.0.1", 9), false}},
		{"recvfrom", work{"recvfrom", h.at("127.0.0.1", 0), false}},
		{"fork and wait", work{"fork", h.at("127.0.0.1", 9), true}},
		{"vfork, exec and wait", work{"exec", h.at("127.0.0.1", 9), true}},
	}
	// Each of the three goes first in turn. Forks and execs are seen everywhere.
	compare := func(round int, w work) map[string]float64 {
		took := make(map[string]float64)
		for i := range 3 {
			switch (round + i) % 3 {
			case 0:
				must(t, cgroup.Move(h.bare, outsider.pid))
				took["bare"] = outsider.time(t, w)
			case 1:
				must(t, cgroup.Move(h.other, outsider.pid))
				took["outsider"] = outsider.time(t, w)
			case 2:
				h.whileRead(t, func() { took["member"] = member.time(t, w) })
			}
		}
		return took
	}
	for round := range h.rounds {
		for _, w := range works {
			took := compare(round, w.work)
			h.note(w.row+": nothing attached", took["bare"])
			h.note(w.row+": outsider adds", took["outsider"]-took["bare"])
			h.note(w.row+": outsider, % of it", 100*took["outsider"]/took["bare"])
			h.note(w.row+": member adds", took["member"]-took["bare"])
		}
	}
	h.print(t, "processor time of the call")
}
