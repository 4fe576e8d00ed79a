package kernel

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
)

// OtherRules stands in [Kernel.DirectFlows] for the rules beyond those that the
// kernel side tells apart, 1024 of them since the maps were created.
const OtherRules uint64 = math.MaxUint64

// DirectFlows is what TCP connections of enrolled processes came to that a
// destination let go as asked, [Direct] or [Observed]. One that was never
// established is not among them.
type DirectFlows struct {
	// Begun are those that were established, Flows those of them that have ended.
	// The rest of the figures is of the latter.
	Begun, Flows uint64
	// Up are the bytes that the other side has acknowledged, Down those that came
	// from it, whether or not anybody read them: of the streams, without headers
	// and without what was sent twice.
	Up, Down uint64
	// Microseconds are how long they lasted together, each from connect(2) to its
	// end: with TIME_WAIT, that is where it begins. No [time.Duration]: a thousand
	// at a time come to the most that it holds within months.
	Microseconds uint64
}

// DirectFlows returns what went past the proxy since the maps were created, by
// [Destination.Rule]. The kernel counts by itself, so what begins or ends while no
// daemon runs is included if the programs stay attached. A connection counts for
// the rule that let it go, whatever rules are in force when it ends. Nothing is
// counted of datagrams, of what passes because it is loopback or because nobody
// mediates, and of MPTCP beyond the first subflow. A figure never falls.
func (k *Kernel) DirectFlows() (map[uint64]DirectFlows, error) {
	all := make(map[uint64]DirectFlows)
	var rule uint64
	var perCPU []bpf.HeadgateDirectTotal
	entries := k.maps.DirectTotals.Iterate()
	for entries.Next(&rule, &perCPU) {
		var sum DirectFlows
		for _, one := range perCPU {
			sum.Begun += one.Begun
			sum.Flows += one.Flows
			sum.Up += one.Up
			sum.Down += one.Down
			sum.Microseconds += one.Microseconds
		}
		all[rule] = sum
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read direct flows: %w", err)
	}
	return all, nil
}

// reserveOtherRules makes the entry that takes what the others have no room for.
// An earlier daemon may have made it.
func (k *Kernel) reserveOtherRules() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count processors: %w", err)
	}
	err = k.maps.DirectTotals.Update(OtherRules, make([]bpf.HeadgateDirectTotal, cpus), ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("prepare totals of direct flows: %w", err)
	}
	return nil
}
