package kernel

import (
	"fmt"
	"slices"

	"github.com/headgate/headgate/bpf"
)

// CgroupName is an enrolment rule for cgroups that may not be there yet. The
// kernel itself applies it to a cgroup when that is made, before any process can
// be in it, and also while no daemon runs.
type CgroupName struct {
	// Level is the number of components of the cgroup's path that is compared. At
	// zero the last component is, at any level, without the "_" that systemd may
	// have put before it.
	Level int
	// Head and Tail are what the text begins and ends with.
	Head, Tail string
	// MinLen and MaxLen bound the text's length, in bytes.
	MinLen, MaxLen int
	Enrolment      uint32
}

// SetCgroupNames replaces the rules, of which the first that fits counts.
// Cgroups that are there already are [Kernel.SetRules]' matter. It returns those
// that the tables have no room for: nobody but a daemon that sees the cgroup
// (see [Kernel.WatchCgroups]) can apply those.
func (k *Kernel) SetCgroupNames(rules []CgroupName) (left []CgroupName, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	room := int(k.maps.CgroupNames.MaxEntries()) / 2
	taken := []bpf.HeadgateCgroupName{}
	for _, r := range rules {
		if e, ok := r.encode(); ok && len(taken) < room {
			taken = append(taken, e)
		} else {
			left = append(left, r)
		}
	}
	if k.cgroupNames != nil && slices.Equal(taken, k.cgroupNames) {
		return left, nil
	}
	// What the kernel added under the old names must be found without them too.
	if err := k.addRuleLocked(func() error { return nil }); err != nil {
		return left, err
	}
	// The half that is not in force: a cgroup that is made meanwhile meets neither
	// half a rule nor none.
	first := uint32(room)
	if k.settings.NameRules>>16 != 0 {
		first = 0
	}
	for i, e := range taken {
		if err := k.maps.CgroupNames.Put(first+uint32(i), e); err != nil {
			return left, fmt.Errorf("set names of cgroups: %w", err)
		}
	}
	force := uint32(0)
	if len(taken) > 0 {
		force = first<<16 | uint32(len(taken))
	}
	if err := k.changeLocked(func(s *bpf.HeadgateDaemonSettings) { s.NameRules = force }); err != nil {
		return left, err
	}
	k.cgroupNames = taken
	return left, nil
}

// encode fails for what is longer than an entry has room for, and for what fits
// no text.
func (r CgroupName) encode() (e bpf.HeadgateCgroupName, ok bool) {
	if len(r.Head) > 8*len(e.Head) || len(r.Tail) > 8*len(e.Tail) || r.MinLen < max(1, len(r.Head)+len(r.Tail)) || r.MaxLen < r.MinLen || r.Level < 0 {
		return e, false
	}
	e = bpf.HeadgateCgroupName{MinLen: uint64(r.MinLen), MaxLen: uint64(r.MaxLen), Level: uint64(r.Level), Enrolment: r.Enrolment}
	if r.Level > 0 {
		e.ByPath = ^uint64(0)
	}
	lay(r.Head, 0, e.Head[:], e.HeadMask[:])
	lay(r.Tail, 8*len(e.Tail)-len(r.Tail), e.Tail[:], e.TailMask[:])
	return e, true
}

// lay writes text as memory has it from byte at on, and its mask.
func lay(text string, at int, words, mask []uint64) {
	for i := range len(text) {
		word, shift := (at+i)/8, 8*((at+i)%8)
		words[word] |= uint64(text[i]) << shift
		mask[word] |= 0xff << shift
	}
}

// CgroupRule returns the enrolment that the rule for a cgroup itself names, if
// there is such a rule.
func (k *Kernel) CgroupRule(id uint64) (enrolment uint32, ok bool) {
	// What cannot be looked up has none: the caller makes one.
	err := k.maps.EnrolCgroup.Lookup(id, &enrolment)
	return enrolment, err == nil
}

// RuledCgroups lists the cgroups that have an enrolment rule now, those included
// that the kernel found by [Kernel.SetCgroupNames].
func (k *Kernel) RuledCgroups() ([]uint64, error) {
	list := []uint64{}
	var id uint64
	var enrolment uint32
	entries := k.maps.EnrolCgroup.Iterate()
	for entries.Next(&id, &enrolment) {
		list = append(list, id)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list enrolment rules: %w", err)
	}
	return list, nil
}
