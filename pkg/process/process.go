// Package process holds what is known of agents as processes: who they are,
// what they execute, and who started them.
//
// It is pure. Events come from the kernel through [Tree.Apply]; nothing here
// reads /proc or talks to the kernel. A process is identified by its thread
// group id together with its start time ([ID]), so that a recycled pid can
// never stand for somebody else.
package process

import "fmt"

// ID identifies a process for as long as the machine is up: a thread group id
// and the boot-time clock, in nanoseconds, at which the group leader started.
// The zero ID identifies nobody.
type ID struct {
	PID   uint32 `json:"pid"`
	Start uint64 `json:"start"`
}

// IsZero reports whether the ID identifies nobody.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the pid and the start time, as in "4711@93042117".
func (id ID) String() string { return fmt.Sprintf("%d@%d", id.PID, id.Start) }

// Image is what a process executes: the result of one execve. Images are
// immutable and shared between the processes that inherited them by fork.
type Image struct {
	// Exec is the boot-time clock, in nanoseconds, of the execve. Zero means
	// that the image was in place before anybody watched.
	Exec uint64 `json:"exec,omitempty"`
	// Exe is the absolute path of the executable as the kernel resolved it.
	Exe string `json:"exe"`
	// Device and Inode identify the executable file where they are known.
	Device uint64 `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	// Argv is the argument vector, bounded by the kernel side to 4 KiB.
	Argv []string `json:"argv"`
	// ArgvTruncated says that Argv was cut at the bound.
	ArgvTruncated bool `json:"argv_truncated,omitempty"`
}

// Process is one process at one moment: an identity, an image, and the process
// that started it as that one was at the moment of the fork. It is immutable:
// an exec yields a new Process with the same ID. Holding one keeps its whole
// lineage alive, also after every process in it has exited.
type Process struct {
	ID     ID     `json:"id"`
	Image  *Image `json:"image"`
	UID    uint32 `json:"uid"`
	Cgroup uint64 `json:"cgroup,omitempty"`
	// Root is the process at which the tree was enrolled; it names the tree.
	Root ID `json:"root"`
	// Parent is nil at the tree's root and where the ancestor is not known.
	Parent *Process `json:"-"`
	// Depth counts the ancestors that hang behind Parent.
	Depth int `json:"-"`
	// Partial says that something in this process or above it had to be
	// guessed, was lost, or was cut. A decision must not rest on it.
	Partial bool `json:"partial,omitempty"`
}

// Lineage is a process followed by its ancestors, nearest first, up to the
// root of its tree.
type Lineage []*Process

// Lineage returns the process and its ancestors, nearest first.
func (p *Process) Lineage() Lineage {
	var l Lineage
	for ; p != nil; p = p.Parent {
		l = append(l, p)
	}
	return l
}

// Kind tells what happened to a process.
type Kind uint8

// The kinds of events. The zero Kind is none of them and is ignored with an
// error by [Tree.Apply].
const (
	Fork Kind = iota + 1
	Exec
	Exit
	Enrol
)

// Event is one thing that happened to an enrolled process.
type Event struct {
	Kind Kind
	// Time is the boot-time clock in nanoseconds.
	Time   uint64
	ID     ID
	Parent ID // the parent, for Fork
	Root   ID // the root of the tree
	// Enrolment is the number of the rule or request that enrolled the tree; zero
	// where it is not known.
	Enrolment uint32
	UID       uint32
	Cgroup    uint64
	// Netns is the cookie of the network namespace; zero where it is not known.
	Netns uint64
	// Image is what the process executes from now on; set for Exec, and for
	// Enrol where it is known. For Fork only Exec is set, if anything: it tells
	// which of the parent's images the child inherited.
	Image *Image
	// Partial marks an event that userspace made up from /proc.
	Partial bool
}
