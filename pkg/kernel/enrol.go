package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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

// EnrolUID enrols every process of the real user uid from its next exec or
// connect on, each as a tree of its own together with its descendants.
func (k *Kernel) EnrolUID(uid, enrolment uint32) error {
	return k.addRule(func() error { return k.maps.EnrolUid.Put(uid, enrolment) })
}

// EnrolCgroup does what [Kernel.EnrolUID] does for the processes in the cgroup
// with the number id, and in those below it.
func (k *Kernel) EnrolCgroup(id uint64, enrolment uint32) error {
	return k.addRule(func() error { return k.maps.EnrolCgroup.Put(id, enrolment) })
}

// RemoveUID takes back [Kernel.EnrolUID]. Processes that are enrolled stay so.
// There being no such rule is no error.
func (k *Kernel) RemoveUID(uid uint32) error {
	return k.addRule(func() error { return remove(k.maps.EnrolUid, uid) })
}

// RemoveCgroup takes back [Kernel.EnrolCgroup] in the same way.
func (k *Kernel) RemoveCgroup(id uint64) error {
	return k.addRule(func() error { return remove(k.maps.EnrolCgroup, id) })
}

// addRule changes a rule table and tells the programs whether they need to look
// into it.
func (k *Kernel) addRule(f func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := f(); err != nil {
		return fmt.Errorf("change enrolment rule: %w", err)
	}
	uids, err := length[uint32](k.maps.EnrolUid)
	if err != nil {
		return err
	}
	cgroups, err := length[uint64](k.maps.EnrolCgroup)
	if err != nil {
		return err
	}
	return k.changeLocked(func(s *bpf.HeadgateDaemonSettings) { s.UidRules, s.CgroupRules = uids, cgroups })
}

func length[K any](m *ebpf.Map) (uint32, error) {
	var n, value uint32
	var key K
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	if err := entries.Err(); err != nil {
		return 0, fmt.Errorf("count enrolment rules: %w", err)
	}
	return n, nil
}

// Enrol makes the process pid the root of a new tree, and takes in the
// descendants that it has already. start is its start time as [Kernel.StartOf]
// or [ProcStart] gave it; another process that has the pid by now is left alone
// with [ErrGone]. TCP connections that the tree's processes had before are
// destroyed, except those to loopback; [Kernel.Counters] tells how many were
// and how many could not be.
//
// After [ErrFull], or an error that came later, the part of the tree that was
// enrolled stays so.
func (k *Kernel) Enrol(ctx context.Context, pid int, start uint64, enrolment uint32) (process.ID, error) {
	root, err := k.StartOf(pid)
	if err != nil {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, err)
	}
	if !SameStart(root.Start, start) {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, ErrGone)
	}
	p := bpf.HeadgateProc{Start: root.Start, RootStart: root.Start, RootTgid: root.PID, Enrolment: enrolment}
	if err := k.insert(root.PID, &p); err != nil {
		return process.ID{}, fmt.Errorf("enrol process %d: %w", pid, err)
	}
	members, err := k.takeDescendants(ctx, root, enrolment)
	for _, id := range append(members, root) {
		k.destroySockets(int(id.PID))
	}
	if err != nil {
		return root, fmt.Errorf("enrol descendants of process %d: %w", pid, err)
	}
	return root, nil
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
// which a process is in the table its children are marked by the kernel, so a
// round that finds nobody new has found everybody.
func (k *Kernel) takeDescendants(ctx context.Context, root process.ID, enrolment uint32) ([]process.ID, error) {
	members := map[process.ID]bool{root: true}
	var taken []process.ID
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
			err := k.insert(a.id.PID, &bpf.HeadgateProc{
				Start: a.id.Start, ParentStart: a.parent.Start, ParentTgid: a.parent.PID,
				RootStart: root.Start, RootTgid: root.PID, Enrolment: enrolment,
			})
			if errors.Is(err, ErrEnrolled) {
				continue // by the kernel, or in a tree of its own
			}
			if err != nil {
				return taken, err
			}
			taken = append(taken, a.id)
		}
		if found == 0 {
			return taken, nil
		}
	}
}

// StartOf identifies the living process pid exactly. It returns [ErrGone] if
// there is none.
func (k *Kernel) StartOf(pid int) (process.ID, error) {
	alive, err := k.alive()
	if err != nil {
		return process.ID{}, err
	}
	for _, a := range alive {
		if int(a.id.PID) == pid {
			return a.id, nil
		}
	}
	return process.ID{}, ErrGone
}

// TreeOf tells which tree the living process pid belongs to. It returns
// [ErrNotEnrolled] if it belongs to none, and [ErrGone] if there is none.
func (k *Kernel) TreeOf(pid int) (Enrolment, error) {
	id, err := k.StartOf(pid)
	if err != nil {
		return Enrolment{}, err
	}
	var p bpf.HeadgateProc
	err = k.maps.Procs.Lookup(id.PID, &p)
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && p.Start != id.Start {
		return Enrolment{}, ErrNotEnrolled
	}
	if err != nil {
		return Enrolment{}, fmt.Errorf("find enrolled process: %w", err)
	}
	return enrolmentOf(id.PID, &p), nil
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

type living struct{ id, parent process.ID }

// alive lists the living processes, parents as the kernel knows them now. It
// asks the kernel and not /proc, which rounds start times.
func (k *Kernel) alive() ([]living, error) {
	it, err := link.AttachIter(link.IterOptions{Program: k.programs[bpf.HeadgateProgHeadgateTasks]})
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []living
	for in := bytes.NewReader(b); in.Len() > 0; {
		var h bpf.HeadgateEventHeader
		if err := binary.Read(in, binary.NativeEndian, &h); err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		list = append(list, living{
			id:     process.ID{PID: h.Tgid, Start: h.Start},
			parent: process.ID{PID: h.ParentTgid, Start: h.ParentStart},
		})
	}
	return list, nil
}
