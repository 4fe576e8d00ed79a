package kernel

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/headgate/headgate/bpf"
)

// Loss is something that the running kernel, or the daemon's confinement, does
// not allow, and what is not covered without it.
type Loss struct {
	Program string
	// Cause is what the attempt to load said.
	Cause error
	// Open is the way out that is left, Remedy what would close it.
	Open, Remedy string
	// UnixSockets says that rules for unix sockets are not enforced, neither by name
	// nor, in the LSM tier, by inode.
	UnixSockets bool
}

// optional is a program without which the rest is of use.
type optional struct {
	program string
	kind    ebpf.ProgramType
	attach  ebpf.AttachType
	open    string
	remedy  string
}

var optionals = []optional{
	{
		bpf.HeadgateProgHeadgateConnectUnix, ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixConnect,
		"agents may connect to unix sockets of other daemons", "Linux 6.7 or later, or the permissions of the sockets",
	},
	{
		bpf.HeadgateProgHeadgateSendmsgUnix, ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixSendmsg,
		"agents may send datagrams to unix sockets of other daemons", "Linux 6.7 or later, or the permissions of the sockets",
	},
}

// withoutUnsupported takes programs out of the spec that the kernel cannot load.
// It asks by loading, never by version: distributions carry features back.
func withoutUnsupported(spec *ebpf.CollectionSpec) []Loss {
	lost := withoutLSM(spec)
	byInode := len(lost) == 0
	for _, o := range optionals {
		if spec.Programs[o.program] == nil {
			continue
		}
		if err := probe(o.kind, o.attach); err != nil {
			delete(spec.Programs, o.program)
			l := Loss{Program: o.program, Cause: err, Open: o.open, Remedy: o.remedy, UnixSockets: o.attach == ebpf.AttachCgroupUnixConnect}
			if byInode {
				// Every ten seconds the daemon looks which are there.
				l.Open, l.UnixSockets = l.Open+", where they have no path, or for some seconds after they were made", false
			}
			lost = append(lost, l)
		}
	}
	return lost
}

// probe loads a program of that kind which does nothing.
func probe(kind ebpf.ProgramType, attach ebpf.AttachType) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, AttachType: attach, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return err
	}
	return p.Close()
}

// Lost lists what the running kernel does not allow.
func (k *Kernel) Lost() []Loss { return slices.Clone(k.lost) }
