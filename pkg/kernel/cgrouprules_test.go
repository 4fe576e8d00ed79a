package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

func TestPrivilegedNoCgroupIsMissedWhileNamesChange(t *testing.T) {
	f := attach(t, Options{})
	f.named(t, units)
	other := CgroupName{Head: "zz", MinLen: 2, MaxLen: 255, Enrolment: 10}
	stop := make(chan struct{})
	done := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			if n%2 == 0 {
				_, _ = f.SetCgroupNames([]CgroupName{units, other})
			} else {
				_, _ = f.SetCgroupNames([]CgroupName{units})
			}
			n++
		}
	}()
	missed, made := 0, 0
	for i := range 400 {
		if f.made(t, fmt.Sprintf("ci-%d.service", i)) != 9 {
			missed++
		}
		made++
		_ = os.Remove(filepath.Join(f.dir, fmt.Sprintf("ci-%d.service", i)))
	}
	close(stop)
	t.Logf("changes %d, made %d, missed %d", <-done, made, missed)
	if missed > 0 {
		t.Errorf("missed %d of %d", missed, made)
	}
}

func TestPrivilegedFullTableOfCgroupsRecovers(t *testing.T) {
	f := attach(t, Options{})
	f.named(t, units)
	var made []string
	for i := range f.maps.EnrolCgroup.MaxEntries() {
		made = append(made, filepath.Join(f.dir, fmt.Sprintf("ci-%d.service", i)))
		must(t, cgroup.Create(made[i]))
	}
	defer func() {
		for _, dir := range made {
			must(t, os.Remove(dir))
		}
	}()
	known, err := f.RuledCgroups()
	must(t, err)
	if got := f.made(t, "ci-late.service"); got != 0 {
		t.Fatalf("room for enrolment %d", got)
	}
	late, err := cgroup.ID(filepath.Join(f.dir, "ci-late.service"))
	must(t, err)
	must(t, f.SetRules(Rules{Cgroups: map[uint64]uint32{late: 9}, Known: known}))
	if ids, err := f.RuledCgroups(); err != nil || len(ids) != 1 {
		t.Errorf("rules: %d, %v", len(ids), err)
	}
}

func TestPrivilegedCgroupsThatAnAgentMakesTakeNoRoom(t *testing.T) {
	f := listening(t, Options{})
	f.named(t, units)
	cmd := exec.Command("/bin/sh", "-c", "mkdir ci-1.service ci-2.service")
	cmd.Dir = f.jobs
	testenv.StartIn(t, cmd, f.jobs)
	must(t, cmd.Run())
	ids, err := f.RuledCgroups()
	must(t, err)
	if len(ids) != 1 {
		t.Errorf("an agent's own cgroups took %d places", len(ids)-1)
	}
	wantErrno(t, dial(t, filepath.Join(f.jobs, "ci-1.service"), "198.51.100.7:5432"), 0)
	if s := f.next(t); s.err != nil || s.origin.Enrolment != 7 {
		t.Errorf("%+v", s)
	}
}
