package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
)

// Enrolment says which tree a process belongs to.
type Enrolment struct {
	ID     process.ID
	Parent process.ID // zero at the root of the tree
	Root   process.ID
	// Number is that of the rule or request that enrolled the tree.
	Number uint32
	// Exec identifies the image that the process executes; zero if it was in
	// place before the process was enrolled.
	Exec uint64
}

// Enrol makes the process pid the root of a new tree, and takes in the
// descendants that it has already. start is its start time as [Kernel.StartOf]
// or [ProcStart] gave it; another process that has the pid by now is left alone
// with [ErrGone]. [ErrEnrolled] also stands for a process that an earlier tree
// had no room for: it is refused, and stays so.
//
// Connections that the tree's processes had before are destroyed, of UDP too,
// except those to where loopback is not mediated, those that they accepted, and
// those of UDP to where destinations let them go; while refusals are only observed
// none is. [Kernel.Counters] tells how many were and how many could
// not be. Not found are sockets that no thread holds at that moment as a file
// descriptor: those on their way through a unix socket (SCM_RIGHTS), those that
// an io_uring holds as fixed files, and those of a network namespace that no
// thread of the process is in.
//
// After [ErrFull], or an error that came later, the part of the tree that was
// enrolled stays so, and what there was no room for is refused for as long as it
// lives.
func (k *Kernel) Enrol(ctx context.Context, pid int, start uint64, enrolment uint32) (process.ID, error) {
	root, err := k.StartOf(pid)
	if err != nil {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, err)
	}
	if !SameStart(root.Start, start) {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, ErrGone)
	}
	p := bpf.HeadgateProc{Start: root.Start, RootStart: root.Start, RootTgid: root.PID, Enrolment: enrolment}
	err = k.admit(root.PID, &p)
	if err != nil && !errors.Is(err, ErrFull) {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, err)
	}
	// Also without room for the root: its descendants must not stay free.
	members, descendantsErr := k.takeDescendants(ctx, root, enrolment)
	k.destroySockets(append(members, root)...)
	if err != nil {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, errors.Join(err, descendantsErr))
	}
	if descendantsErr != nil {
		return root, fmt.Errorf("enrol descendants of process %d: %w", pid, descendantsErr)
	}
	return root, nil
}

// admit adds a process to the table, and marks it whether there was room or
// not. The mark comes second: what a process forks between the two would have
// inherited the mark alone. A process that exits meanwhile leaves a mark; the
// fork that uses its pid again takes that away.
func (k *Kernel) admit(pid uint32, p *bpf.HeadgateProc) error {
	if err := k.unknown(process.ID{PID: pid, Start: p.Start}); err != nil {
		return err
	}
	err := k.insert(pid, p)
	if errors.Is(err, ErrEnrolled) {
		return err
	}
	return errors.Join(err, k.marks.set(pid))
}

// unknown returns ErrEnrolled unless the process is free to join a tree.
func (k *Kernel) unknown(id process.ID) error {
	_, err := k.find(id)
	switch {
	case errors.Is(err, ErrNotEnrolled):
		return nil
	case err == nil || errors.Is(err, ErrFull):
		return ErrEnrolled
	default:
		return err
	}
}

// insert adds a process to the table. The entry of an earlier process with the
// same pid, whose exit nobody saw, is replaced.
func (k *Kernel) insert(pid uint32, p *bpf.HeadgateProc) error {
	err := k.maps.Procs.Update(pid, p, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		var there bpf.HeadgateProc
		if err := k.maps.Procs.Lookup(pid, &there); err == nil && there.Start == p.Start {
			return ErrEnrolled
		}
		err = k.maps.Procs.Update(pid, p, ebpf.UpdateAny)
	}
	if errors.Is(err, unix.E2BIG) {
		return ErrFull
	}
	if err != nil {
		return fmt.Errorf("add to enrolled processes: %w", err)
	}
	return nil
}

// takeDescendants enrols the living descendants of root. From the moment at
// which a process is in the table or marked, its children are marked by the
// kernel, so a round that finds nobody new has found everybody. Where there is
// no room it goes on, so that everybody is marked, and returns ErrFull.
func (k *Kernel) takeDescendants(ctx context.Context, root process.ID, enrolment uint32) ([]process.ID, error) {
	members := map[process.ID]bool{root: true}
	var taken []process.ID
	var full error
	for {
		if err := ctx.Err(); err != nil {
			return taken, err
		}
		alive, err := k.alive()
		if err != nil {
			return taken, err
		}
		found := 0
		for _, a := range alive {
			if members[a.id] || !members[a.parent] {
				continue
			}
			members[a.id] = true
			found++
			err := k.admit(a.id.PID, &bpf.HeadgateProc{
				Start: a.id.Start, ParentStart: a.parent.Start, ParentTgid: a.parent.PID,
				RootStart: root.Start, RootTgid: root.PID, Enrolment: enrolment,
			})
			switch {
			case err == nil:
				taken = append(taken, a.id)
			case errors.Is(err, ErrEnrolled): // by the kernel, or in a tree of its own
			case errors.Is(err, ErrFull):
				full = err
			default:
				return taken, err
			}
		}
		if found == 0 {
			return taken, full
		}
	}
}

// TreeOf tells which tree the living process pid belongs to. It returns
// [ErrNotEnrolled] if it belongs to none, [ErrFull] if there was no room for it
// in the tree that it descends from, so that it is refused, and [ErrGone] if
// there is no such process.
func (k *Kernel) TreeOf(pid int) (Enrolment, error) {
	id, err := k.StartOf(pid)
	if err != nil {
		return Enrolment{}, err
	}
	return k.find(id)
}

// find is [Kernel.TreeOf] for a process that is known exactly. The mark is read
// first: a process that is enrolled meanwhile has its entry before its mark.
func (k *Kernel) find(id process.ID) (Enrolment, error) {
	marked, err := k.marks.has(id.PID)
	if err != nil {
		return Enrolment{}, err
	}
	var p bpf.HeadgateProc
	err = k.maps.Procs.Lookup(id.PID, &p)
	switch {
	case err == nil && p.Start == id.Start:
		return enrolmentOf(id.PID, &p), nil
	case err != nil && !errors.Is(err, ebpf.ErrKeyNotExist):
		return Enrolment{}, fmt.Errorf("find enrolled process: %w", err)
	case marked:
		return Enrolment{}, ErrFull
	default:
		return Enrolment{}, ErrNotEnrolled
	}
}

func enrolmentOf(pid uint32, p *bpf.HeadgateProc) Enrolment {
	return Enrolment{
		ID:     process.ID{PID: pid, Start: p.Start},
		Parent: process.ID{PID: p.ParentTgid, Start: p.ParentStart},
		Root:   process.ID{PID: p.RootTgid, Start: p.RootStart},
		Number: p.Enrolment,
		Exec:   p.ExecTime,
	}
}
