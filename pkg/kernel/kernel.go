// Package kernel loads headgate's programs, attaches them, and talks to them:
// it enrols processes, says where their connections may go, tells the origin of
// an accepted connection, and passes on what happens to enrolled processes.
//
// It is the only package that sees cilium/ebpf and netlink. It needs Linux 5.15
// with BTF and cgroup v2, and the privileges in [RequiredCapabilities].
//
// What the programs do not mediate: enrolled processes may listen, and what
// reaches them by a connection that they accepted is nobody's to judge, in
// either direction; sockets that were created outside the attached cgroup pass,
// whoever uses them; address families beside the internet's and unix have no
// hook in cgroups; and a process whose parent exited before its ancestor was
// enrolled is not found by [Kernel.Enrol]. What the running kernel lacks beside
// that, [Kernel.Lost] tells.
package kernel

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
)

var (
	// ErrABI is returned by [Open] when programs or maps with another layout
	// are pinned. They enforce until [Uninstall] is run, by whichever version.
	ErrABI = errors.New("pinned state has another layout")
	// ErrBusy is returned when another process works with the same pins.
	ErrBusy = errors.New("pins are in use by another process")
	// ErrNoOrigin is returned by [Kernel.Origin] for a connection that no
	// enrolled process made through a redirect. It must be reset.
	ErrNoOrigin = errors.New("connection has no origin")
	// ErrEnrolled is returned by [Kernel.Enrol] for a process that belongs to a
	// tree already, or descends from one. A tree does not change hands.
	ErrEnrolled = errors.New("process is enrolled already")
	// ErrNotEnrolled is returned for a process that belongs to no tree.
	ErrNotEnrolled = errors.New("process is not enrolled")
	// ErrGone is returned for a process that has exited, or whose pid belongs
	// to another process by now.
	ErrGone = errors.New("process is gone")
	// ErrFull is returned when the table of enrolled processes has no room, or
	// had none for the process that is asked about. It is refused from then on.
	ErrFull = errors.New("table of enrolled processes is full")
)

// RequiredCapability is a privilege that this package uses, and what for.
type RequiredCapability struct {
	Name   string
	Number int
	Why    string
}

// RequiredCapabilities are the privileges that [Open] and the methods of
// [Kernel] need. CAP_SYS_ADMIN is not among them: it is needed only to mount
// the BPF file system where the host has not, and to destroy the sockets of a
// process in another network namespace.
var RequiredCapabilities = []RequiredCapability{
	{"CAP_BPF", unix.CAP_BPF, "load programs and create maps"},
	{"CAP_PERFMON", unix.CAP_PERFMON, "read the start time of a process, and attach to its fork, exec and exit"},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "attach to cgroup sockets, and destroy sockets older than the enrolment"},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE, "read the executable of processes that ran before they were enrolled"},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH, "find what others' processes have open, and sockets in their directories"},
}

// Options say where [Open] attaches and what it keeps.
type Options struct {
	// CgroupPath is the cgroup v2 directory to attach to: in production the
	// root of the mount. Only sockets created in it or below are mediated.
	CgroupPath string
	// PinDir is a directory on a BPF file system, below which programs and maps
	// stay when the daemon is gone. Empty keeps nothing: everything is detached
	// by Close.
	PinDir string
	// ProcsLimit bounds the enrolled processes that live at one time. Zero
	// stands for 65536. Maps that are pinned keep the size they have.
	ProcsLimit uint32
}

// Kernel is the loaded and attached kernel side. Its methods may be called
// concurrently, but only Origin also while or after Close or Detach run. The
// nil Kernel knows no origin, and neither does a closed one.
type Kernel struct {
	maps       bpf.HeadgateMaps
	marks      marks
	programs   map[string]*ebpf.Program
	links      []attachment
	pins       *pins // nil: nothing is pinned
	cgroupPath string
	cgroupID   uint64
	names      []string // of the counters, by number
	lost       []Loss

	life   sync.RWMutex // held by Origin: connections may outlive the Kernel
	closed bool

	mu       sync.Mutex // guards settings and the rules that it counts
	settings bpf.HeadgateDaemonSettings

	reading          sync.Mutex // held by Events
	watching         sync.Mutex // held by Refusals
	malformed        atomic.Uint64
	socketsDestroyed atomic.Uint64
	socketsKept      atomic.Uint64
	pinsRestored     atomic.Uint64
	cgroupNames      []bpf.HeadgateCgroupName // as the kernel was told; under mu
}

// Open loads the programs and attaches them. Where an earlier daemon left pins
// it takes over their maps, and with them every enrolled process, and replaces
// the programs without a moment in between. On an error everything that it made
// is gone; what an earlier daemon left still enforces, some of it with the new
// programs.
func Open(o Options) (*Kernel, error) {
	id, err := cgroup.ID(o.CgroupPath)
	if err != nil {
		return nil, fmt.Errorf("open kernel side: %w", err)
	}
	k := &Kernel{cgroupPath: o.CgroupPath, cgroupID: id}
	if o.PinDir != "" {
		if k.pins, err = openPins(o.PinDir); err != nil {
			return nil, fmt.Errorf("open kernel side: %w", err)
		}
	}
	if err := k.start(o); err != nil {
		return nil, errors.Join(fmt.Errorf("open kernel side: %w", err), k.abandon())
	}
	return k, nil
}

func (k *Kernel) start(o Options) error {
	if err := k.load(o.ProcsLimit); err != nil {
		return err
	}
	if err := k.maps.Settings.Lookup(uint32(0), &k.settings); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if err := k.reserveOtherRules(); err != nil {
		return err
	}
	var err error
	if k.marks, err = mapMarks(k.maps.Marked); err != nil {
		return err
	}
	return k.attach()
}

// abandon undoes a start that failed. Pins that were there before it stay: they
// enforce.
func (k *Kernel) abandon() error {
	if k.pins != nil && k.pins.fresh {
		return k.Detach()
	}
	return k.Close()
}

// Close gives back the file descriptors. Pinned programs stay attached and
// refuse what they cannot hand over; without pins everything is detached. A
// second call does nothing.
func (k *Kernel) Close() error {
	k.life.Lock()
	defer k.life.Unlock()
	k.closed = true
	errs := []error{k.marks.close(), k.maps.Close()}
	k.marks = nil
	for _, p := range k.programs {
		errs = append(errs, p.Close())
	}
	for _, a := range k.links {
		errs = append(errs, a.link.Close())
	}
	k.programs, k.links = nil, nil
	if k.pins != nil {
		errs = append(errs, k.pins.close())
		k.pins = nil
	}
	return errors.Join(errs...)
}

// Detach takes the programs off, removes every pin that [Open] made, and closes
// the Kernel. Nothing is mediated any more; what other programs have pinned or
// attached is untouched.
func (k *Kernel) Detach() error {
	var errs []error
	for _, a := range k.links {
		errs = append(errs, detach(a.link))
	}
	if k.pins != nil {
		errs = append(errs, k.pins.remove())
	}
	return errors.Join(append(errs, k.Close())...)
}
