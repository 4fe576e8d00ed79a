package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/process"
)

// ErrObserving is returned by [Kernel.EndOlder] while nothing is refused.
var ErrObserving = errors.New("refusals are only observed")

// olderRounds bounds how often [Kernel.EndOlder] looks for processes that were
// forked while it was looking.
const olderRounds = 16

// EndOlder ends what [Kernel.Enrol] would have, of trees that the kernel began
// by itself: it enrols a process at an exec or a connection, with all that this
// process has open. It is for the roots of [process.Enrol] events, and may be
// called again. What ended is returned beside an error too.
//
// A connection ends, or a UDP socket is disconnected, if it leads away, if one
// of the tree's processes holds it, and if no enrolled process made or connected
// the socket: that the programs wrote down, so what was made after the enrolment
// stays, mediated or direct. Whoever shares it with the tree loses it too, also
// who is not enrolled: an agent must not speak in another's connection. What was
// accepted stays, in spite of who is at the other end: a user's rule must not
// end the ssh session in which that user becomes an agent.
//
// Until it is done, which is moments after the enrolment, the processes can use
// what they have. Not found is what [Kernel.Enrol] does not find either. A
// process that prepares itself before it is enrolled can make a connection look
// accepted, by making the host drop what it sends; it could as well leave a
// helper behind that nobody enrols.
func (k *Kernel) EndOlder(ctx context.Context, roots ...process.ID) ([]Ended, error) {
	if k.observing() {
		return nil, ErrObserving
	}
	meant := make(map[process.ID]bool, len(roots))
	for _, root := range roots {
		meant[root] = true
	}
	seen := make(map[process.ID]bool)
	var all []Ended
	for range olderRounds {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		procs, err := k.enrolled()
		if err != nil {
			return all, fmt.Errorf("end older connections: %w", err)
		}
		var found []process.ID
		for id, e := range procs {
			if meant[e.Root] && !seen[id] {
				seen[id] = true
				found = append(found, id)
			}
		}
		// Who is in the table forks into it: a round that finds nobody new has
		// found everybody.
		if len(found) == 0 {
			return all, nil
		}
		all = append(all, k.destroySockets(found...)...)
	}
	return all, errors.New("end older connections: the trees grow faster than they are looked at")
}
