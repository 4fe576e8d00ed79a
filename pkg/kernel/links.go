package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
)

// LinkInfo is what holds an attached program, as the kernel tells it now: others
// with privileges may have changed it since [Open].
type LinkInfo struct {
	Program string
	// ID is the link's number in the kernel.
	ID uint32
	// Pinned says that the program stays attached when the daemon is gone.
	Pinned bool
	// Cgroup is the number of the cgroup that it is attached to; zero for the
	// programs that follow processes, and for a link that was detached.
	Cgroup uint64
	// AtRoot says that this is the root of the hierarchy.
	AtRoot bool
	// Counters are the names of the counters that tell of its runs best. Programs
	// of the same kind share some of them.
	Counters []string
	// Fault is why the program does not do what it was attached for, or nil.
	Fault error
}

// Links describes the links of the attached programs, in the order of
// [Kernel.Programs].
func (k *Kernel) Links() ([]LinkInfo, error) {
	var infos []LinkInfo
	for _, a := range k.links {
		info, err := k.inspect(a)
		if err != nil {
			return nil, fmt.Errorf("inspect link of %s: %w", a.program, err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (k *Kernel) inspect(a attachment) (LinkInfo, error) {
	li := LinkInfo{Program: a.program, Counters: countersOf[a.program]}
	info, err := a.link.Info()
	if err != nil {
		return li, err
	}
	li.ID = uint32(info.ID)
	program, err := k.programs[a.program].Info()
	if err != nil {
		return li, err
	}
	var faults []error
	if id, ok := program.ID(); ok && info.Program != id {
		faults = append(faults, fmt.Errorf("the link runs program %d, which is not ours", info.Program))
	}
	if cg := info.Cgroup(); cg != nil {
		li.Cgroup, li.AtRoot = cg.CgroupId, cg.CgroupId == rootCgroup
	}
	switch {
	case a.cgroup == "":
	case li.Cgroup == 0:
		faults = append(faults, errors.New("the link was detached"))
	case li.Cgroup != k.cgroupID:
		faults = append(faults, fmt.Errorf("the link is attached to cgroup %d, not to %s", li.Cgroup, k.cgroupPath))
	}
	if k.pins != nil {
		if li.Pinned, err = pinnedAs(k.pins.link(a.program), info.ID); err != nil {
			return li, err
		}
		if !li.Pinned {
			faults = append(faults, errors.New("its pin was removed, and it goes when the daemon does"))
		}
	}
	li.Fault = errors.Join(faults...)
	return li, nil
}

// pinnedAs tells whether the link with that number is pinned at path.
func pinnedAs(path string, id link.ID) (bool, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := l.Info()
	if err := errors.Join(err, l.Close()); err != nil {
		return false, err
	}
	return info.ID == id, nil
}

// countersOf are the counters that say that a program ran.
var countersOf = map[string][]string{
	bpf.HeadgateProgHeadgateConnect4:    {"redirected4"},
	bpf.HeadgateProgHeadgateConnect6:    {"redirected6", "redirected_mapped"},
	bpf.HeadgateProgHeadgateConnectUnix: {"unix", "denied_unix"},
	bpf.HeadgateProgHeadgateSendmsgUnix: {"unix", "denied_unix"},
	bpf.HeadgateProgHeadgateSendmsg4:    {"redirected_udp", "denied_udp"},
	bpf.HeadgateProgHeadgateSendmsg6:    {"redirected_udp", "denied_udp"},
	bpf.HeadgateProgHeadgateBind4:       {"denied_bind"},
	bpf.HeadgateProgHeadgateBind6:       {"denied_bind"},
	bpf.HeadgateProgHeadgateSockCreate:  {"denied_protocol", "denied_socket_type"},
	bpf.HeadgateProgHeadgateEgress:      {"denied_egress"},
	bpf.HeadgateProgHeadgateSockops:     {"published", "handed_over"},
	bpf.HeadgateProgHeadgateFork:        {"forked"},
	bpf.HeadgateProgHeadgateForkRaw:     {"forked"},
	bpf.HeadgateProgHeadgateLsmSocket:   {"hardened_socket"},
	bpf.HeadgateProgHeadgateLsmStream:   {"hardened_unix"},
	bpf.HeadgateProgHeadgateLsmSend:     {"hardened_unix"},
	bpf.HeadgateProgHeadgateLsmBpf:      {"hardened_bpf"},
	bpf.HeadgateProgHeadgateLsmPtrace:   {"hardened_ptrace"},
	bpf.HeadgateProgHeadgateLsmKill:     {"hardened_kill"},
	bpf.HeadgateProgHeadgateLsmUmount:   {"hardened_umount"},
}

// probeAttachPoint tells whether the cgroup at path, or the root, takes further
// programs. It asks the kernel's rules instead of attaching something: a program
// that was attached without allowing others keeps everybody out, below it too.
func probeAttachPoint(path string) Capability {
	c := Capability{Name: "attach point", Open: noStart, Remedy: "detach what is there (bpftool cgroup tree), or attach it so that others may be beside it"}
	mount, err := cgroup.Mount()
	if err != nil {
		return c.held(err)
	}
	if path == "" {
		path = mount
	}
	c.Detail = path
	id, err := cgroup.ID(path)
	if errors.Is(err, os.ErrNotExist) {
		// The daemon makes it.
		c.Detail += ", to be made"
		path, err = mount, nil
	} else if id == rootCgroup {
		c.Detail += ", the root of the hierarchy"
	}
	if err != nil {
		return c.held(err)
	}
	others, err := attachable(path, mount)
	if others > 0 {
		c.Detail += fmt.Sprintf("; %d programs are attached to our hooks there", others)
	}
	return c.held(err)
}

// attachable returns how many programs are on our hooks of the cgroup at path,
// and an error if it takes no more.
func attachable(path, mount string) (others int, err error) {
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		dir, err := os.Open(at)
		if err != nil {
			return 0, fmt.Errorf("inspect cgroup: %w", err)
		}
		for _, h := range cgroupHooks {
			n, flags, err := attached(int(dir.Fd()), h.attach)
			if errors.Is(err, unix.EINVAL) {
				continue // a hook that the kernel does not have
			}
			if err == nil && n > 0 && flags&allowMulti == 0 && (at == path || flags&allowOverride == 0) {
				err = errors.New("another program is attached that allows none beside it")
			}
			if err != nil {
				return 0, errors.Join(fmt.Errorf("%s of %s: %w", h.attach, at, err), dir.Close())
			}
			if at == path {
				others += n
			}
		}
		if err := dir.Close(); err != nil {
			return 0, fmt.Errorf("inspect cgroup: %w", err)
		}
		if at == mount || !strings.HasPrefix(at, mount+"/") {
			return others, nil
		}
	}
}

// From linux/bpf.h.
const (
	progQuery     = 16
	allowOverride = 1
	allowMulti    = 2
)

// attached asks how many programs are attached to a cgroup itself, and how: the
// library tells only who they are.
func attached(dir int, attach ebpf.AttachType) (n int, flags uint32, err error) {
	query := struct {
		target, attach, query, flags uint32
		ids                          uint64
		count, _                     uint32
		attachFlags                  uint64
		_                            [24]byte
	}{target: uint32(dir), attach: uint32(attach)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, progQuery, uintptr(unsafe.Pointer(&query)), unsafe.Sizeof(query))
	runtime.KeepAlive(&query)
	if errno != 0 {
		return 0, 0, fmt.Errorf("query programs: %w", errno)
	}
	return int(query.count), query.flags, nil
}
