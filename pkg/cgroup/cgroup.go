// Package cgroup finds the cgroup v2 hierarchy and works with its directories.
//
// Only version 2 counts: hooks attach to it, and the kernel reports its ids. On
// hybrid hosts it is mounted below the version 1 hierarchies. Functions may be
// called concurrently.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoMount is returned where no cgroup v2 hierarchy is mounted.
	ErrNoMount = errors.New("no cgroup2 file system is mounted")
	// ErrNoMembership is returned for a process that is in no cgroup v2.
	ErrNoMembership = errors.New("process is in no cgroup v2")
)

// Mount returns the directory at which the cgroup v2 hierarchy is mounted, with
// its root visible: /sys/fs/cgroup, or /sys/fs/cgroup/unified on hybrid hosts.
// It returns [ErrNoMount] if there is none.
func Mount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2 mount: %w", err)
	}
	defer f.Close()
	return findMount(f)
}

// findMount reads the format of proc_pid_mountinfo(5): six fixed fields,
// optional ones up to a hyphen, then the file system's type.
func findMount(r io.Reader) (string, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		front, back, found := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(front)
		if !found || len(fields) < 6 || !strings.HasPrefix(back, "cgroup2 ") {
			continue
		}
		// A bind mount of some sub-directory is not the hierarchy.
		if root := fields[3]; root == "/" {
			return unescape(fields[4]), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read mount table: %w", err)
	}
	return "", ErrNoMount
}

// unescape undoes the kernel's octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Create makes the cgroup at path, and its parents, unless they exist.
func Create(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("create cgroup: %w", err)
	}
	return nil
}

// Remove removes the cgroup at path. It kills nothing: a cgroup with processes
// or children is left as it is, with EBUSY. One that is gone is no error.
func Remove(path string) error {
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}

// Move moves the process pid with all its threads to the cgroup at path. A pid
// of zero is the caller.
func Move(path string, pid int) error {
	f, err := os.OpenFile(filepath.Join(path, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("move process to cgroup: %w", err)
	}
	_, err = f.WriteString(strconv.Itoa(pid))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("move process %d to cgroup: %w", pid, err)
	}
	return nil
}

// ID returns the number by which the kernel knows the cgroup at path:
// bpf_get_current_cgroup_id, and the inode of the directory.
func ID(path string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("identify cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("identify cgroup %s: not on a cgroup2 file system", path)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("identify cgroup %s: %w", path, err)
	}
	return st.Ino, nil
}

// Of returns the path of the cgroup that the process pid is in, relative to the
// hierarchy's root and starting with a slash. A pid of zero is the caller. It
// returns [ErrNoMembership] if the process is in no cgroup v2.
func Of(pid int) (string, error) {
	who := "self"
	if pid != 0 {
		who = strconv.Itoa(pid)
	}
	b, err := os.ReadFile(filepath.Join("/proc", who, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("find cgroup of process: %w", err)
	}
	return membership(string(b))
}

// membership reads the format of cgroups(7): the line of version 2 has the
// hierarchy number 0 and no controllers. The path itself may hold colons.
func membership(table string) (string, error) {
	for line := range strings.Lines(table) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, nil
		}
	}
	return "", ErrNoMembership
}

// Enter moves the calling process into the cgroup at path, which is created if
// needed, and returns a function that moves it back to where it was. A daemon
// whose hooks are attached below the root must be below that cgroup itself,
// with its own cgroup: hooks follow the cgroup in which a socket was created.
func Enter(path string) (leave func() error, err error) {
	mount, err := Mount()
	if err != nil {
		return nil, err
	}
	from, err := Of(0)
	if err != nil {
		return nil, err
	}
	if err := Create(path); err != nil {
		return nil, err
	}
	if err := Move(path, os.Getpid()); err != nil {
		return nil, err
	}
	return func() error { return Move(filepath.Join(mount, from), os.Getpid()) }, nil
}
