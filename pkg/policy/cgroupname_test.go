package policy

import (
	"strings"
	"testing"
)

// fits is what the kernel does with a name.
func (n CgroupName) fits(path string) bool {
	text, level := path, strings.Count(path, "/")
	if n.Level == 0 {
		text = strings.TrimPrefix(path[strings.LastIndex(path, "/")+1:], "_")
	} else if level != n.Level {
		return false
	}
	return len(text) >= n.MinLen && len(text) <= n.MaxLen && strings.HasPrefix(text, n.Head) && strings.HasSuffix(text, n.Tail)
}

func TestCgroupNamesMeanWhatTheAgentDoes(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	agents := []Agent{
		{Name: "exact", Units: []string{"backup.service"}, Cgroups: []string{"/system.slice/cron.service"}},
		{Name: "globs", Units: []string{"actions.runner.*.service", "*.slice"}, Cgroups: []string{"/ci/job-*", "/ci/*/work", "/ab*b"}},
		{Name: "docker", Containers: []string{"docker"}},
		{Name: "one", Containers: []string{"podman:0123456789ab"}},
		{Name: "all", Containers: []string{"*"}},
	}
	paths := []string{
		"/", "/backup.service", "/x/y/backup.service", "/x/backup.service.d", "/x/_backup.service", "/x/backup.service/below",
		"/system.slice/cron.service", "/other/cron.service", "/system.slice/cron.service/x",
		"/system.slice/actions.runner.a.service", "/system.slice/actions.runner..service", "/system.slice/actions.runner.service",
		"/system.slice/actions.runner.a.service/b.service", "/system.slice", "/.slice",
		"/ci/job-", "/ci/job-1", "/ci/job-1/x", "/ci/x/work", "/ci/x/y/work", "/ci/work", "/ab", "/abb", "/abxb", "/ab/b",
		"/system.slice/docker-" + id + ".scope", "/a/docker-" + id, "/docker/" + id, "/docker/" + id + "/x",
		"/machine.slice/libpod-" + id + ".scope", "/machine.slice/libpod-conmon-" + id + ".scope", "/libpod-" + strings.Repeat("f", 64) + ".scope",
		"/x/cri-containerd-" + id + ".scope", "/x/crio-" + id + ".scope", "/x/nerdctl-" + id + ".scope",
	}
	matched := 0
	for _, a := range agents {
		names := (&Engine{agents: []Agent{a}}).CgroupNames()
		for _, path := range paths {
			fits := false
			for _, n := range names {
				fits = fits || n.fits(path)
			}
			if want := a.MatchCgroup(path); fits != want {
				t.Errorf("%s: %s: by its names %t, by its path %t", a.Name, path, fits, want)
			}
			if fits {
				matched++
			}
		}
	}
	if matched < 25 {
		t.Errorf("only %d paths are anybody's", matched)
	}
}

func TestGlobsThatNoNameCanSayAreLeftOut(t *testing.T) {
	e := &Engine{agents: []Agent{{Name: "a", Units: []string{"a*b*.service"}, Cgroups: []string{"/**", "/x/**/y", "/", "/x*/*"}}}}
	if names := e.CgroupNames(); len(names) != 0 {
		t.Errorf("%+v", names)
	}
	if names := (*Engine)(nil).CgroupNames(); names != nil {
		t.Errorf("of nobody: %+v", names)
	}
}
