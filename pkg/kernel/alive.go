package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cilium/ebpf/link"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
)

// Alive lists the living processes of the machine, enrolled or not. Processes
// that started after asOf, in nanoseconds of the boot-time clock, may be
// missing: [process.Tree.Retain] takes both.
func (k *Kernel) Alive() (alive map[process.ID]bool, asOf uint64, err error) {
	if asOf, err = bootTime(); err != nil {
		return nil, 0, err
	}
	list, err := k.alive()
	if err != nil {
		return nil, 0, err
	}
	alive = make(map[process.ID]bool, len(list))
	for _, a := range list {
		alive[a.id] = true
	}
	return alive, asOf, nil
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

// Living lists the living processes that belong to no tree, parents before
// their children as far as both are known.
func (k *Kernel) Living() ([]process.ID, error) {
	list, err := k.alive()
	if err != nil {
		return nil, err
	}
	enrolled, err := k.enrolled()
	if err != nil {
		return nil, err
	}
	free := make(map[process.ID]Enrolment, len(list))
	for _, a := range list {
		if _, ok := enrolled[a.id]; !ok {
			free[a.id] = Enrolment{ID: a.id, Parent: a.parent}
		}
	}
	ids := make([]process.ID, 0, len(free))
	for _, e := range parentsFirst(free) {
		ids = append(ids, e.ID)
	}
	return ids, nil
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
