package main

import (
	"fmt"
	"path/filepath"
	"strings"

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
	allowed := map[string]bool{}
	var denied []string
	for _, s := range engine.UnixSockets() {
		if s.Verdict != policy.Direct {
			denied = append(denied, s.Pattern)
			continue
		}
		for _, path := range pathsOf(s.Pattern) {
			allowed[path] = true
		}
	}
	for _, pattern := range append(denied, builtinSockets...) {
		list = append(list, denials(pattern, allowed)...)
	}
	for path := range allowed {
		list = append(list, kernel.UnixSocket{Name: path, Allow: true})
	}
	return list
}

// pathsOf lists the names that an allowed pattern stands for: only whole names
// can be allowed, so a pattern means the sockets that are there now.
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
