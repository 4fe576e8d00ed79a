// Package testenv gives privileged tests what they need of the machine, and
// skips them, with the reason, where it cannot be had.
//
// A test that uses it is named TestPrivileged…. With HEADGATE_PRIVILEGED=1 a
// skip is a failure: somewhere those tests must run. It imports nothing of the
// module, so that any package's tests may use it.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Capability is the number of a Linux capability, as unix.CAP_BPF.
type Capability = int

// Need skips the test unless the process holds every one of caps in its
// effective set. With HEADGATE_PRIVILEGED=1 it fails the test instead.
func Need(t testing.TB, caps ...Capability) {
	t.Helper()
	held, err := effective()
	if err != nil {
		t.Fatalf("read capabilities: %v", err)
	}
	for _, c := range caps {
		if held&(1<<c) == 0 {
			Skip(t, "needs "+name(c))
		}
	}
}

// Skip skips the test for a reason that lies in the environment. With
// HEADGATE_PRIVILEGED=1 it fails the test instead.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("HEADGATE_PRIVILEGED") == "1" {
		t.Fatalf("%s, and HEADGATE_PRIVILEGED=1 demands that it runs", reason)
	}
	t.Skip(reason)
}

func effective() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func name(c Capability) string {
	names := map[Capability]string{
		unix.CAP_BPF:             "CAP_BPF",
		unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
		unix.CAP_NET_ADMIN:       "CAP_NET_ADMIN",
		unix.CAP_PERFMON:         "CAP_PERFMON",
		unix.CAP_SYS_ADMIN:       "CAP_SYS_ADMIN",
		unix.CAP_SYS_PTRACE:      "CAP_SYS_PTRACE",
		unix.CAP_SETUID:          "CAP_SETUID",
	}
	if n, ok := names[c]; ok {
		return n
	}
	return fmt.Sprintf("capability %d", c)
}

// Cgroup makes a cgroup for the test below the root of the cgroup2 mount and
// returns its directory. It moves no process. When the test ends the cgroup and
// those that were made in it are removed, and what still runs there is killed:
// only the test can have put it there.
func Cgroup(t testing.TB) string {
	t.Helper()
	Need(t, unix.CAP_SYS_ADMIN)
	mount, err := cgroupMount()
	if err != nil {
		Skip(t, err.Error())
	}
	dir, err := os.MkdirTemp(mount, "headgate-test-")
	if err != nil {
		t.Fatalf("make cgroup: %v", err)
	}
	t.Cleanup(func() {
		if err := removeCgroup(dir); err != nil {
			t.Errorf("remove cgroup: %v", err)
		}
	})
	return dir
}

func cgroupMount() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("needs a cgroup2 mount")
}

func removeCgroup(dir string) error {
	// Since Linux 5.14. Where it is missing, rmdir says what is left.
	kill := filepath.Join(dir, "cgroup.kill")
	if err := os.WriteFile(kill, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := rmdirWhenEmpty(dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

// rmdirWhenEmpty waits for killed processes to be gone: the kernel says EBUSY
// until then, and cgroup.events changes when the last one leaves.
func rmdirWhenEmpty(dir string) error {
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	for range 100 {
		b := make([]byte, 256)
		n, err := events.ReadAt(b, 0)
		if n == 0 && err != nil {
			return err
		}
		if strings.Contains(string(b[:n]), "populated 0") {
			break
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, 50); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return unix.Rmdir(dir)
}

// StartIn makes cmd start inside the cgroup at dir, from its first instruction
// (clone3 with CLONE_INTO_CGROUP). Call it before cmd.Start.
func StartIn(t testing.TB, cmd *exec.Cmd, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatalf("open cgroup: %v", err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close cgroup: %v", err)
		}
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(f.Fd())
}

// BPFFS mounts a BPF file system of the test's own on a temporary directory and
// returns it. It is unmounted when the test ends.
func BPFFS(t testing.TB) string {
	t.Helper()
	Need(t, unix.CAP_SYS_ADMIN)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount bpffs: %v", err)
		}
	})
	return dir
}

// Netns runs f on a thread of its own inside a fresh network namespace with
// only loopback, which is up. Sockets that f makes stay in that namespace.
func Netns(t testing.TB, f func()) {
	t.Helper()
	Need(t, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN)
	failed := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that nobody
		// else runs in this namespace by accident.
		runtime.LockOSThread()
		// Also when f ends the goroutine, as t.Fatal does.
		defer close(failed)
		failed <- inNetns(f)
	}()
	if err := <-failed; err != nil {
		t.Fatalf("network namespace: %v", err)
	}
}

func inNetns(f func()) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name loopback: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("raise loopback: %w", err)
	}
	f()
	return nil
}
