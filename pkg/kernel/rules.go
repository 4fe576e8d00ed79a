package kernel

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

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

// File identifies a file: the number of its device, as stat(2) gives it, and of
// its inode.
type File struct{ Device, Inode uint64 }

// EnrolExecutable does what [Kernel.EnrolUID] does for the processes that
// execute the file, from their next exec of it on.
func (k *Kernel) EnrolExecutable(f File, enrolment uint32) error {
	return k.addRule(func() error { return k.maps.EnrolExe.Put(exeKey(f), enrolment) })
}

// RemoveExecutable takes back [Kernel.EnrolExecutable].
func (k *Kernel) RemoveExecutable(f File) error {
	return k.addRule(func() error { return remove(k.maps.EnrolExe, exeKey(f)) })
}

// exeKey has the device in the kernel's own encoding, 20 bits for the minor.
func exeKey(f File) bpf.HeadgateExeKey {
	return bpf.HeadgateExeKey{Inode: f.Inode, Device: unix.Major(f.Device)<<20 | unix.Minor(f.Device)}
}

// WatchCgroups has [Kernel.Events] report cgroups that are made from now on.
func (k *Kernel) WatchCgroups(watch bool) error {
	var n uint32
	if watch {
		n = 1
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) { s.CgroupWatch = n })
}

// addRule changes a rule table and tells the programs whether they need to look
// into it.
func (k *Kernel) addRule(f func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.addRuleLocked(f)
}

func (k *Kernel) addRuleLocked(f func() error) error {
	// Until the table is as it will be, every cgroup is looked up.
	if err := k.changeLocked(func(s *bpf.HeadgateDaemonSettings) { s.CgroupFilter = math.MaxUint64 }); err != nil {
		return err
	}
	// What the kernel adds from now on keeps its bit; the rest is found below.
	if err := k.maps.NamedFilter.Put(uint32(0), [64]byte{}); err != nil {
		return fmt.Errorf("empty filter of cgroups: %w", err)
	}
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
	filter, err := cgroupFilter(k.maps.EnrolCgroup)
	if err != nil {
		return err
	}
	exes, err := length[bpf.HeadgateExeKey](k.maps.EnrolExe)
	if err != nil {
		return err
	}
	return k.changeLocked(func(s *bpf.HeadgateDaemonSettings) {
		s.UidRules, s.CgroupRules, s.ExeRules = uids, cgroups, exes
		s.CgroupFilter = filter
	})
}

// cgroupFilter has a bit for each rule, by the cgroup's number modulo 64.
func cgroupFilter(m *ebpf.Map) (uint64, error) {
	var filter, id uint64
	var enrolment uint32
	entries := m.Iterate()
	for entries.Next(&id, &enrolment) {
		filter |= 1 << (id % 64)
	}
	if err := entries.Err(); err != nil {
		return 0, fmt.Errorf("list enrolment rules: %w", err)
	}
	return filter, nil
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

// Rules are enrolment rules: what they name, and the enrolment.
type Rules struct {
	UIDs        map[uint32]uint32 // by real user id
	Cgroups     map[uint64]uint32 // by the cgroup's number
	Executables map[File]uint32
	// Known are the cgroups that had a rule before Cgroups was made up. Others keep
	// theirs, since the kernel may have added it meanwhile. At nil no cgroup keeps
	// a rule that is not in Cgroups.
	Known []uint64
}

// SetRules replaces the enrolment rules, as [Kernel.EnrolUID],
// [Kernel.EnrolCgroup] and [Kernel.EnrolExecutable] take them. New rules come
// first and old ones go last. Processes that an old rule enrolled stay enrolled.
func (k *Kernel) SetRules(r Rules) error {
	exes := make(map[bpf.HeadgateExeKey]uint32, len(r.Executables))
	for f, enrolment := range r.Executables {
		exes[exeKey(f)] = enrolment
	}
	return errors.Join(
		setRules(k, k.maps.EnrolUid, r.UIDs, nil),
		setRules(k, k.maps.EnrolCgroup, r.Cgroups, r.Known),
		setRules(k, k.maps.EnrolExe, exes, nil),
	)
}

func setRules[K comparable](k *Kernel, m *ebpf.Map, wanted map[K]uint32, known []K) error {
	old, err := stale(m, wanted)
	if err != nil {
		return err
	}
	if known != nil {
		old = slices.DeleteFunc(old, func(key K) bool { return !slices.Contains(known, key) })
	}
	return k.addRule(func() error {
		err := put(m, wanted)
		full := errors.Is(err, unix.E2BIG)
		if err != nil && !full {
			return err
		}
		for _, key := range old {
			if err := remove(m, key); err != nil {
				return err
			}
		}
		if full { // of those that are gone now, it may be
			return put(m, wanted)
		}
		return nil
	})
}

func put[K comparable](m *ebpf.Map, wanted map[K]uint32) error {
	for key, enrolment := range wanted {
		if err := m.Put(key, enrolment); err != nil {
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
