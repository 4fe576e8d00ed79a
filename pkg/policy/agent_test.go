package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// id is the id of a container.
var id = strings.Repeat("0123456789abcdef", 4)

func TestACgroupIsTheAgentsThatNamesIt(t *testing.T) {
	tests := []struct {
		agent Agent
		path  string
		want  bool
	}{
		{Agent{}, "/a", false},
		{Agent{Cgroups: []string{"/a"}}, "/a", true},
		{Agent{Cgroups: []string{"/a"}}, "/a/b", false},
		{Agent{Cgroups: []string{"/a"}}, "a", false},
		{Agent{Cgroups: []string{"/a"}}, "/a/", false},
		{Agent{Cgroups: []string{"/a"}}, "/b/../a", false},
		{Agent{Cgroups: []string{"/"}}, "/", true},
		{Agent{Cgroups: []string{"/"}}, "/a", false},
		{Agent{Cgroups: []string{"/*"}}, "/", false},
		{Agent{Cgroups: []string{"/ci-*"}}, "/ci-1", true},
		{Agent{Cgroups: []string{"/ci-*"}}, "/ci-1/x", false},
		{Agent{Cgroups: []string{"/*/x"}}, "/a/x", true},
		{Agent{Cgroups: []string{"/*/x"}}, "/a/b/x", false},
		{Agent{Cgroups: []string{"/**/x"}}, "/a/b/x", true},
		{Agent{Cgroups: []string{"/**/x"}}, "/x", true},
		{Agent{Cgroups: []string{"/**/x"}}, "/x/y", false},
		{Agent{Cgroups: []string{"/a/**"}}, "/a", true},
		{Agent{Cgroups: []string{"/a/**"}}, "/a/b/c", true},
		{Agent{Cgroups: []string{"/a/**/b/*/c"}}, "/a/b/b/x/b/y/c", true},
		{Agent{Cgroups: []string{"/a/**/b/*/c"}}, "/a/b/c", false},

		{Agent{Units: []string{"actions.runner.*.service"}}, "/system.slice/actions.runner.web.service", true},
		{Agent{Units: []string{"actions.runner.*.service"}}, "/system.slice/actions.runner.web.service/job", false},
		{Agent{Units: []string{"actions.runner.*.service"}}, "/system.slice", false},
		{Agent{Units: []string{"actions.runner.*.service"}}, "/system.slice/xactions.runner.web.service", false},
		{Agent{Units: []string{"ci.slice"}}, "/ci.slice", true},
		{Agent{Units: []string{"memory.service"}}, "/system.slice/_memory.service", true},
		{Agent{Units: []string{"*.service"}}, "/", false},

		{Agent{Containers: []string{"*"}}, "/system.slice", false},
		{Agent{Containers: []string{"*"}}, "/system.slice/docker-" + id + ".scope", true},
		{Agent{Containers: []string{"docker"}}, "/system.slice/docker-" + id + ".scope", true},
		{Agent{Containers: []string{"docker"}}, "/system.slice/docker-" + id + ".scope/init.scope", false},
		{Agent{Containers: []string{"docker"}}, "/docker/" + id, true},
		{Agent{Containers: []string{"docker"}}, "/docker/" + id[1:], false},
		{Agent{Containers: []string{"podman"}}, "/docker/" + id, false},
		{Agent{Containers: []string{"docker:0123456789ab"}}, "/docker/" + id, true},
		{Agent{Containers: []string{"docker:0123456789ac"}}, "/docker/" + id, false},
		{Agent{Containers: []string{"podman:0123456789ab"}}, "/docker/" + id, false},
		{Agent{Containers: []string{"podman"}}, "/machine.slice/libpod-" + id + ".scope", true},
		{Agent{Containers: []string{"podman"}}, "/machine.slice/libpod-conmon-" + id + ".scope", false},
		{Agent{Containers: []string{"containerd"}}, "/kubepods/burstable/pod1/" + id, true},
	}
	for _, test := range tests {
		if got := test.agent.MatchCgroup(test.path); got != test.want {
			t.Errorf("%+v matches %s: %v", test.agent, test.path, got)
		}
	}
}

func TestACgroupTellsItsContainer(t *testing.T) {
	other := strings.Repeat("f", 64)
	tests := []struct{ path, want string }{
		{"/", ""},
		{"docker/" + id, ""},
		{"/" + id, ""},
		{"/system.slice/docker.service", ""},
		{"/system.slice/docker-" + id + ".scope", "docker " + id},
		{"/system.slice/docker-" + id + "0.scope", ""},
		{"/system.slice/docker-" + strings.ToUpper(id) + ".scope", ""},
		{"/system.slice/docker-" + id + ".scope/init.scope", "docker " + id},
		{"/docker/" + id + "/docker/" + other, "docker " + other},
		{"/docker/" + id + "/system.slice/libpod-" + other + ".scope/x", "podman " + other},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container", "podman " + id},
		{"/libpod_parent/libpod-" + id, "podman " + id},
		{"/machine.slice/libpod-conmon-" + id + ".scope", ""},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope", "containerd " + id},
		{"/system.slice/nerdctl-" + id + ".scope", "containerd " + id},
		{"/default/" + id, "containerd " + id},
		{"/default/redis", ""},
		{"/system.slice/containerd.service/default/redis", "containerd redis"},
		{"/containerd.slice/default/" + id, "containerd " + id},
		{"/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope", "cri-o " + id},
		{"/kubepods.slice/kubepods-pod1.slice/crio-conmon-" + id + ".scope", ""},
		{"/kubepods/besteffort/pod1/" + id, "kubernetes " + id},
	}
	for _, test := range tests {
		runtime, id, ok := ContainerOf(test.path)
		if got := strings.TrimSpace(runtime + " " + id); got != test.want || ok != (test.want != "") {
			t.Errorf("%s: %q, %v, want %q", test.path, got, ok, test.want)
		}
	}
}

func TestOfTwoAgentsTheFirstByNameGetsACgroup(t *testing.T) {
	e := mustCompile(t, `
agents:
  - {name: z, cgroups: ["/ci/**"]}
  - {name: b, units: ["*.service"]}
  - {name: a, units: ["x.service"]}
`)
	for path, want := range map[string]string{"/ci/x.service": "a", "/ci/y.service": "b", "/ci/y": "z", "/y": ""} {
		if got, ok := e.AgentAtCgroup(path); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", path, got, ok, want)
		}
	}
	if _, ok := (*Engine)(nil).AgentAtCgroup("/ci"); ok || (*Engine)(nil).Overlaps() != nil {
		t.Error("a nil engine has agents")
	}
}

func TestOverlapsOfAgentsAreTold(t *testing.T) {
	tests := []struct {
		one, other string
		want       string
	}{
		{`users: [ci]`, `users: [root, ci]`, `user "ci" and "ci"`},
		{`users: [ci]`, `users: [root]`, ``},
		{`users: [ci]`, `units: ["ci.service"]`, ``},
		{`cgroups: ["/a/*"]`, `cgroups: ["/*/b"]`, `cgroup "/a/*" and "/*/b"`},
		{`cgroups: ["/a/*"]`, `cgroups: ["/b/*"]`, ``},
		{`cgroups: ["/a/*"]`, `cgroups: ["/a/b/c"]`, ``},
		{`cgroups: ["/a/**"]`, `cgroups: ["/**/b/c"]`, `cgroup "/a/**" and "/**/b/c"`},
		{`cgroups: ["/a/x*"]`, `cgroups: ["/a/y*"]`, ``},
		{`units: ["a.*.service"]`, `units: ["*.b.service"]`, `unit "a.*.service" and "*.b.service"`},
		{`units: ["a.*.service"]`, `units: ["b.*.service"]`, ``},
		{`units: ["a.service"]`, `units: ["a.scope"]`, ``},
		{`units: ["a.service"]`, `cgroups: ["/system.slice/*"]`, `unit and cgroup "a.service" and "/system.slice/*"`},
		{`cgroups: ["/system.slice/**"]`, `units: ["a.service"]`, `cgroup and unit "/system.slice/**" and "a.service"`},
		{`cgroups: ["/system.slice/b.service"]`, `units: ["a.service"]`, ``},
		{`executables: [/bin/a]`, `executables: [/bin/a]`, `executable "/bin/a" and "/bin/a"`},
		{`executables: [/bin/a]`, `executables: [/bin/b]`, ``},
		{`containers: ["*"]`, `containers: [docker]`, `container "*" and "docker"`},
		{`containers: [docker]`, `containers: [podman]`, ``},
		{`containers: [docker]`, `containers: ["docker:0123456789ab"]`, `container "docker" and "docker:0123456789ab"`},
		{`containers: ["docker:0123456789ac"]`, `containers: ["docker:0123456789ab"]`, ``},
	}
	for _, test := range tests {
		t.Run(test.one+" "+test.other, func(t *testing.T) {
			e := mustCompile(t, "agents: [{name: a, "+test.one+"}, {name: b, "+test.other+"}]")
			var want []string
			if test.want != "" {
				want = []string{"agents a and b: " + test.want + " may mean the same; a gets it"}
			}
			if diff := cmp.Diff(want, e.Overlaps()); diff != "" {
				t.Errorf("overlaps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAgentsAreListedAsTheyWereWritten(t *testing.T) {
	e := mustCompile(t, `
agents:
  - {name: all, users: [ci], cgroups: ["/a/**"], units: ['a\x2db@*.service'], executables: [/usr/bin/claude], containers: [docker, "podman:0123456789ab"]}
`)
	want := []Agent{{
		Name: "all", Users: []string{"ci"}, Cgroups: []string{"/a/**"}, Units: []string{`a\x2db@*.service`},
		Executables: []string{"/usr/bin/claude"}, Containers: []string{"docker", "podman:0123456789ab"},
	}}
	if diff := cmp.Diff(want, e.Agents()); diff != "" {
		t.Errorf("agents (-want +got):\n%s", diff)
	}
	e.Agents()[0].Units[0] = "x"
	if diff := cmp.Diff(want, e.Agents()); diff != "" {
		t.Errorf("the engine's list can be changed from outside (-want +got):\n%s", diff)
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add("/system.slice/docker-"+id+".scope", "/**/x*", "x*.service")
	f.Add("/default/"+id, "/a/**/b/**", "*.*.slice")
	f.Fuzz(func(t *testing.T, path, glob, unit string) {
		a := Agent{Containers: []string{"*"}}
		if validCgroupGlob(glob) {
			a.Cgroups = []string{glob}
		}
		if validUnitGlob(unit) {
			a.Units = []string{unit}
		}
		runtime, id, ok := ContainerOf(path)
		if ok != (runtime != "" && id != "") {
			t.Fatalf("container %q %q %v", runtime, id, ok)
		}
		if a.MatchCgroup(path) && !strings.HasPrefix(path, "/") {
			t.Fatal("a relative path matches")
		}
		// What two patterns match, they have in common.
		b := Agent{Cgroups: []string{path}}
		if len(a.Cgroups) > 0 && validCgroupGlob(path) && (Agent{Cgroups: a.Cgroups}).MatchCgroup(path) && !pathsMeet(glob, path) {
			t.Fatalf("%q matches %q but they do not meet: %v", glob, path, overlaps(a, b))
		}
	})
}
