package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// talker is an agent's socket that does one thing after the other: "connect=",
// "bind=", "listen", "accept", "read=", "write=", "eof", "shutdown", "unspec",
// "reset", "mptcp", "fd", which says its number, and "fastopen=" and "deferred=",
// which connect with the first data: five bytes, or those of the next step. It closes the socket when its steps end.
type talker struct {
	t   *testing.T
	pid int
	in  io.WriteCloser
	out *bufio.Reader
	end func()
}

func (f *fixture) talk(t *testing.T) *talker {
	t.Helper()
	cmd := helper(t, f.jobs, "talk")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	ended := false
	k := &talker{t, cmd.Process.Pid, in, bufio.NewReader(out), func() {
		if !ended {
			ended = true
			must(t, errors.Join(in.Close(), cmd.Wait()))
		}
	}}
	t.Cleanup(k.end)
	return k
}

// do returns what the last of the steps came to: "ok", or an error.
func (k *talker) do(steps ...string) string {
	k.t.Helper()
	var line string
	for _, step := range steps {
		_, err := fmt.Fprintln(k.in, step)
		must(k.t, err)
		line, err = k.out.ReadString('\n')
		must(k.t, err)
	}
	return strings.TrimSpace(line)
}

// ok does steps that succeed.
func (k *talker) ok(steps ...string) {
	k.t.Helper()
	for _, step := range steps {
		if got := k.do(step); got != "ok" {
			k.t.Fatalf("%s: %s", step, got)
		}
	}
}

// borrow returns the talker's socket for this process, which is the daemon.
func (k *talker) borrow() int {
	k.t.Helper()
	number, err := strconv.Atoi(k.do("fd"))
	must(k.t, err)
	pid, err := unix.PidfdOpen(k.pid, 0)
	must(k.t, err)
	fd, err := unix.PidfdGetfd(pid, number, 0)
	must(k.t, errors.Join(err, unix.Close(pid)))
	return fd
}

func talkRole([]string) error {
	var s talking
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), "=")
		said := "ok"
		if err := s.step(verb, arg); err != nil {
			said = err.Error()
		}
		if _, err := fmt.Println(said); err != nil {
			return err
		}
	}
	return errors.Join(in.Err(), s.close())
}

// talking is the socket of a [talker]. It is made by the first address.
type talking struct {
	fd       int
	protocol int
	open     bool
}

func (s *talking) socket(target string) (unix.Sockaddr, error) {
	family, sa := sockaddr(target)
	if s.open {
		return sa, nil
	}
	var err error
	s.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, s.protocol)
	s.open = err == nil
	return sa, err
}

func (s *talking) close() error {
	if !s.open {
		return nil
	}
	s.open = false
	return unix.Close(s.fd)
}

func (s *talking) step(verb, arg string) error {
	switch verb {
	case "mptcp":
		s.protocol = unix.IPPROTO_MPTCP
		return nil
	case "connect", "bind":
		sa, err := s.socket(arg)
		if err != nil {
			return err
		}
		if verb == "bind" {
			return unix.Bind(s.fd, sa)
		}
		return unix.Connect(s.fd, sa)
	case "fastopen", "deferred":
		return s.connectWithData(verb, arg)
	case "listen":
		return unix.Listen(s.fd, 1)
	case "accept":
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return err
		}
		err = unix.Close(s.fd)
		s.fd = fd
		return err
	case "shutdown":
		return unix.Shutdown(s.fd, unix.SHUT_WR)
	case "unspec":
		return disconnect(s.fd)
	case "reset":
		err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		return errors.Join(err, s.close())
	case "close":
		return s.close()
	case "fd":
		return errors.New(strconv.Itoa(s.fd))
	}
	n, err := strconv.Atoi("0" + arg)
	if err != nil {
		return err
	}
	return s.move(verb, n)
}

func (s *talking) connectWithData(verb, target string) error {
	sa, err := s.socket(target)
	if err != nil {
		return err
	}
	if verb == "fastopen" {
		return unix.Sendto(s.fd, make([]byte, 5), unix.MSG_FASTOPEN, sa)
	}
	if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
		return err
	}
	return unix.Connect(s.fd, sa)
}

// move reads or writes n bytes, or reads until the end, of which there must be
// nothing left.
func (s *talking) move(verb string, n int) error {
	buf := make([]byte, 64<<10)
	for n > 0 || verb == "eof" {
		var did int
		var err error
		if verb == "write" {
			did, err = unix.Write(s.fd, buf[:min(n, len(buf))])
		} else {
			did, err = unix.Read(s.fd, buf[:min(max(n, 1), len(buf))])
		}
		if err != nil {
			return err
		}
		if did == 0 || verb == "eof" {
			if verb == "eof" && did == 0 {
				return nil
			}
			return fmt.Errorf("%s: %d bytes where there must be others", verb, did)
		}
		n -= did
	}
	return nil
}

func disconnect(fd int) error {
	var unspec [16]byte // AF_UNSPEC is 0
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec)); errno != 0 {
		return errno
	}
	return nil
}

// exchange has the agent send up bytes and then receive down.
func (k *talker) exchange(c net.Conn, up, down int) {
	k.t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, c, int64(up))
		if err == nil {
			_, err = c.Write(make([]byte, down))
		}
		sent <- err
	}()
	k.ok(fmt.Sprintf("write=%d", up), fmt.Sprintf("read=%d", down))
	must(k.t, <-sent)
}
