package kernel

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
)

// withoutLSM takes the hardening tier out of the spec unless LSM programs load:
// the kernel needs "bpf" among its security modules, and a trampoline for the
// architecture.
func withoutLSM(spec *ebpf.CollectionSpec) []Loss {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "sb_umount", License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err == nil {
		err = p.Close()
	}
	if err == nil {
		return nil
	}
	for name, p := range spec.Programs {
		if p.Type == ebpf.LSM {
			delete(spec.Programs, name)
		}
	}
	return []Loss{{
		Program: "headgate_lsm_*", Cause: err,
		Open:   "packet, vsock and other sockets without a cgroup hook; unix sockets by a link of another name; root agents may take programs and pins away",
		Remedy: "boot with bpf in lsm= (arm64: Linux 6.4 or later), or headgate run --confine, or the unit drop-ins",
	}}
}

// attachLSM attaches the hardening tier, where it was loaded.
func (k *Kernel) attachLSM() error {
	var names []string
	for name, p := range k.programs {
		if p.Type() == ebpf.LSM {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := k.attachTracing(name, "lsm", hook{}); err != nil {
			return fmt.Errorf("attach %s: %w", name, err)
		}
	}
	return nil
}

// SetDeniedSockets replaces the unix sockets that enrolled processes may not
// connect to by whatever name, for the hardening tier: see [Kernel.Lost]. New
// ones come first and old ones go last.
func (k *Kernel) SetDeniedSockets(files []File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	wanted := make(map[bpf.HeadgateSocketFile]uint32, len(files))
	for _, f := range files {
		wanted[bpf.HeadgateSocketFile{Inode: f.Inode, Device: unix.Major(f.Device)<<20 | unix.Minor(f.Device)}] = 1
	}
	old, err := stale(k.maps.DeniedSockets, wanted)
	if err != nil {
		return err
	}
	for key, value := range wanted {
		if err := k.maps.DeniedSockets.Put(key, value); err != nil {
			return fmt.Errorf("deny unix socket: %w", err)
		}
	}
	for _, key := range old {
		if err := remove(k.maps.DeniedSockets, key); err != nil {
			return err
		}
	}
	return nil
}
