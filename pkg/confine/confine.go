// Package confine takes from a process, and from all that it ever starts, the
// system calls that lead past the gate where no cgroup hook looks: sockets of
// families other than unix, inet and netlink, bpf(2), and io_uring, which makes
// sockets without asking any filter.
//
// It is a seccomp filter: it needs no kernel option beyond what every
// distribution has, it is inherited over fork and exec, and nobody can take it
// off. It can't look behind pointers: a path of a unix socket is not its matter.
//
// A filter is had in one of two ways. Root (CAP_SYS_ADMIN) may install it as it
// is. Everybody else must first give up, for the process and its descendants,
// to gain privileges by executing a file: sudo, su, ping with capabilities and
// the like stop working. That is too much to take from every job without being
// asked, so it is done only in mode [Strict], and [Auto] leaves the processes of
// others unfiltered and says so. Where the hardening tier of the kernel's side
// is loaded, nothing depends on this.
//
// Sources: seccomp(2), Documentation/userspace-api/seccomp_filter.rst.
package confine

import (
	"errors"
	"fmt"
)

// Mode says how much is asked of the tree in exchange for the filter. The zero
// value asks the most.
type Mode uint8

const (
	// Strict installs the filter for every caller. Nothing in the tree can gain
	// privileges by exec from then on (no_new_privs).
	Strict Mode = iota
	// Families installs the filter and leaves setuid programs as they are. It
	// needs CAP_SYS_ADMIN. The filter stays in force below sudo.
	Families
	// Auto is Families for who may have it, and None for others.
	Auto
	// None installs nothing.
	None
)

// ErrMode is returned for a name that is no mode's.
var ErrMode = errors.New("unknown mode")

// ErrPrivileges is returned where the filter can't be had without giving up
// setuid programs, and the mode doesn't allow that.
var ErrPrivileges = errors.New("needs CAP_SYS_ADMIN; mode strict does not, and ends sudo and the like in the tree")

// Modes returns the names that [ParseMode] knows, in the order of what they take.
func Modes() []string { return []string{"strict", "families", "auto", "none"} }

// ParseMode returns the mode of that name. It returns [ErrMode], and Strict, for
// any other.
func ParseMode(name string) (Mode, error) {
	for i, n := range Modes() {
		if n == name {
			return Mode(i), nil
		}
	}
	return Strict, fmt.Errorf("parse confinement %q: %w", name, ErrMode)
}

// String returns the mode's name.
func (m Mode) String() string {
	if names := Modes(); int(m) < len(names) {
		return names[m]
	}
	return fmt.Sprintf("mode %d", uint8(m))
}
