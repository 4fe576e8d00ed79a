package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// divert attaches a program beside ours, as another tool may: it sends what is
// redirected to the proxy over 127.0.0.1 to another address.
func divert(t *testing.T, f *fixture, to netip.AddrPort) {
	t.Helper()
	const userIP4, userPort = 4, 24 // offsets in struct bpf_sock_addr
	network := func(port uint16) int32 { return int32(port>>8 | port<<8) }
	ip := to.Addr().As4()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, userIP4, asm.Word),
			asm.JNE.Imm32(asm.R2, 0x0100007f, "done"),
			asm.LoadMem(asm.R2, asm.R1, userPort, asm.Word),
			asm.JNE.Imm32(asm.R2, network(f.port), "done"),
			asm.Mov.Imm32(asm.R2, int32(uint32(ip[0])|uint32(ip[1])<<8|uint32(ip[2])<<16|uint32(ip[3])<<24)),
			asm.StoreMem(asm.R1, userIP4, asm.R2, asm.Word),
			asm.Mov.Imm32(asm.R2, network(to.Port())),
			asm.StoreMem(asm.R1, userPort, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("done"),
			asm.Return(),
		},
	})
	must(t, err)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: f.dir, Attach: ebpf.AttachCGroupInet4Connect, Program: p})
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(l.Close(), p.Close())) })
}

func sockaddr(target string) (family int, sa unix.Sockaddr) {
	ap := netip.MustParseAddrPort(target)
	if ap.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
}

// twiceRole connects one and the same socket to each target.
func twiceRole(targets []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var results []dialed
	for _, target := range targets {
		ap := netip.MustParseAddrPort(target)
		d := dialed{Target: target}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err != nil {
			d.Errno = errnoOf(err)
		} else if d.Peer, err = peerOf(fd); err != nil {
			return err
		}
		results = append(results, d)
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

// giveupRole begins a number of connections, waits for none, and closes all.
func giveupRole(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	family, sa := sockaddr(args[1])
	begun := 0
	for range n {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		begun++
	}
	_, err = fmt.Print(begun)
	return err
}

// listenRole listens on each address after the other. "unbound" listens without
// a bind, on a port that the kernel chooses; "udp:" before an address binds it
// for datagrams. It keeps the sockets until its input ends.
func listenRole(args []string) error {
	var results []dialed
	for _, arg := range args {
		fd, port, err := listen(arg)
		defer unix.Close(fd)
		results = append(results, dialed{Target: arg, Errno: errnoOf(err), Answer: strconv.Itoa(port)})
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		return err
	}
	_, err := os.Stdin.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func listen(arg string) (fd, port int, err error) {
	if arg == "unbound" {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return fd, 0, err
		}
	} else {
		kind := unix.SOCK_STREAM
		if len(arg) > 4 && arg[:4] == "udp:" {
			kind, arg = unix.SOCK_DGRAM, arg[4:]
		}
		family, sa := sockaddr(arg)
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return fd, 0, err
		}
		if err = unix.Bind(fd, sa); err != nil || kind == unix.SOCK_DGRAM {
			return fd, 0, err
		}
	}
	if err = unix.Listen(fd, 16); err != nil {
		return fd, 0, err
	}
	sa, err := unix.Getsockname(fd)
	if in, ok := sa.(*unix.SockaddrInet4); ok {
		port = in.Port
	}
	return fd, port, err
}

// lendRole lends a socket to a child in the cgroup args[0], which connects it to
// args[1]. When the child is gone it connects the socket itself, to args[2].
func lendRole(args []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lent := os.NewFile(uintptr(fd), "lent")
	defer lent.Close()
	dir, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe", args[1])
	cmd.Env = append(os.Environ(), roleVariable+"=borrow")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.ExtraFiles = []*os.File{lent}
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var results []dialed
	if err := json.Unmarshal(out, &results); err != nil {
		return err
	}
	d := dialed{Target: args[2]}
	_, sa := sockaddr(args[2])
	err = unix.Connect(fd, sa)
	if err == nil {
		if d.Peer, err = peerOf(fd); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(lent, "{}\n"); err != nil {
			return err
		}
	}
	d.Errno = errnoOf(err)
	return json.NewEncoder(os.Stdout).Encode(append(results, d))
}

func borrowRole(args []string) error {
	_, sa := sockaddr(args[0])
	d := dialed{Target: args[0], Errno: errnoOf(unix.Connect(3, sa))}
	return json.NewEncoder(os.Stdout).Encode([]dialed{d})
}

// threadRole is holdRole in a thread that has a table of files of its own.
func threadRole(args []string) error {
	done := make(chan error)
	var hold func()
	hold = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			go hold()
			select {} // so that no other goroutine gets the leader
		}
		done <- holdAlone(args[0])
	}
	go hold()
	return <-done
}

func holdAlone(target string) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return err
	}
	family, sa := sockaddr(target)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 1))
	if errors.Is(err, unix.ECONNABORTED) {
		err = errors.New("connection aborted")
	}
	_, err = fmt.Print(err)
	return err
}

// growRole starts a descendant for each line that it reads, says its pid, and
// keeps it.
func growRole([]string) error {
	var line [1]byte
	var all []*exec.Cmd
	for {
		if _, err := os.Stdin.Read(line[:]); err != nil {
			break
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVariable+"=serve")
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			return err
		}
		all = append(all, cmd)
		fmt.Println(cmd.Process.Pid)
	}
	for _, cmd := range all {
		if err := cmd.Process.Kill(); err != nil {
			return err
		}
		_ = cmd.Wait() // killed
	}
	return nil
}
