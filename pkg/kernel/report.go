package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/transparent"
)

// State is what is known of a capability.
type State uint8

// The states. The zero value claims nothing.
const (
	// Unknown is what could not be looked at.
	Unknown State = iota
	// Missing is what is not to be had.
	Missing
	// Present is what was tried, and works.
	Present
)

// Capability is something that the machine offers, or does not.
type Capability struct {
	// Name says what it is, for people and for scripts.
	Name  string
	State State
	// Optional says that the daemon starts without it.
	Optional bool
	// Programs are those that were loaded to find out; none if it was not done
	// by loading.
	Programs []string
	// Detail is what was found.
	Detail string
	// Cause is why the state is not Present.
	Cause error
	// Open is what is not covered without it, Remedy what would bring it.
	Open, Remedy string
}

// Probe tries what [Open] would need with these options, on the running kernel:
// it creates every map and loads every program by itself, for a moment, and
// attaches, pins and changes nothing. A daemon that runs is not disturbed. It
// asks no version. What the caller has no privilege to try is Unknown.
func Probe(o Options) []Capability {
	all := []Capability{probeKernel(), probePrivileges(), probeMount()}
	all = append(all, probeAttachPoint(o.CgroupPath), probePinDir(o.PinDir))
	all = append(all, probeObject()...)
	return append(all, probeDestroy())
}

// held marks the capability by what an attempt said.
func (c Capability) held(err error) Capability {
	switch {
	case err == nil:
		c.State, c.Open, c.Remedy = Present, "", ""
	case errors.Is(err, errNotTried), errors.Is(err, unix.EPERM) && !mayLoad():
		c.State, c.Cause = Unknown, err
		c.Open, c.Remedy, c.Detail = "", "look again as root", ""
	default:
		c.State, c.Cause = Missing, err
	}
	return c
}

// errNotTried is for what would fail for want of privileges: how it fails says
// nothing about the kernel.
var errNotTried = errors.New("not tried for want of privileges")

// mayLoad tells whether the process has what loading and attaching take.
func mayLoad() bool {
	return !slices.ContainsFunc(MissingCapabilities(), func(c RequiredCapability) bool { return c.Number != unix.CAP_SYS_PTRACE })
}

const noStart = "everything: the daemon does not start"

func probeKernel() Capability {
	c := Capability{Name: "kernel", Open: noStart, Remedy: "a kernel with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux)"}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return c.held(fmt.Errorf("ask for kernel release: %w", err))
	}
	c.Detail = "Linux " + unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
	if _, err := btf.LoadKernelSpec(); err != nil {
		return c.held(fmt.Errorf("read the kernel's types: %w", err))
	}
	c.Detail += ", with BTF"
	return c.held(nil)
}

// MissingCapabilities returns those of [RequiredCapabilities] that the process
// does not hold; all of them if that cannot be told.
func MissingCapabilities() []RequiredCapability {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return RequiredCapabilities
	}
	held := uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
	var missing []RequiredCapability
	for _, c := range RequiredCapabilities {
		if held&(1<<c.Number) == 0 {
			missing = append(missing, c)
		}
	}
	return missing
}

// probePrivileges is about the process that asks, not about the daemon.
func probePrivileges() Capability {
	c := Capability{Name: "privileges", Optional: true}
	missing := MissingCapabilities()
	if len(missing) == 0 {
		c.Detail = "this command holds " + namesOf(RequiredCapabilities)
		return c.held(nil)
	}
	c.State, c.Cause, c.Remedy = Unknown, fmt.Errorf("this command does not hold %s", namesOf(missing)), "look again as root"
	return c
}

func namesOf(list []RequiredCapability) string {
	var all []string
	for _, c := range list {
		all = append(all, c.Name)
	}
	return strings.Join(all, ", ")
}

func probeMount() Capability {
	c := Capability{Name: "cgroup2", Open: noStart, Remedy: "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"}
	mount, err := cgroup.Mount()
	if err != nil {
		return c.held(err)
	}
	id, err := cgroup.ID(mount)
	if err != nil {
		return c.held(err)
	}
	c.Detail = fmt.Sprintf("%s, cgroup %d", mount, id)
	if id != rootCgroup {
		c.Open = "agents in cgroups outside of this part of the hierarchy"
		c.Remedy = "run headgate on the host, not in a container with a cgroup namespace of its own"
		return c.held(fmt.Errorf("%s is not the root of the hierarchy", mount))
	}
	c.Detail += ", the root of the hierarchy"
	return c.held(nil)
}

// rootCgroup is the number of the root of the hierarchy: the first inode of its
// kernfs.
const rootCgroup = 1

func probePinDir(dir string) Capability {
	c := Capability{Name: "bpffs", Open: noStart, Remedy: "mount -t bpf bpf " + bpfMount}
	if dir == "" {
		c.Optional, c.Open, c.Remedy = true, "agents are free whenever the daemon does not run", "set intercept.pin_dir"
		return c.held(errors.New("nothing is to be pinned"))
	}
	existing, fs, err := nearest(dir)
	if err != nil {
		return c.held(err)
	}
	c.Detail = "pins go to " + dir
	if fs.Type == unix.BPF_FS_MAGIC {
		return c.held(nil)
	}
	err = fmt.Errorf("%s is not on a BPF file system", existing)
	if dir == bpfMount || strings.HasPrefix(dir, bpfMount+"/") {
		c.Optional, c.Open = true, "nothing, if the daemon may mount it, which takes CAP_SYS_ADMIN"
	}
	return c.held(err)
}

// nearest looks at dir, or at the first directory above it that exists.
func nearest(dir string) (string, unix.Statfs_t, error) {
	var fs unix.Statfs_t
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	if err := unix.Statfs(dir, &fs); err != nil {
		return dir, fs, fmt.Errorf("inspect %s: %w", dir, err)
	}
	return dir, fs, nil
}

// probeObject creates the object's maps and loads its programs, one by one.
func probeObject() []Capability {
	spec, err := bpf.LoadHeadgate()
	if err != nil {
		return []Capability{Capability{Name: "object", Open: noStart, Remedy: "install headgate anew"}.held(err)}
	}
	// Only loading is asked for: the table of processes would be megabytes.
	spec.Maps[bpf.HeadgateMapProcs].MaxEntries = 1
	maps, all := probeMaps(spec)
	defer func() {
		for _, m := range maps {
			// Nobody else has it.
			_ = m.Close()
		}
	}()
	outcome := make(map[string]error)
	for name := range spec.Programs {
		outcome[name] = errNotTried
		if mayLoad() {
			outcome[name] = loadAlone(spec, name, maps)
		}
	}
	lost := withoutUnsupported(spec.Copy())
	for _, f := range features {
		all = append(all, f.judge(spec, outcome, lost))
	}
	return append(all, judgeTyped(outcome), judgeRaw(outcome))
}

// probeMaps returns the maps that could be created; the caller closes them.
func probeMaps(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, []Capability) {
	kinds := []struct {
		name  string
		types []ebpf.MapType
	}{
		{"socket storage", []ebpf.MapType{ebpf.SkStorage}},
		{"ring buffers", []ebpf.MapType{ebpf.RingBuf}},
		{"tables", []ebpf.MapType{ebpf.Array, ebpf.PerCPUArray, ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie}},
	}
	made := make(map[string]*ebpf.Map)
	var all []Capability
	for _, kind := range kinds {
		c := Capability{Name: kind.name, Open: noStart, Remedy: "Linux 5.15 or later, and a daemon that may create maps"}
		if !mayLoad() {
			all = append(all, c.held(errNotTried))
			continue
		}
		var errs []error
		for name, m := range spec.Maps {
			// Those of the compiler are made with each program.
			if strings.HasPrefix(name, ".") || !slices.Contains(kind.types, m.Type) {
				continue
			}
			created, err := ebpf.NewMap(m)
			if err != nil {
				errs = append(errs, fmt.Errorf("create map %s: %w", name, err))
				continue
			}
			made[name] = created
		}
		c.Detail = "can be created"
		all = append(all, c.held(first(errs)))
	}
	return made, all
}

// first is enough to say what is wrong: the others say it again.
func first(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// loadAlone loads one program of the object and lets it go again.
func loadAlone(spec *ebpf.CollectionSpec, name string, maps map[string]*ebpf.Map) error {
	alone := spec.Copy()
	for other := range alone.Programs {
		if other != name {
			delete(alone.Programs, other)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(alone, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return err
	}
	coll.Close()
	return nil
}

// probeDestroy asks to destroy a connection that is nobody's: where that is
// supported, it is not found.
func probeDestroy() Capability {
	c := Capability{
		Name: "SOCK_DESTROY", Optional: true,
		Open:   "connections that a process made before it was enrolled go on, unmediated",
		Remedy: "a kernel with CONFIG_INET_DIAG_DESTROY, or enrol before anything connects (headgate run)",
	}
	h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
	if err != nil {
		return c.held(err)
	}
	defer h.Close()
	// Without the module behind it nothing would be found either.
	if _, err := h.SocketDiagTCP(unix.AF_INET); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return c.held(fmt.Errorf("list sockets: %w", err))
	}
	nobodys := &netlink.Socket{Family: unix.AF_INET, ID: netlink.SocketID{Cookie: [2]uint32{1, 1 << 31}}}
	if err := destroy(netns.None(), older{nobodys, transparent.TCP}); err != nil && !errors.Is(err, unix.ENOENT) {
		return c.held(err)
	}
	c.Detail = "is supported"
	return c.held(nil)
}
