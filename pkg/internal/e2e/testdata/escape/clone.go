package main

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// image is an execve that needs no memory of the Go runtime's when it comes to it.
type image struct {
	path *byte
	argv []*byte
	envp []*byte
}

func imageOf(args []string) (image, error) {
	path, err := syscall.BytePtrFromString("/proc/self/exe")
	if err != nil {
		return image{}, err
	}
	argv, err := syscall.SlicePtrFromStrings(append([]string{"escape"}, args...))
	if err != nil {
		return image{}, err
	}
	envp, err := syscall.SlicePtrFromStrings(os.Environ())
	return image{path, argv, envp}, err
}

// recycled lets a child end and starts the next one under the same pid.
func recycled(args []string) (string, error) {
	need(args, 1)
	first := self([]string{"kill", "2147483646"})
	first.Stdout = nil
	if err := first.Run(); err != nil {
		return "", err
	}
	next, err := imageOf(args)
	if err != nil {
		return "", err
	}
	tid := int32(first.Process.Pid)
	clone := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
		setTID, setTIDSize, cgroup                                           uint64
	}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&tid))), setTIDSize: 1}
	pid, errno := fork(uintptr(unsafe.Pointer(&clone)), unsafe.Sizeof(clone), &next)
	runtime.KeepAlive(&tid)
	runtime.KeepAlive(&clone)
	if errno != 0 {
		return "", at("clone3", errno)
	}
	var status unix.WaitStatus
	if err := uninterrupted(func() error { _, err := unix.Wait4(pid, &status, 0, nil); return err }); err != nil {
		return "", at("wait", err)
	}
	return "", errSaid
}

// fork is clone3 and in the child an execve. Between the two there is a copy of
// one thread of a Go program, which must not call anything that may stop for
// the runtime.
//
//go:norace
func fork(clone, size uintptr, next *image) (int, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, clone, size, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(next.path)), uintptr(unsafe.Pointer(&next.argv[0])), uintptr(unsafe.Pointer(&next.envp[0])))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// sharedFiles connects a socket of the parent's in a child that shares the
// parent's descriptors, after the parent has exited. The child then becomes
// another image that says what it hears.
func sharedFiles(args []string) (string, error) {
	need(args, 1)
	family, _ := target(args[0])
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return "", at("keep the socket", err)
	}
	next, err := imageOf([]string{"after", strconv.Itoa(fd), "used", args[0]})
	if err != nil {
		return "", err
	}
	to := rawTarget(args[0])
	orphan(orphanWork{parent: os.Getpid(), fd: fd, to: uintptr(unsafe.Pointer(&to[0])), length: uintptr(len(to)), next: &next})
	runtime.KeepAlive(to)
	return "", errSaid
}

type orphanWork struct {
	parent, fd int
	to, length uintptr
	next       *image
}

// orphan returns in the parent alone.
//
//go:norace
func orphan(w orphanWork) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return
	}
	for {
		parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		if parent != uintptr(w.parent) {
			break
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, uintptr(w.fd), w.to, w.length)
	if errno != 0 {
		// Nothing is said, which no row takes for a success.
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(w.next.path)), uintptr(unsafe.Pointer(&w.next.argv[0])), uintptr(unsafe.Pointer(&w.next.envp[0])))
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
}
