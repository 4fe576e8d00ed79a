package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/process"
)

// Members lists the processes of the tree with that root, in no order, that are
// in the table: living ones, and any whose exit nobody saw.
func (k *Kernel) Members(root process.ID) ([]process.ID, error) {
	procs, err := k.enrolled()
	if err != nil {
		return nil, err
	}
	var members []process.ID
	for id, e := range procs {
		if e.Root == root {
			members = append(members, id)
		}
	}
	return members, nil
}

// Gather moves every process of the tree with that root to the cgroup at dir,
// and destroys the connections that they made until then, as [Kernel.Enrol]
// does. It is for programs that are attached below the root of the hierarchy,
// and dir is at or below that point: only what is created there is mediated. A
// socket that is not connected by then stays outside, and so does its owner's
// traffic through it.
func (k *Kernel) Gather(ctx context.Context, root process.ID, dir string) error {
	moved := make(map[process.ID]bool)
	// Until a round finds nobody new: who was not moved yet may have forked.
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		members, err := k.Members(root)
		if err != nil {
			return err
		}
		found := 0
		for _, id := range members {
			if moved[id] {
				continue
			}
			moved[id] = true
			found++
			if err := k.move(id, dir); err != nil {
				return fmt.Errorf("gather tree of %v: %w", root, err)
			}
		}
		if found == 0 {
			return nil
		}
	}
}

// move leaves a process alone that is gone, and one that has its pid by now.
func (k *Kernel) move(id process.ID, dir string) error {
	pid := int(id.PID)
	start, err := ProcStart(pid)
	if errors.Is(err, ErrGone) || err == nil && !SameStart(start, id.Start) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := cgroup.Move(dir, pid); errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	k.destroySockets(id)
	return nil
}
