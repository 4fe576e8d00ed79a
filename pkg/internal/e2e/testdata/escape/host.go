package main

import (
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func hostWays() map[string]attempt {
	return map[string]attempt{
		"ptrace":   ptrace, // PID
		"kill":     kill,   // PID
		"bpf-maps": bpfMaps,
		"bpf-pin":  bpfPin,                                                               // PATH
		"unlink":   func(a []string) (string, error) { return "removed", removeFile(a) }, // PATH
	}
}

func pid(args []string) int {
	need(args, 1)
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 2 {
		os.Exit(2)
	}
	return n
}

func ptrace(args []string) (string, error) {
	return "attached", at("attach", unix.PtraceSeize(pid(args)))
}

func kill(args []string) (string, error) {
	return "killed", at("kill", unix.Kill(pid(args), unix.SIGKILL))
}

// bpfMaps asks for the first BPF map of the machine.
func bpfMaps([]string) (string, error) {
	var attr [128]byte
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_NEXT_ID, uintptr(unsafe.Pointer(&attr[0])), unsafe.Sizeof(attr))
	if errno != 0 {
		return "", at("list maps", lacking(errno))
	}
	return "listed", nil
}

// bpfPin opens what is pinned at a path.
func bpfPin(args []string) (string, error) {
	need(args, 1)
	path := append([]byte(args[0]), 0)
	attr := struct {
		path   uint64
		fd     uint32
		flags  uint32
		pathFD int32
		_      [108]byte
	}{path: address(&path[0])}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return "", at("open pin", errno)
	}
	return "opened", nil
}

func removeFile(args []string) error {
	need(args, 1)
	err := os.Remove(args[0])
	var path *os.PathError
	if errors.As(err, &path) {
		return at("remove", path.Err)
	}
	return err
}
