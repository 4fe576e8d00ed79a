package confine

import (
	"fmt"
	"runtime"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Where the kernel's struct seccomp_data holds what a filter starts from. The
// arguments are read through the library.
const (
	offsetNumber = 0
	offsetArch   = 4
	wordSize     = 4
)

// The system calls of socketcall(2) that make sockets, from linux/net.h.
const (
	callSocket     = 1
	callSocketpair = 8
)

// packetBit is set in SOCK_PACKET, which turns AF_INET into AF_PACKET, and in no
// other type or flag of socket(2).
const packetBit = unix.SOCK_PACKET & 8

const (
	allow       = seccomp.ActionAllow
	notThere    = seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)
	noFamily    = seccomp.ActionErrno | seccomp.Action(unix.EAFNOSUPPORT)
	notYours    = seccomp.ActionErrno | seccomp.Action(unix.EPERM)
	neverHappen = seccomp.ActionKillProcess
)

// families are what a tree may have. The cgroup hooks mediate the first three
// where they leave the host. Netlink leads nowhere: it is how getaddrinfo, Go's
// net and ip(8) ask the kernel for addresses and routes, and to change these is
// a matter of capabilities. Everything else is refused unnamed, so that a family
// that a later kernel brings is refused too. AF_ALG is among those: it reaches no
// network, but whoever uses it does without it as well, and attackers of the
// kernel do not.
func families() []uint32 {
	return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
}

// filter is the program for the architecture that this binary was built for.
func filter() ([]bpf.RawInstruction, error) {
	switch runtime.GOARCH {
	case "amd64":
		return filterFor(arch.X86_64, arch.I386)
	case "arm64":
		return filterFor(arch.AARCH64, arch.ARM)
	default:
		return nil, fmt.Errorf("make filter for %s: %w", runtime.GOARCH, unix.EOPNOTSUPP)
	}
}

// filterFor makes the program for a kernel that runs native programs, and compat
// ones beside them. A system call's number means nothing without its
// architecture: each has its section, which ends in a return.
//
// The library makes whole filters too, but only for one architecture, and lets
// the system calls of any other pass by the default action: int 0x80 would be a
// way out of it.
func filterFor(native, compat *arch.Info) ([]bpf.RawInstruction, error) {
	first, err := section(native)
	if err != nil {
		return nil, err
	}
	second, err := section(compat)
	if err != nil {
		return nil, err
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: wordSize},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(native.ID), SkipTrue: uint8(len(first))},
	}
	program = append(program, first...)
	program = append(program,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(compat.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(neverHappen)},
	)
	raw, err := bpf.Assemble(append(program, second...))
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return raw, nil
}

// section makes what is asked of a system call of one architecture.
func section(a *arch.Info) ([]bpf.Instruction, error) {
	p := seccomp.NewProgram()
	missing, denied, family, socketcall := p.NewLabel(), p.NewLabel(), p.NewLabel(), p.NewLabel()
	if a.ID == arch.X86_64.ID {
		// The x32 numbers of the same architecture, with its own tables.
		p.JmpIfTrue(bpf.JumpGreaterOrEqual, uint32(arch.X32.SeccompMask), missing)
	}
	calls := []struct {
		name   string
		target seccomp.Label
	}{
		{"socket", family},
		{"socketpair", family},
		{"bpf", denied},
		// IORING_OP_SOCKET makes a socket, and no filter sees it. The other two
		// are for a ring that was passed in. Programs fall back to epoll.
		{"io_uring_setup", missing},
		{"io_uring_enter", missing},
		{"io_uring_register", missing},
	}
	for _, c := range calls {
		number, ok := a.SyscallNames[c.name]
		if !ok {
			return nil, fmt.Errorf("make filter: %s has no system call %s", a.Name, c.name)
		}
		p.JmpIfTrue(bpf.JumpEqual, uint32(number), c.target)
	}
	number, multiplexed := a.SyscallNames["socketcall"]
	// 32-bit ARM lists the number of an ABI that arm64 kernels don't have.
	multiplexed = multiplexed && a.ID == arch.I386.ID
	if multiplexed {
		p.JmpIfTrue(bpf.JumpEqual, uint32(number), socketcall)
	}
	p.Ret(allow)
	socketRules(&p, family)
	if multiplexed {
		socketcallRules(&p, socketcall, denied)
	}
	p.SetLabel(missing)
	p.Ret(notThere)
	p.SetLabel(denied)
	p.Ret(notYours)
	instructions, err := p.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble filter for %s: %w", a.Name, err)
	}
	return append([]bpf.Instruction{bpf.LoadAbsolute{Off: offsetNumber, Size: wordSize}}, instructions...), nil
}

// socketRules looks at the family and the type. Both are ints: the kernel takes
// no notice of the upper half of the register, nor may the filter.
func socketRules(p *seccomp.Program, at seccomp.Label) {
	known, refused := p.NewLabel(), p.NewLabel()
	p.SetLabel(at)
	p.LdLo(0)
	for _, f := range families() {
		p.JmpIfTrue(bpf.JumpEqual, f, known)
	}
	p.Ret(noFamily)
	p.SetLabel(known)
	p.LdLo(1)
	p.JmpIfTrue(bpf.JumpBitsSet, packetBit, refused)
	p.Ret(allow)
	p.SetLabel(refused)
	p.Ret(noFamily)
}

// socketcallRules refuses to make sockets: the family is behind a pointer. What
// else socketcall does needs a socket that is there. The libraries of 32-bit
// programs that know socket(2) itself use that.
func socketcallRules(p *seccomp.Program, at, denied seccomp.Label) {
	p.SetLabel(at)
	p.LdLo(0)
	p.JmpIfTrue(bpf.JumpEqual, callSocket, denied)
	p.JmpIfTrue(bpf.JumpEqual, callSocketpair, denied)
	p.Ret(allow)
}
