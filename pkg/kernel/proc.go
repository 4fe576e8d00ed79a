package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/process"
)

const (
	// tick is the unit of start times in /proc in nanoseconds: USER_HZ is 100
	// on every architecture that Go and we support.
	tick = 10_000_000
	// argvRoom bounds an argument vector, as it does in bpf/shared.h.
	argvRoom = 4096
)

// SameStart reports whether two start times in nanoseconds can be the same
// moment, when one or both of them went through /proc, which rounds down to
// 10 ms.
func SameStart(a, b uint64) bool { return a/tick == b/tick }

// ProcStart returns the start time of the process pid in nanoseconds of the
// boot-time clock, rounded down to 10 ms: all that /proc tells. Compare it with
// [SameStart]. It returns [ErrGone] if there is no such process.
func ProcStart(pid int) (uint64, error) {
	stat, err := readProc(pid, "stat", 4096)
	if err != nil {
		return 0, err
	}
	return startTime(stat)
}

// startTime reads field 22 of proc_pid_stat(5). The second field is a name in
// parentheses that may itself hold blanks and parentheses.
func startTime(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("read start time: malformed stat")
	}
	const startField = 22 - 3 // counted from the third
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= startField {
		return 0, errors.New("read start time: short stat")
	}
	ticks, err := strconv.ParseUint(fields[startField], 10, 64)
	if err != nil || ticks > ^uint64(0)/tick {
		return 0, fmt.Errorf("read start time: %q is no number of ticks", fields[startField])
	}
	return ticks * tick, nil
}

func readProc(pid int, file string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), file))
	if err != nil {
		return nil, goneOr(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, goneOr(err)
	}
	return b, nil
}

func goneOr(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return fmt.Errorf("read /proc: %w", err)
}

// procImage reads what the process executes. argv is what the process made of
// it: it may have been rewritten.
func procImage(pid int) (*process.Image, error) {
	exe := filepath.Join("/proc", strconv.Itoa(pid), "exe")
	path, err := os.Readlink(exe)
	if err != nil {
		return nil, goneOr(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(exe, &st); err != nil {
		return nil, goneOr(err)
	}
	argv, err := readProc(pid, "cmdline", argvRoom+1)
	if err != nil {
		return nil, err
	}
	image := &process.Image{
		Exe:           strings.TrimSuffix(path, " (deleted)"),
		Device:        st.Dev,
		Inode:         st.Ino,
		ArgvTruncated: len(argv) > argvRoom,
	}
	image.Argv = splitArgv(argv[:min(len(argv), argvRoom)])
	return image, nil
}

// splitArgv takes apart arguments that each end with NUL; the last may be cut.
func splitArgv(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
}

// Owner returns the real uid of a process, and its cgroup as a path below the
// root of the hierarchy. It returns [ErrGone] if there is no such process.
func Owner(pid int) (uid uint32, cgroupPath string, err error) {
	status, err := readProc(pid, "status", 16384)
	if err != nil {
		return 0, "", err
	}
	if uid, err = realUID(status); err != nil {
		return 0, "", err
	}
	if cgroupPath, err = cgroup.Of(pid); err != nil {
		return 0, "", goneOr(err)
	}
	return uid, cgroupPath, nil
}

// procOwner returns the real uid and the cgroup's number of a process.
func procOwner(pid int) (uid uint32, cgroupID uint64, err error) {
	uid, path, err := Owner(pid)
	if err != nil {
		return 0, 0, err
	}
	mount, err := cgroup.Mount()
	if err != nil {
		return 0, 0, err
	}
	cgroupID, err = cgroup.ID(filepath.Join(mount, path))
	return uid, cgroupID, err
}

func realUID(status []byte) (uint32, error) {
	for line := range strings.Lines(string(status)) {
		rest, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		if fields := strings.Fields(rest); len(fields) > 0 {
			uid, err := strconv.ParseUint(fields[0], 10, 32)
			if err == nil {
				return uint32(uid), nil
			}
		}
	}
	return 0, errors.New("read uid: malformed status")
}
