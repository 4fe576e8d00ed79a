package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

func TestMountIsFoundInTheTable(t *testing.T) {
	tests := []struct {
		name, table, want string
		err               error
	}{
		{"unified host", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup", nil},
		{"hybrid host", "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified", nil},
		{"no optional fields", "41 31 0:38 / /cg rw - cgroup2 none rw\n", "/cg", nil},
		{"blank in the path", `41 31 0:38 / /my\040cg rw - cgroup2 none rw`, "/my cg", nil},
		{"bind mount of a part comes first", "40 31 0:38 /slice /part rw - cgroup2 c rw\n41 31 0:38 / /whole rw - cgroup2 c rw\n", "/whole", nil},
		{"version 1 only", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup2 rw,cpu\n", "", ErrNoMount},
		{"short line", "41 31 - cgroup2 c rw\n", "", ErrNoMount},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := findMount(strings.NewReader(tt.table))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestMembershipIsTheLineOfVersion2(t *testing.T) {
	tests := []struct {
		table, want string
		err         error
	}{
		{"3:cpu:/a\n0::/job.slice/x\n", "/job.slice/x", nil},
		{"0::/odd:name\n", "/odd:name", nil},
		{"10::/not\n1:name=systemd:/x\n", "", ErrNoMembership},
		{"", "", ErrNoMembership},
	}
	for _, tt := range tests {
		got, err := membership(tt.table)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("membership(%q) = %q, %v; want %q, %v", tt.table, got, err, tt.want, tt.err)
		}
	}
}

func TestIDRefusesWhatIsNoCgroup(t *testing.T) {
	if id, err := ID(t.TempDir()); err == nil {
		t.Errorf("a plain directory has cgroup id %d", id)
	}
}

func TestPrivilegedProcessMovesAndItsPathFollows(t *testing.T) {
	dir := testenv.Cgroup(t)
	child := filepath.Join(dir, "job")
	if err := Create(child); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := Move(child, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	mount, err := Mount()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Of(cmd.Process.Pid)
	if err != nil || filepath.Join(mount, got) != child {
		t.Errorf("process is in %q (%v), want %q", got, err, child)
	}
	if err := Remove(child); !errors.Is(err, unix.EBUSY) {
		t.Errorf("remove of a cgroup in use: %v, want EBUSY", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // The second time it is gone, which is no error.
		if err := Remove(child); err != nil {
			t.Error(err)
		}
	}
}

func TestPrivilegedIDIsTheDirectorysInode(t *testing.T) {
	dir := testenv.Cgroup(t)
	st, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := ID(dir)
	if err != nil || id != st.Sys().(*syscall.Stat_t).Ino {
		t.Errorf("id = %d, %v", id, err)
	}
}

func TestPrivilegedEnterReturnsWhereItCameFrom(t *testing.T) {
	dir := filepath.Join(testenv.Cgroup(t), "daemon")
	before, err := Of(0)
	if err != nil {
		t.Fatal(err)
	}
	leave, err := Enter(dir)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := Of(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	after, err := Of(0)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(dir, inside) || after != before {
		t.Errorf("went from %s through %s to %s", before, inside, after)
	}
	if err := Remove(dir); err != nil {
		t.Error(err)
	}
}
