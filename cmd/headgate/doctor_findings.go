package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/control"
)

// finding is something that should be otherwise.
type finding struct {
	// Level is problem or note. A note is how somebody has chosen it to be, or
	// what the machine lacks and the daemon does without.
	Level string `json:"level"`
	// About is what it concerns: the name of a program, a capability, a counter.
	About  string `json:"about"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

const (
	levelProblem = "problem"
	levelNote    = "note"
)

// canarySilence is how old the latest proof may be: a probe that waits for every
// answer as long as it may takes less.
const canarySilence = 30 * time.Second

func problem(about, remedy, format string, args ...any) finding {
	return finding{levelProblem, about, fmt.Sprintf(format, args...), remedy}
}

func note(about, remedy, format string, args ...any) finding {
	return finding{levelNote, about, fmt.Sprintf(format, args...), remedy}
}

// find says everything that is wrong, problems first.
func (d *diagnosis) find(now time.Time) []finding {
	list := []finding{}
	if d.ConfigErr != "" {
		list = append(list, problem("configuration", "headgate config check; the defaults were taken here", "%s", d.ConfigErr))
	}
	list = append(list, d.onHost...)
	if d.Daemon != nil {
		list = append(list, findInPrograms(d.Daemon)...)
		list = append(list, findInWork(d.Daemon, now)...)
		list = append(list, findInCounters(d.Daemon.Counters)...)
		list = append(list, findChoices(d.Daemon)...)
	} else {
		list = append(list, problem("daemon", d.hint, "%s", d.DaemonErr))
	}
	list = append(list, d.findInMachine()...)
	slices.SortStableFunc(list, func(a, b finding) int { return strings.Compare(b.Level, a.Level) })
	return list
}

// unwell tells whether there is a finding that counts.
func (d *diagnosis) unwell(strict bool) bool {
	return slices.ContainsFunc(d.Findings, func(f finding) bool { return strict || f.Level == levelProblem })
}

func (d *diagnosis) findInMachine() []finding {
	var list []finding
	var unknown []string
	for _, f := range d.Machine {
		switch {
		case f.State == stateUnknown:
			unknown = append(unknown, f.Name)
		case f.State == stateLost && f.Optional:
			list = append(list, note(f.Name, f.Remedy, "lost: %s", f.Open))
		case f.State == stateLost:
			list = append(list, problem(f.Name, f.Remedy, "lost: %s (%s)", f.Open, f.Cause))
		}
	}
	if len(unknown) > 0 {
		list = append(list, problem("machine", "try again with sudo", "could not be looked at: %s", strings.Join(unknown, ", ")))
	}
	if d.Daemon == nil {
		return list
	}
	// What the daemon alone does without: it is confined more than this command.
	for _, l := range d.Daemon.Lost {
		known := slices.ContainsFunc(d.Machine, func(f feature) bool { return f.State == stateLost && f.Open == l.Open })
		if !known {
			list = append(list, note(l.Program, l.Remedy, "the daemon does without: %s (%s)", l.Open, l.Cause))
		}
	}
	return list
}

const restart = "restart the daemon, which attaches anew: systemctl restart headgate"

func findInPrograms(h *control.Health) []finding {
	var list []finding
	if len(h.Programs) == 0 {
		list = append(list, problem("programs", restart, "nothing is attached"))
	}
	outside := ""
	for _, p := range h.Programs {
		if p.Fault != "" {
			list = append(list, problem(p.Name, restart+"; and find out who took it away", "%s", p.Fault))
		}
		if p.Cgroup != 0 && !p.AtRoot {
			outside = p.Name
		}
	}
	if outside != "" && h.WholeHost {
		list = append(list, problem("cgroup", "run the daemon on the host, not in a container with a cgroup namespace of its own",
			"%s is not the root of the hierarchy: whoever is outside is not mediated", h.Cgroup))
	}
	return list
}

func findInWork(h *control.Health, now time.Time) []finding {
	var list []finding
	switch silence := now.Sub(h.Canary.Probed); {
	case h.Canary.Probed.IsZero():
		list = append(list, problem("canary", "wait some seconds and look again", "nothing was proven yet"))
	case !h.Canary.Active:
		list = append(list, problem("canary", restart+"; its log says more", "mediation is not proven: %s", h.Canary.Cause))
	case silence > canarySilence:
		list = append(list, problem("canary", restart, "it says nothing since %s", silence.Round(time.Second)))
	}
	if !slices.ContainsFunc(h.Listeners, func(l control.Listener) bool { return l.Home && l.TCP > 0 && l.UDP > 0 }) {
		list = append(list, problem("listeners", restart, "nobody listens in the daemon's own network namespace"))
	}
	if h.AuditErr != "" {
		list = append(list, problem("audit", "make room or repair the disk, then restart the daemon; headgate sessions verify says what is wrong",
			"the record takes nothing, and so everything is denied: %s", h.AuditErr))
	}
	if h.PolicyErr != "" {
		list = append(list, problem("policy", "headgate policy check DIR shows every mistake; then headgate reload",
			"the latest load failed, and generation %d stays in force: %s", h.Generation, h.PolicyErr))
	}
	if h.Unaccounted > 0 {
		list = append(list, problem("unaccounted", "look in the log for connections that were reset; report it with this output",
			"%d connections were redirected and are in no session", h.Unaccounted))
	}
	if len(h.Lacks) > 0 {
		list = append(list, problem("capabilities", "give it those of the unit", "the daemon does not hold %s", strings.Join(h.Lacks, ", ")))
	}
	return list
}

// failures are the counters that should be zero: they begin when the maps are
// made, and outlive the daemon.
var failures = []struct{ counter, text, remedy string }{
	{"procs_full", "processes found no room in the table and are refused", "raise limits.processes; it takes headgate uninstall and a start"},
	{"cgroups_full", "new cgroups of agents found no room in the table: who is in them is free until the daemon sees them", "end cgroups that nobody needs; report it with this output"},
	{"events_lost", "process events were lost, so lineages are partial", "the daemon was too slow or not there: give it more CPU"},
	{"events_malformed", "process events could not be read", "report it with this output"},
	{"refusals_lost", "refusals are not in the record (they were refused)", "an agent floods; headgate sessions list --denied shows whose"},
	{"inflight_full", "connections were refused for want of room", "an agent floods, or the daemon accepts too slowly: lower limits.sessions_per_tree"},
	{"denied_share", "connections or askers were refused, since their tree has its share of the tables already", "an agent floods, or is larger than most; headgate flows list --denied shows whose"},
	{"storage_failed", "connections were refused because the kernel had no memory for their origin", "give the host more memory"},
	{"direct_lost", "connections that a rule lets go past the proxy are in none of its metrics", "report it with this output"},
	{"pins_restored", "pins had been taken away, and were put back", "find out who did it; the daemon's log has names and times, and its restart ends this finding"},
	{"handover_failed", "connections arrived without their origin and were reset", "give the host more memory"},
}

func findInCounters(counters map[string]uint64) []finding {
	var list []finding
	for _, f := range failures {
		if n := counters[f.counter]; n > 0 {
			list = append(list, problem(f.counter, f.remedy, "%d %s", n, f.text))
		}
	}
	if n := counters["sockets_kept"]; n > 0 {
		list = append(list, note("sockets_kept", "enrol before anything connects (headgate run), or end these processes",
			"%d connections older than their enrolment could not be ended", n))
	}
	return list
}

// findChoices are what somebody has decided, and an auditor asks about.
func findChoices(h *control.Health) []finding {
	var list []finding
	if h.Mode != "enforce" {
		list = append(list, note("mode", "set defaults.mode to enforce in the policy", "%s: nothing is denied", h.Mode))
	}
	if h.OnFailure != "closed" {
		list = append(list, note("on_failure", "set defaults.on_failure to closed in the policy", "agents are free while the daemon does not answer"))
	}
	if !h.WholeHost {
		list = append(list, note("cgroup", "leave intercept.cgroup empty to attach to the root", "only agents below %s are mediated", h.Cgroup))
	}
	if h.PinDir == "" {
		list = append(list, note("pins", "set intercept.pin_dir", "nothing is pinned: agents are free whenever the daemon does not run"))
	}
	if h.Version != version() {
		list = append(list, note("version", "systemctl restart headgate", "the daemon is %s, this command %s", h.Version, version()))
	}
	for _, host := range h.Unresolved {
		list = append(list, note("policy", "correct the name, or the name server", "host name %s of a resource has no address", host))
	}
	return list
}
