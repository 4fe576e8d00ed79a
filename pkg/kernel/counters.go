package kernel

import (
	"fmt"
	"slices"
)

// Counters returns how often a hook ended in each of its ways, since the maps
// were created. The names are those of the counters in bpf/shared.h in lower
// case. Beside them: events_malformed, sockets_destroyed, sockets_kept and
// pins_restored, which this process counts.
func (k *Kernel) Counters() (map[string]uint64, error) {
	all := make(map[string]uint64, len(k.names)+4)
	for i, name := range k.names {
		n, err := k.counter(i)
		if err != nil {
			return nil, err
		}
		all[name] += n
	}
	all["events_malformed"] = k.malformed.Load()
	all["sockets_destroyed"] = k.socketsDestroyed.Load()
	all["sockets_kept"] = k.socketsKept.Load()
	all["pins_restored"] = k.pinsRestored.Load()
	return all, nil
}

// Counter returns one of the counters that the programs keep: for who looks often.
func (k *Kernel) Counter(name string) (n uint64, err error) {
	i := slices.Index(k.names, name)
	if i < 0 {
		return 0, fmt.Errorf("read counter %s: there is none of that name", name)
	}
	return k.counter(i)
}

func (k *Kernel) counter(i int) (n uint64, err error) {
	var perCPU []uint64
	if err := k.maps.Counters.Lookup(uint32(i), &perCPU); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", k.names[i], err)
	}
	for _, one := range perCPU {
		n += one
	}
	return n, nil
}

// ProgramInfo describes an attached program.
type ProgramInfo struct {
	Name string
	// AttachType is the hook, as in "CGroupInet4Connect" or
	// "tp_btf/sched_process_fork".
	AttachType string
	// Cgroup is the directory that it is attached to; empty for the programs
	// that follow processes.
	Cgroup string
	// RunCount is how often it ran. The kernel counts only while BPF statistics
	// are switched on (kernel.bpf_stats_enabled); otherwise it is zero.
	RunCount uint64
	// Instructions is how many the verifier had to look at; zero before Linux
	// 5.16, which does not tell.
	Instructions uint32
}

// Programs describes what is attached, in the order of attachment.
func (k *Kernel) Programs() ([]ProgramInfo, error) {
	var infos []ProgramInfo
	for _, a := range k.links {
		program := k.programs[a.program]
		info, err := program.Info()
		if err != nil {
			return nil, fmt.Errorf("inspect program %s: %w", a.program, err)
		}
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("inspect program %s: %w", a.program, err)
		}
		verified, _ := info.VerifiedInstructions()
		infos = append(infos, ProgramInfo{a.program, a.where, a.cgroup, stats.RunCount, verified})
	}
	return infos, nil
}
