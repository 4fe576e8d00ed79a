package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
)

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
