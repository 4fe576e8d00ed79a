package main

import (
	"fmt"
	"path/filepath"
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
	var list []kernel.UnixSocket
	allowed, denied := socketsOf(engine)
	for _, pattern := range append(denied, builtinSockets...) {
		list = append(list, denials(pattern, allowed)...)
	}
	for path := range allowed {
		list = append(list, kernel.UnixSocket{Name: path, Allow: true})
	}
	return list
}

// socketsOf lists what a policy says: the names that it allows, and the patterns
// that it denies.
func socketsOf(engine *policy.Engine) (allowed map[string]bool, denied []string) {
	allowed = map[string]bool{}
	for _, s := range engine.UnixSockets() {
		if s.Verdict != policy.Direct {
			denied = append(denied, s.Pattern)
			continue
		}
		for _, path := range pathsOf(s.Pattern) {
			allowed[path] = true
		}
	}
	return allowed, denied
}

// deniedSocketsLimit bounds the sockets that are denied by inode: anybody may
// make files in /tmp that a pattern stands for.
const deniedSocketsLimit = 4000

// deniedSockets lists the sockets that are there now and that agents may not
// connect to by whatever name. What the policy denies goes first; a name that it
// allows takes a socket off the built-in list.
func deniedSockets(engine *policy.Engine) []kernel.File {
	allowed, denied := socketsOf(engine)
	lifted := map[string]bool{}
	for path := range allowed {
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
	for _, pattern := range denied {
		add(pattern, nil)
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

// denials are the rules for a pattern: the whole name, and the file's own, by
// which a relative name or another way there ends.
func denials(pattern string, allowed map[string]bool) []kernel.UnixSocket {
	var list []kernel.UnixSocket
	name, isPrefix := strings.CutSuffix(pattern, "*")
	if !strings.Contains(name, "*") && !allowed[pattern] {
		list = append(list, kernel.UnixSocket{Name: name, Prefix: isPrefix})
	}
	file, isPrefix := strings.CutSuffix(filepath.Base(pattern), "*")
	if file != "" && !strings.Contains(file, "*") {
		list = append(list, kernel.UnixSocket{Name: file, Prefix: isPrefix, File: true})
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
