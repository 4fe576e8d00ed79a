package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

// units are cgroups named "ci-*.service" wherever they are.
var units = CgroupName{Head: "ci-", Tail: ".service", MinLen: len("ci-.service"), MaxLen: 255, Enrolment: 9}

// pathOf is the path of a cgroup below dir as the kernel has it.
func pathOf(t *testing.T, dir string) string {
	t.Helper()
	mount, err := cgroup.Mount()
	must(t, err)
	return strings.TrimPrefix(dir, mount)
}

func (f *fixture) named(t *testing.T, rules ...CgroupName) {
	t.Helper()
	left, err := f.SetCgroupNames(rules)
	must(t, err)
	if len(left) > 0 {
		t.Fatalf("no room for %+v", left)
	}
}

// made makes a cgroup and returns the enrolment of its rule, 0 for none.
func (f *fixture) made(t *testing.T, name string) uint32 {
	t.Helper()
	dir := filepath.Join(f.dir, name)
	must(t, cgroup.Create(dir))
	id, err := cgroup.ID(dir)
	must(t, err)
	var enrolment uint32
	if err := f.maps.EnrolCgroup.Lookup(id, &enrolment); err != nil {
		return 0
	}
	return enrolment
}

func TestPrivilegedCgroupIsAnAgentsByItsNameAtOnce(t *testing.T) {
	f := attach(t, Options{})
	f.listen(t)
	long := pathOf(t, f.dir) + "/" + strings.Repeat("l", 60)
	level := strings.Count(long, "/")
	f.named(t, units,
		CgroupName{Head: "exact.slice", MinLen: 11, MaxLen: 11, Enrolment: 10},
		CgroupName{Level: level, Head: long, MinLen: len(long), MaxLen: len(long), Enrolment: 11},
		CgroupName{Level: level + 1, Head: pathOf(t, f.dir) + "/x", Tail: "/work", MinLen: len(pathOf(t, f.dir)) + 7, MaxLen: 4095, Enrolment: 12},
		CgroupName{Head: "ci-1", MinLen: 4, MaxLen: 255, Enrolment: 13},
	)
	for _, c := range []struct {
		name string
		want uint32
	}{
		{"ci-1.service", 9}, {"_ci-2.service", 9}, {"ci-.service", 9}, {"jobs/ci-3.service", 9},
		{"ci-.servic", 0}, {"ci-1.slice", 13}, {"xci-1.service", 0}, {"ci.service", 0},
		{"exact.slice", 10}, {"exact.slicer", 0}, {"exact.slic", 0},
		{strings.Repeat("l", 60), 11}, {strings.Repeat("l", 61), 0}, {"jobs/" + strings.Repeat("l", 60), 0},
		{"xyz", 0}, {"xyz/work", 12}, {"xyz/more", 0}, {"xyz/more/work", 0}, {"xyz/work/work", 0},
		{strings.Repeat("n", 250), 0},
	} {
		if got := f.made(t, c.name); got != c.want {
			t.Errorf("%s: enrolment %d, want %d", c.name, got, c.want)
		}
	}
	for _, in := range []string{"ci-1.service", "_ci-2.service"} {
		wantErrno(t, dial(t, filepath.Join(f.dir, in), "198.51.100.7:5432"), 0)
		s := f.next(t)
		must(t, s.err)
		if s.origin.Enrolment != 9 {
			t.Errorf("%s: %+v", in, s.origin)
		}
	}
	must(t, cgroup.Create(filepath.Join(f.dir, "ci-1.service/below")))
	wantErrno(t, dial(t, filepath.Join(f.dir, "ci-1.service/below"), "198.51.100.7:5432"), 0)
	if s := f.next(t); s.err != nil || s.origin.Enrolment != 9 {
		t.Errorf("below a unit: %+v", s)
	}
	wantErrno(t, dial(t, filepath.Join(f.dir, "ci.service"), "127.0.0.1:1"), unix.ECONNREFUSED)
	f.wantCount(t, "cgroups_full", 0)

	id, err := cgroup.ID(filepath.Join(f.dir, "_ci-2.service"))
	must(t, err)
	must(t, os.Remove(filepath.Join(f.dir, "_ci-2.service")))
	if ids, err := f.RuledCgroups(); err != nil || slices.Contains(ids, id) {
		t.Errorf("the rule of a cgroup that was removed is in %v, %v", ids, err)
	}
}

func TestPrivilegedNewCgroupIsRefusedWithoutADaemon(t *testing.T) {
	pins := filepath.Join(testenv.BPFFS(t), "headgate")
	f := listening(t, Options{PinDir: pins})
	f.named(t, units)
	f.stop()
	must(t, f.Kernel.Close())
	must(t, cgroup.Create(filepath.Join(f.dir, "ci-late.service")))
	must(t, cgroup.Create(filepath.Join(f.dir, "other.service")))
	wantErrno(t, dial(t, filepath.Join(f.dir, "ci-late.service"), "198.51.100.7:5432"), unix.EPERM)
	wantErrno(t, dial(t, filepath.Join(f.dir, "other.service"), "127.0.0.1:1"), unix.ECONNREFUSED)
	f.open(t, Options{CgroupPath: f.dir, PinDir: pins})
	f.wantCount(t, "named_cgroup", 1)
}

func TestPrivilegedRulesThatTheKernelAddsStay(t *testing.T) {
	f := attach(t, Options{})
	f.named(t, units)
	known, err := f.RuledCgroups()
	must(t, err)
	f.made(t, "ci-1.service")
	must(t, f.EnrolUID(4294900000, 3)) // makes the filter anew
	must(t, f.SetRules(Rules{Known: known}))
	if ids, err := f.RuledCgroups(); err != nil || len(ids) != 1 {
		t.Errorf("a rule that was added meanwhile: %v, %v", ids, err)
	}
	f.listen(t)
	wantErrno(t, dial(t, filepath.Join(f.dir, "ci-1.service"), "198.51.100.7:5432"), 0)
	must(t, f.next(t).err)
	must(t, f.SetRules(Rules{}))
	if ids, err := f.RuledCgroups(); err != nil || len(ids) != 0 {
		t.Errorf("a rule that is not wanted: %v, %v", ids, err)
	}
}

func TestPrivilegedNamesThatHaveNoRoomAreGivenBack(t *testing.T) {
	f := attach(t, Options{})
	bad := []CgroupName{
		{Head: strings.Repeat("h", 129), MinLen: 129, MaxLen: 255},
		{Tail: strings.Repeat("t", 33), MinLen: 33, MaxLen: 255},
		{Head: "ab", Tail: "c", MinLen: 2, MaxLen: 255}, // would read beyond the text
		{Head: "ab", MinLen: 3, MaxLen: 2},
	}
	left, err := f.SetCgroupNames(append([]CgroupName{units}, bad...))
	must(t, err)
	if !slices.Equal(left, bad) {
		t.Errorf("left: %+v", left)
	}
	many := slices.Repeat([]CgroupName{units}, 50)
	if left, err = f.SetCgroupNames(many); err != nil || len(left) != 2 {
		t.Errorf("%d left, %v", len(left), err)
	}
	f.named(t)
	if got := f.made(t, "ci-1.service"); got != 0 {
		t.Errorf("without rules: %d", got)
	}
}
