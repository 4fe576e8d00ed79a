package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// SetRules replaces the enrolment rules: uids and cgroups map a real user id and
// a cgroup's number to an enrolment, as [Kernel.EnrolUID] and
// [Kernel.EnrolCgroup] take them. New rules come first and old ones go last.
// Processes that an old rule enrolled stay enrolled.
func (k *Kernel) SetRules(uids map[uint32]uint32, cgroups map[uint64]uint32) error {
	staleUIDs, err := stale(k.maps.EnrolUid, uids)
	if err != nil {
		return err
	}
	staleCgroups, err := stale(k.maps.EnrolCgroup, cgroups)
	if err != nil {
		return err
	}
	for uid, enrolment := range uids {
		if err := k.EnrolUID(uid, enrolment); err != nil {
			return err
		}
	}
	for id, enrolment := range cgroups {
		if err := k.EnrolCgroup(id, enrolment); err != nil {
			return err
		}
	}
	for _, uid := range staleUIDs {
		if err := k.RemoveUID(uid); err != nil {
			return err
		}
	}
	for _, id := range staleCgroups {
		if err := k.RemoveCgroup(id); err != nil {
			return err
		}
	}
	return nil
}

// stale lists the keys of m that are not wanted.
func stale[K comparable](m *ebpf.Map, wanted map[K]uint32) ([]K, error) {
	var list []K
	var key K
	var value uint32
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if _, ok := wanted[key]; !ok {
			list = append(list, key)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list enrolment rules: %w", err)
	}
	return list, nil
}
