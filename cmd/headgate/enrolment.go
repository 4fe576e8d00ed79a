package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// agentsCgroup is where enrolled processes live when the attach point is not
// the root: the hooks see only sockets that were created below it.
const agentsCgroup = "agents"

// enrol makes a process the root of a tree. Who asks was checked by the
// control socket; that the process is the one that is meant is checked here.
func (d *daemon) enrol(ctx context.Context, by control.Caller, req control.EnrolRequest) (control.EnrolReply, error) {
	number := enrolmentOf(req.Agent)
	if name, ok := d.policies.Agent(number); !ok || name != req.Agent {
		return control.EnrolReply{}, control.Refuse(http.StatusNotFound,
			fmt.Sprintf("the policy has no agent %q", req.Agent), "name one of its agents, or none for "+defaultAgent)
	}
	if err := d.freeToEnrol(by, req); err != nil {
		return control.EnrolReply{}, err
	}
	if err := mayTake(by, req); err != nil {
		return control.EnrolReply{}, err
	}
	root, err := d.kernel.Enrol(ctx, int(req.PID), req.Start, number)
	if err != nil {
		return control.EnrolReply{}, enrolRefusal(req, err)
	}
	if err := d.gather(ctx, root); err != nil {
		return control.EnrolReply{}, err
	}
	if err := d.recordEnrolment(enrolled{agent: req.Agent, number: number, root: root, how: howAsked(by, req)}); err != nil {
		// The tree stays enrolled: that only takes freedom away.
		return control.EnrolReply{}, enrolRefusal(req, err)
	}
	d.log.Info().Str("agent", req.Agent).Uint32("pid", root.PID).Msg("tree enrolled")
	return control.EnrolReply{Root: root, Agent: req.Agent}, nil
}

// howAsked tells who asked, as the kernel says: a process for itself, as headgate
// run does, or another for it, as headgate enrol does.
func howAsked(by control.Caller, req control.EnrolRequest) string {
	if by.PID == req.PID {
		return audit.HowRun
	}
	return audit.HowEnrol
}

// gather brings a tree below the attach point, where that is not the root: the
// hooks see only sockets that were created there.
func (d *daemon) gather(ctx context.Context, root process.ID) error {
	if !d.below {
		return nil
	}
	agents := filepath.Join(d.cfg.Intercept.Cgroup, agentsCgroup)
	if err := cgroup.Create(agents); err != nil {
		return err
	}
	return d.kernel.Gather(ctx, root, agents)
}

// mayTake refuses to enrol what is not the caller's. The pid that the kernel
// gave for the caller may be another process's by now, so the process must be
// the one that is meant, and the caller's user's own.
func mayTake(by control.Caller, req control.EnrolRequest) error {
	start, err := kernel.ProcStart(int(req.PID))
	if err != nil || !kernel.SameStart(start, req.Start) {
		return enrolRefusal(req, errors.Join(kernel.ErrGone, err))
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d", req.PID))
	if err != nil {
		return enrolRefusal(req, errors.Join(kernel.ErrGone, err))
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if by.UID != 0 && (!ok || owner.Uid != by.UID) {
		return control.Refuse(http.StatusForbidden, fmt.Sprintf("pid %d is not a process of the caller's user", req.PID), "only root may enrol another user's process")
	}
	return nil
}

// freeToEnrol refuses those who are in a tree already, as the caller or as the
// one to be enrolled: an agent must not choose its own rules.
func (d *daemon) freeToEnrol(by control.Caller, req control.EnrolRequest) error {
	for _, pid := range []uint32{by.PID, req.PID} {
		tree, err := d.kernel.TreeOf(int(pid))
		switch {
		case errors.Is(err, kernel.ErrNotEnrolled):
		case err == nil:
			name, _ := d.policies.Agent(tree.Number)
			return control.Refuse(http.StatusConflict,
				fmt.Sprintf("pid %d is enrolled already, as agent %q", pid, name), "a tree does not change hands; run the command without headgate run")
		default:
			return enrolRefusal(req, err)
		}
	}
	return nil
}

// noAgent refuses a caller that is in a tree, and one that is not known to be in
// none: root in a tree is an agent all the same.
func (d *daemon) noAgent(by control.Caller, what string) error {
	_, err := d.kernel.TreeOf(int(by.PID))
	if errors.Is(err, kernel.ErrNotEnrolled) {
		return nil
	}
	if err == nil || errors.Is(err, kernel.ErrFull) {
		return control.Refuse(http.StatusForbidden, "an agent may not "+what, "ask the operators of this host")
	}
	return control.Refuse(http.StatusForbidden, fmt.Sprintf("nobody knows whether pid %d is an agent, and those may not %s: %v", by.PID, what, err), "try again")
}

func enrolRefusal(req control.EnrolRequest, err error) error {
	switch {
	case errors.Is(err, kernel.ErrEnrolled):
		return control.Refuse(http.StatusConflict, fmt.Sprintf("pid %d is enrolled already", req.PID), "a tree does not change hands")
	case errors.Is(err, kernel.ErrGone):
		return control.Refuse(http.StatusNotFound, fmt.Sprintf("pid %d is gone, or not the process that is meant", req.PID), "")
	case errors.Is(err, audit.ErrLowDisk):
		return control.Refuse(http.StatusServiceUnavailable, err.Error(), "free disk space where the record is; until then everything is denied")
	case errors.Is(err, kernel.ErrFull):
		return control.Refuse(http.StatusServiceUnavailable, "the table of enrolled processes is full", "raise limits.processes in the configuration")
	default:
		return err
	}
}

// enrolled is a tree that has just begun.
type enrolled struct {
	agent  string
	number uint32
	root   process.ID
	how    string // as the record has it
}

// recordEnrolment takes the tree's processes into the table of lineages and
// writes the enrolment down.
func (d *daemon) recordEnrolment(e enrolled) error {
	root := e.root
	event := audit.Enrol{Agent: e.agent, Enrolment: e.number, Root: root, Principal: d.binder.Of(root), How: e.how}
	seeded, err := d.kernel.Seed(int(root.PID))
	if err == nil {
		if err := d.observe(seeded); err != nil {
			return err
		}
		if p, ok := d.tree.Lookup(root, seeded.Image.Exec); ok {
			described := audit.ProcessOf(p)
			event.Process = &described
		}
	} else if !errors.Is(err, kernel.ErrGone) {
		return err
	}
	return d.audit.Append(audit.KindEnrol, event)
}

// seedAll takes in the trees that an earlier daemon left in pinned maps.
func (d *daemon) seedAll(context.Context) error {
	events, err := d.kernel.Seeds()
	if err != nil {
		return err
	}
	for _, ev := range events {
		if err := d.observe(ev); err != nil {
			return err
		}
	}
	return nil
}

// seed finds a process whose event was lost or never was, as far as /proc
// still tells: that is partial, and recorded as such.
func (d *daemon) seed(_ context.Context, origin transparent.Origin) (*process.Process, error) {
	ev, err := d.kernel.Seed(int(origin.Process.PID))
	if err == nil && ev.ID == origin.Process {
		if err := d.observe(ev); err != nil {
			return nil, err
		}
	}
	if p := d.tree.Guess(origin.Process); p != nil {
		return p, nil
	}
	if err == nil {
		err = kernel.ErrGone
	}
	return nil, fmt.Errorf("describe process %v: %w", origin.Process, err)
}
