package confine

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Results of the filter.
const (
	passes    = unix.SECCOMP_RET_ALLOW
	kills     = unix.SECCOMP_RET_KILL_PROCESS
	unknown   = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	forbidden = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	unheard   = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
)

// machine is a kernel that the filter is made for.
type machine struct {
	native, compat *arch.Info
	vm             *bpf.VM
}

func machines(t testing.TB) []*machine {
	t.Helper()
	all := []*machine{
		{native: arch.X86_64, compat: arch.I386},
		{native: arch.AARCH64, compat: arch.ARM},
	}
	for _, m := range all {
		raw, err := filterFor(m.native, m.compat)
		if err != nil {
			t.Fatal(err)
		}
		program, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatalf("the filter for %s holds an unknown instruction", m.native.Name)
		}
		if m.vm, err = bpf.NewVM(program); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// ask runs the filter over a struct seccomp_data. The kernel's words are in its
// own byte order, the interpreter's in that of the network.
func (m *machine) ask(t testing.TB, id, number uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], number)
	binary.BigEndian.PutUint32(data[4:], id)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	verdict, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(verdict)
}

func TestEveryArchitectureOfAKernelIsFiltered(t *testing.T) {
	const garbage = 0xdeadbeef << 32
	calls := []struct {
		name string
		args []uint64
		want uint32
	}{
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM}, passes},
		{"socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK}, passes},
		{"socket", []uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET}, passes},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW}, passes},
		{"socket", []uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, unheard},
		{"socket", []uint64{unix.AF_PACKET, unix.SOCK_RAW}, unheard},
		{"socket", []uint64{1000, unix.SOCK_STREAM}, unheard},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_PACKET}, unheard},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_PACKET | unix.SOCK_CLOEXEC}, unheard},
		{"socket", []uint64{garbage | unix.AF_INET, garbage | unix.SOCK_STREAM}, passes},
		{"socket", []uint64{garbage | unix.AF_VSOCK, unix.SOCK_STREAM}, unheard},
		{"socket", []uint64{unix.AF_INET, garbage | unix.SOCK_PACKET}, unheard},
		{"socketpair", []uint64{unix.AF_UNIX, unix.SOCK_STREAM}, passes},
		{"socketpair", []uint64{unix.AF_TIPC, unix.SOCK_STREAM}, unheard},
		{"bpf", []uint64{0}, forbidden},
		{"io_uring_setup", nil, unknown},
		{"io_uring_enter", nil, unknown},
		{"io_uring_register", nil, unknown},
		{"connect", []uint64{unix.AF_VSOCK}, passes},
		{"execve", nil, passes},
	}
	for _, m := range machines(t) {
		for _, a := range []*arch.Info{m.native, m.compat} {
			for _, c := range calls {
				if got := m.ask(t, uint32(a.ID), uint32(a.SyscallNames[c.name]), c.args...); got != c.want {
					t.Errorf("%s: %s%#x is answered %#x, want %#x", a.Name, c.name, c.args, got, c.want)
				}
			}
		}
	}
}

func TestOtherEntriesToTheKernelAreNoWayRound(t *testing.T) {
	all := machines(t)
	x86, arm := all[0], all[1]
	id := uint32(arch.X86_64.ID)
	compat := uint32(arch.I386.ID)
	const socketcall = 102
	rows := []struct {
		name string
		got  uint32
		want uint32
	}{
		{"x32 socket", x86.ask(t, id, 0x40000000|41, unix.AF_VSOCK), unknown},
		{"x32 read", x86.ask(t, id, 0x40000000), unknown},
		{"a number that is none", x86.ask(t, id, 0xffffffff), unknown},
		{"socketcall of socket", x86.ask(t, compat, socketcall, callSocket), forbidden},
		{"socketcall of socketpair", x86.ask(t, compat, socketcall, callSocketpair), forbidden},
		{"socketcall of connect", x86.ask(t, compat, socketcall, 3), passes},
		{"the native number of socket as a 32-bit one", x86.ask(t, compat, 41, unix.AF_VSOCK), passes},
		{"an architecture that x86 doesn't run", x86.ask(t, uint32(arch.AARCH64.ID), 198, unix.AF_INET), kills},
		{"an architecture that arm64 doesn't run", arm.ask(t, id, 41, unix.AF_INET), kills},
	}
	for _, r := range rows {
		if r.got != r.want {
			t.Errorf("%s is answered %#x, want %#x", r.name, r.got, r.want)
		}
	}
}

// model says in Go what the filter shall say.
func model(m *machine, id, number uint32, args [2]uint32) uint32 {
	var a *arch.Info
	switch id {
	case uint32(m.native.ID):
		a = m.native
	case uint32(m.compat.ID):
		a = m.compat
	default:
		return kills
	}
	if a == arch.X86_64 && number >= 0x40000000 {
		return unknown
	}
	switch a.SyscallNumbers[int(number)] {
	case "socket", "socketpair":
		switch args[0] {
		case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK:
			if args[1]&8 == 0 {
				return passes
			}
		}
		return unheard
	case "socketcall":
		if a == arch.I386 && (args[0] == 1 || args[0] == 8) {
			return forbidden
		}
	case "bpf":
		return forbidden
	case "io_uring_setup", "io_uring_enter", "io_uring_register":
		return unknown
	}
	return passes
}

func FuzzFilterDecidesAsItsModel(f *testing.F) {
	for _, a := range []*arch.Info{arch.X86_64, arch.I386, arch.AARCH64, arch.ARM} {
		for _, name := range []string{"socket", "socketpair", "socketcall", "bpf", "io_uring_setup"} {
			f.Add(uint32(a.ID), uint32(a.SyscallNames[name]), uint64(unix.AF_INET), uint64(unix.SOCK_STREAM))
		}
	}
	f.Add(uint32(arch.X86_64.ID), uint32(0x40000029), uint64(unix.AF_VSOCK), uint64(unix.SOCK_PACKET))
	all := machines(f)
	f.Fuzz(func(t *testing.T, id, number uint32, family, kind uint64) {
		for _, m := range all {
			got := m.ask(t, id, number, family, kind)
			want := model(m, id, number, [2]uint32{uint32(family), uint32(kind)})
			if got != want {
				t.Errorf("%s: call %d of %#x with %#x, %#x is answered %#x, want %#x",
					m.native.Name, number, id, family, kind, got, want)
			}
		}
	})
}

func TestModesAreKnownByTheirNames(t *testing.T) {
	for _, name := range Modes() {
		m, err := ParseMode(name)
		if err != nil || m.String() != name {
			t.Errorf("mode %q is parsed as %v, %v", name, m, err)
		}
	}
	if m, err := ParseMode("lenient"); err == nil || m != Strict {
		t.Errorf("an unknown mode is parsed as %v, %v", m, err)
	}
	if got := fmt.Sprint(Mode(9)); got != "mode 9" {
		t.Errorf("an impossible mode is called %q", got)
	}
}
