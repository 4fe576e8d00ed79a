package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Supported tells whether this kernel takes filters, and this build has one for
// its architecture.
func Supported() error {
	if _, err := filter(); err != nil {
		return err
	}
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	if _, err := seccompCall(unix.SECCOMP_GET_ACTION_AVAIL, 0, unsafe.Pointer(&action)); err != nil {
		return fmt.Errorf("ask for seccomp filters: %w", err)
	}
	return nil
}

// Install confines all threads of the calling process, and whatever they start
// from now on. It can't be undone, so it is for a process that is about to exec.
// It returns the mode that is in force: never Auto, and None if nothing was done.
//
// It returns [ErrPrivileges] for Families without CAP_SYS_ADMIN. With an error
// the process may be confined in part, and should not go on.
func Install(m Mode) (Mode, error) {
	privileged, err := mayFilter()
	if err != nil {
		return None, err
	}
	switch {
	case m == None, m == Auto && !privileged:
		return None, nil
	case m == Auto:
		m = Families
	}
	if m == Families && !privileged {
		return None, fmt.Errorf("confine process: %w", ErrPrivileges)
	}
	program, err := filter()
	if err != nil {
		return None, err
	}
	// The bit is the thread's. The kernel copies it with the filter to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if m != Families {
		m = Strict
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return None, fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if err := load(program); err != nil {
		return None, err
	}
	return m, nil
}

// mayFilter tells whether a filter may be had without no_new_privs. In a process
// that has the bit already there is nothing to give up.
func mayFilter() (bool, error) {
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return false, fmt.Errorf("read no_new_privs: %w", err)
	}
	if set == 1 {
		return true, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0, nil
}

// load installs the program on every thread of the process. The library's own
// loader takes the number of a thread that could not be confined for success.
func load(program []bpf.RawInstruction) error {
	code := make([]unix.SockFilter, len(program))
	for i, in := range program {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	thread, err := seccompCall(unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, unsafe.Pointer(&prog))
	if err != nil {
		return fmt.Errorf("install filter: %w", err)
	}
	if thread != 0 {
		return fmt.Errorf("install filter: thread %d has another", thread)
	}
	return nil
}

// seccompCall is seccomp(2), for which x/sys has no function. The result is 0, or
// the thread that FILTER_FLAG_TSYNC failed at.
func seccompCall(operation, flags uintptr, args unsafe.Pointer) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, operation, flags, uintptr(args))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
