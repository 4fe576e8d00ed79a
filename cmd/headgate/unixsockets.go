package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/policy"
)

// builtinSockets are unix sockets behind which another daemon does things for
// whoever asks: starts processes outside every tree, looks up names, or is a
// database. Patterns are as in policies.
var builtinSockets = []string{
	"/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/user/*/podman/podman.sock", "/run/crio/crio.sock",
	"/run/systemd/private", "/run/user/*/systemd/private", "/run/dbus/system_bus_socket", "/run/user/*/bus",
	"/run/systemd/resolve/io.systemd.Resolve", "/run/snapd.socket", "/run/libvirt/libvirt-sock",
	"/run/postgresql/.s.PGSQL.*", "/tmp/.s.PGSQL.*", "/run/mysqld/mysqld.sock",
}

// unixSockets are the kernel's rules: the built-in list, and what the policy
// says of sockets by name, which goes before it.
func unixSockets(engine *policy.Engine) []kernel.UnixSocket {
	said := socketsOf(engine)
	var list []kernel.UnixSocket
	for _, s := range slices.Concat(said.denied, said.observed) {
		list = append(list, named(s.Pattern, kernel.UnixSocket{Verdict: verdicts[s.Verdict], Rule: ruleNumber(s.Rule)})...)
	}
	for path, s := range said.lifted {
		list = append(list, kernel.UnixSocket{Name: path, Verdict: verdicts[s.Verdict], Rule: ruleNumber(s.Rule)})
	}
	for _, pattern := range builtinSockets {
		for _, one := range named(pattern, kernel.UnixSocket{Verdict: builtinVerdict(engine)}) {
			if _, lifted := said.lifted[one.Name]; !lifted || one.Prefix || one.File {
				list = append(list, one)
			}
		}
	}
	return list
}

// saidSockets are what a policy says of unix sockets.
type saidSockets struct {
	denied, observed []policy.UnixSocket
	// lifted are the whole names that are not denied, whatever the daemon's own
	// list says of them.
	lifted map[string]policy.UnixSocket
}

// socketsOf sorts what a policy says. What one of its patterns denies stays
// denied if another lets it pass.
func socketsOf(engine *policy.Engine) saidSockets {
	said := saidSockets{lifted: map[string]policy.UnixSocket{}}
	all := engine.UnixSockets()
	for _, s := range all {
		if s.Verdict == policy.Denied {
			said.denied = append(said.denied, s)
		}
	}
	denies := func(path string) bool {
		return slices.ContainsFunc(said.denied, func(d policy.UnixSocket) bool { return d.Match(path) })
	}
	for _, s := range all {
		// A pattern that is no path itself matches one that is wider.
		if s.Verdict == policy.Denied || denies(s.Pattern) {
			continue
		}
		if s.Verdict == policy.Observed {
			said.observed = append(said.observed, s)
		}
		for _, path := range pathsOf(s.Pattern) {
			before, taken := said.lifted[path]
			if !denies(path) && (!taken || s.Verdict < before.Verdict) {
				said.lifted[path] = s
			}
		}
	}
	return said
}

// deniedSocketsLimit bounds the sockets that are denied by inode: anybody may
// make files in /tmp that a pattern stands for.
const deniedSocketsLimit = 4000

// deniedSockets lists the sockets that are there now and that agents may not
// connect to by whatever name. What the policy denies goes first; a name that it
// does not deny takes a socket off the built-in list, and so does observing.
func deniedSockets(engine *policy.Engine) []kernel.File {
	said := socketsOf(engine)
	lifted := map[string]bool{}
	for path := range said.lifted {
		lifted[inRealDirectory(path)] = true
	}
	seen := map[kernel.File]bool{}
	var list []kernel.File
	add := func(pattern string, lifted map[string]bool) {
		for _, path := range pathsOf(pattern) {
			file, ok := socketAt(path, path == pattern)
			if ok && !seen[file] && !lifted[inRealDirectory(path)] && len(list) < deniedSocketsLimit {
				seen[file] = true
				list = append(list, file)
			}
		}
	}
	for _, s := range said.denied {
		add(s.Pattern, nil)
	}
	if builtinVerdict(engine) != kernel.Deny {
		return list
	}
	for _, pattern := range builtinSockets {
		add(pattern, lifted)
	}
	return list
}

// socketAt finds a socket. Only a name that somebody wrote down may be a link:
// among those that a pattern stands for, it may be anybody's.
func socketAt(path string, written bool) (kernel.File, bool) {
	inspect := unix.Lstat
	if written {
		inspect = unix.Stat
	}
	var st unix.Stat_t
	if err := inspect(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return kernel.File{}, false // not there, now
	}
	return kernel.File{Device: st.Dev, Inode: st.Ino}, true
}

// inRealDirectory resolves the directory of a path: /var/run is /run.
func inRealDirectory(path string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path // not there, now
	}
	return filepath.Join(dir, filepath.Base(path))
}

// pathsOf lists the names that a pattern stands for now: only whole names can be
// allowed, and only files that are there have an inode.
func pathsOf(pattern string) []string {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}
	}
	// The pattern was checked when the policy was compiled.
	paths, _ := filepath.Glob(pattern)
	return paths
}

// named are the rules for a pattern, each like one: the whole name, and the
// file's own, by which a relative name or another way there ends.
func named(pattern string, one kernel.UnixSocket) []kernel.UnixSocket {
	var list []kernel.UnixSocket
	one.Name, one.Prefix = strings.CutSuffix(pattern, "*")
	if !strings.Contains(one.Name, "*") {
		list = append(list, one)
	}
	one.Name, one.Prefix = strings.CutSuffix(filepath.Base(pattern), "*")
	one.File = true
	if one.Name != "" && !strings.Contains(one.Name, "*") {
		list = append(list, one)
	}
	return list
}

// lostUnixSockets says what the kernel cannot do about unix sockets, if the
// policy relies on it.
func lostUnixSockets(k *kernel.Kernel, engine *policy.Engine) error {
	for _, l := range k.Lost() {
		if l.UnixSockets && len(engine.UnixSockets()) > 0 {
			return fmt.Errorf("the policy names unix sockets, and this kernel cannot look at them: %w", l.Cause)
		}
	}
	return nil
}
