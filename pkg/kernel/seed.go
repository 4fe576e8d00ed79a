package kernel

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
)

// Seed makes an Enrol event of the enrolled process pid, for a process that ran
// before anybody read events. What /proc tells of it may be rewritten by the
// process itself, so the event is partial. It returns [ErrGone] or
// [ErrNotEnrolled].
func (k *Kernel) Seed(pid int) (process.Event, error) {
	e, err := k.TreeOf(pid)
	if err != nil {
		return process.Event{}, fmt.Errorf("describe process %d: %w", pid, err)
	}
	return seed(e)
}

// Seeds makes Enrol events of all enrolled processes, parents before their
// children: what a daemon needs that takes over pinned maps. Processes that exit
// meanwhile are left out.
func (k *Kernel) Seeds() ([]process.Event, error) {
	procs, err := k.enrolled()
	if err != nil {
		return nil, err
	}
	var events []process.Event
	for _, e := range parentsFirst(procs) {
		ev, err := seed(e)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		events = append(events, ev)
	}
	return events, nil
}

func (k *Kernel) enrolled() (map[process.ID]Enrolment, error) {
	procs := make(map[process.ID]Enrolment)
	var pid uint32
	var p bpf.HeadgateProc
	entries := k.maps.Procs.Iterate()
	for entries.Next(&pid, &p) {
		e := enrolmentOf(pid, &p)
		procs[e.ID] = e
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list enrolled processes: %w", err)
	}
	return procs, nil
}

// parentsFirst orders processes by how many of their ancestors are among them.
func parentsFirst(procs map[process.ID]Enrolment) []Enrolment {
	depth := func(e Enrolment) int {
		n := 0
		for p, ok := procs[e.Parent]; ok && n <= len(procs); p, ok = procs[p.Parent] {
			n++
		}
		return n
	}
	depths := make(map[process.ID]int, len(procs))
	for id, e := range procs {
		depths[id] = depth(e)
	}
	return slices.SortedFunc(maps.Values(procs), func(a, b Enrolment) int { return depths[a.ID] - depths[b.ID] })
}

// seed reads /proc, and checks afterwards that it was this process all along.
func seed(e Enrolment) (process.Event, error) {
	pid := int(e.ID.PID)
	image, err := procImage(pid)
	if err != nil {
		return process.Event{}, fmt.Errorf("describe process %v: %w", e.ID, err)
	}
	image.Exec = e.Exec
	uid, cgroupID, err := procOwner(pid)
	if err != nil {
		return process.Event{}, fmt.Errorf("describe process %v: %w", e.ID, err)
	}
	start, err := ProcStart(pid)
	if err == nil && !SameStart(start, e.ID.Start) {
		err = ErrGone
	}
	if err != nil {
		return process.Event{}, fmt.Errorf("describe process %v: %w", e.ID, err)
	}
	now, err := bootTime()
	if err != nil {
		return process.Event{}, err
	}
	return process.Event{
		Kind: process.Enrol, Time: now,
		ID: e.ID, Parent: e.Parent, Root: e.Root,
		UID: uid, Cgroup: cgroupID,
		Image: image, Partial: true,
	}, nil
}
