package main

import (
	"os"
	"strings"

	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
)

// health is what the daemon knows of itself. What is wrong with it, the command
// says: a daemon that is unwell should have little to do.
func (d *daemon) health() (control.Health, error) {
	counters, err := d.counters()
	if err != nil {
		return control.Health{}, err
	}
	programs, err := d.programLinks(counters)
	if err != nil {
		return control.Health{}, err
	}
	unaccounted, err := d.ledger.unaccounted()
	if err != nil {
		return control.Health{}, err
	}
	engine := d.policies.Engine()
	seq, _ := d.audit.Head()
	probed, cause := d.canary.state()
	h := control.Health{
		Version: version(), PID: os.Getpid(),
		Mode: engine.Mode().String(), OnFailure: engine.OnFailure().String(), Generation: engine.Generation(),
		Cgroup: d.attachedTo, WholeHost: !d.below, PinDir: d.cfg.Intercept.PinDir,
		Programs: programs, Lost: losses(d.kernel.Lost()),
		Canary: control.Canary{Active: d.canary.active.Load(), Probed: probed, Cause: text(cause)}, Listeners: d.proxies.listeners(),
		PolicyErr: text(d.policies.LastError()), AuditSeq: seq, AuditErr: text(d.audit.Err()),
		Unaccounted: unaccounted, Counters: counters, Unresolved: engine.Unresolved(),
	}
	for _, c := range kernel.MissingCapabilities() {
		h.Lacks = append(h.Lacks, c.Name)
	}
	return h, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func losses(lost []kernel.Loss) []control.Loss {
	var list []control.Loss
	for _, l := range lost {
		list = append(list, control.Loss{Program: l.Program, Cause: causeOf(l.Cause), Open: l.Open, Remedy: l.Remedy})
	}
	return list
}

// causeOf is the error without the library's guess at a limit that no supported
// kernel has.
func causeOf(err error) string {
	cause, _, _ := strings.Cut(text(err), " (MEMLOCK")
	return cause
}

// programLinks joins what runs with what holds it.
func (d *daemon) programLinks(counters map[string]uint64) ([]control.ProgramLink, error) {
	programs, err := d.kernel.Programs()
	if err != nil {
		return nil, err
	}
	links, err := d.kernel.Links()
	if err != nil {
		return nil, err
	}
	held := map[string]kernel.LinkInfo{}
	for _, l := range links {
		held[l.Program] = l
	}
	var list []control.ProgramLink
	for _, p := range programs {
		l := held[p.Name]
		link := control.ProgramLink{
			Program: control.Program{Name: p.Name, Attach: p.AttachType},
			LinkID:  l.ID, Pinned: l.Pinned, Cgroup: l.Cgroup, AtRoot: l.AtRoot, Fault: text(l.Fault),
		}
		link.Hits, link.HitsBy = hits(p.RunCount, l.Counters, counters)
		list = append(list, link)
	}
	return list, nil
}

// hits takes the kernel's count of runs, which is zero unless statistics are
// switched on, or else the counters that tell of the program best.
func hits(runs uint64, names []string, counters map[string]uint64) (n uint64, by string) {
	if runs > 0 {
		return runs, "runs"
	}
	for _, name := range names {
		n += counters[name]
	}
	return n, strings.Join(names, "+")
}
