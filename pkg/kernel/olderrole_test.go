package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// olderRole does as it is told, one line at a time. Its sockets have names, and
// outlive an exec.
func olderRole(args []string) error {
	o := &olderHelper{sockets: make(map[string]int), listener: -1}
	for _, a := range args {
		name, fd, _ := strings.Cut(a, "=")
		n, err := strconv.Atoi(fd)
		if err != nil {
			return err
		}
		o.sockets[name] = n
	}
	if len(args) > 0 {
		fmt.Println(`"ok"`)
	}
	// Byte by byte: what is read ahead would be lost in an exec.
	for line := ""; ; {
		var b [1]byte
		if n, err := unix.Read(0, b[:]); err != nil || n == 0 {
			return err
		}
		if b[0] != '\n' {
			line += string(b[:])
			continue
		}
		words := strings.Fields(line)
		if len(words) > 2 && words[1] == "made" { // the only name of two words
			words = append([]string{words[0], "made before"}, words[3:]...)
		}
		said, err := o.do(words[0], words[1:])
		if err != nil {
			said = errnoText(err)
		}
		fmt.Printf("%q\n", said)
		line = ""
	}
}

func errnoText(err error) string {
	if n := errnoOf(err); n != 0 {
		return n.Error()
	}
	return err.Error()
}

type olderHelper struct {
	sockets  map[string]int
	listener int
	child    *obedientChild
}

type obedientChild struct {
	in  *os.File
	out *bufio.Reader
}

func (o *olderHelper) do(what string, args []string) (string, error) {
	switch what {
	case "socket":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		o.sockets[args[0]] = fd
		return "ok", err
	case "connect":
		_, sa := sockaddr(args[1])
		return "ok", unix.Connect(o.sockets[args[0]], sa)
	case "tcp", "udp":
		return "ok", o.open(what, args[0], args[1])
	case "tcp-from":
		return o.openFrom(args[0], args[1], args[2])
	case "attempt":
		// Whether it succeeds does not matter.
		_ = o.open("tcp", "attempt", args[0])
		return "ok", nil
	case "become":
		uid, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		return "ok", syscall.Setuid(uid)
	case "exec":
		argv := []string{args[0]}
		for name, fd := range o.sockets {
			argv = append(argv, fmt.Sprintf("%s=%d", name, fd))
		}
		return "", unix.Exec(args[0], argv, os.Environ())
	case "shut":
		return "ok", unix.Shutdown(o.sockets[args[0]], unix.SHUT_WR)
	case "close":
		return "ok", unix.Close(o.sockets[args[0]])
	case "child":
		return "ok", o.fork()
	case "child-use":
		return o.child.use(args[0])
	case "listen", "unlisten", "accept":
		return o.serve(what, args)
	default:
		return "ok", o.talk(what, o.sockets[args[0]])
	}
}

func (o *olderHelper) open(transport, name, to string) error {
	family, sa := sockaddr(to)
	kind := unix.SOCK_STREAM
	if transport == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return err
	}
	o.sockets[name] = fd
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.Connect(fd, sa))
}

// openFrom binds a port so that it can be listened at.
func (o *olderHelper) openFrom(name, from, to string) (string, error) {
	_, local := sockaddr(from)
	family, sa := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	o.sockets[name] = fd
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, local), unix.Connect(fd, sa)); err != nil {
		return "", err
	}
	return localOf(fd)
}

func localOf(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String(), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String(), err
	}
	return "", err
}

func (o *olderHelper) serve(what string, args []string) (string, error) {
	switch what {
	case "listen":
		family, sa := sockaddr(args[1])
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			return "", err
		}
		o.listener = fd
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return "", err
		}
		if err := errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 1)); err != nil {
			return "", err
		}
		return localOf(fd)
	case "unlisten":
		return "ok", unix.Close(o.listener)
	default:
		fd, _, err := unix.Accept(o.listener)
		o.sockets[args[0]] = fd
		return "ok", err
	}
}

func (o *olderHelper) talk(what string, fd int) error {
	if what != "read" {
		if _, err := unix.Write(fd, []byte("line\n")); err != nil {
			return err
		}
	}
	if what == "write" {
		return nil
	}
	n, err := unix.Read(fd, make([]byte, 64))
	if err == nil && n == 0 {
		err = errors.New("end")
	}
	return err
}

// fork starts a child with the same sockets.
func (o *olderHelper) fork() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Stderr = os.Stderr
	for name, fd := range o.sockets {
		cmd.Args = append(cmd.Args, fmt.Sprintf("%s=%d", name, 3+len(cmd.ExtraFiles)))
		inherited, err := unix.Dup(fd)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(inherited), name)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	o.child = &obedientChild{in.(*os.File), bufio.NewReader(out)}
	_, err = o.child.out.ReadString('\n')
	return err
}

func (c *obedientChild) use(name string) (string, error) {
	if _, err := fmt.Fprintln(c.in, "use", name); err != nil {
		return "", err
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return "", err
	}
	return strconv.Unquote(strings.TrimSpace(line))
}
