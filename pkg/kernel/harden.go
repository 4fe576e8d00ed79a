package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
)

// errLSMIdle: such programs load and attach wherever the kernel was built with
// them, but nothing calls them.
var errLSMIdle = errors.New("LSM programs load and are not called: bpf is not among the active security modules")

// withoutLSM takes the hardening tier out of the spec unless LSM programs load
// and are called: the kernel needs "bpf" among its active security modules, and
// a trampoline for the architecture.
func withoutLSM(spec *ebpf.CollectionSpec) []Loss {
	err := probeLSM()
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

// probeLSM attaches a program to a hook that is harmless, passes there, and looks
// whether the program ran.
func probeLSM() (err error) {
	ran, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("make map: %w", err)
	}
	defer func() { err = errors.Join(err, ran.Close()) }()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "task_getpgid", License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, ran.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.StoreImm(asm.R2, 0, 0, asm.Word),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.StoreImm(asm.R0, 0, 1, asm.Word),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("pass"),
			asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	l, err := link.AttachLSM(link.LSMOptions{Program: p})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	// Of 0 the kernel asks nobody.
	if _, err := unix.Getpgid(os.Getpid()); err != nil {
		return fmt.Errorf("pass the hook: %w", err)
	}
	var called uint64
	if err := ran.Lookup(uint32(0), &called); err != nil {
		return fmt.Errorf("read map: %w", err)
	}
	if called == 0 {
		return errLSMIdle
	}
	return nil
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
