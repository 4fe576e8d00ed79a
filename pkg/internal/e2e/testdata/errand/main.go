// Command errand is an agent for tests that goes on living: it does what each
// line of its input says and answers with a line, "ok" and what it got, or "no"
// and why not. With arguments it does those alone.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every errand.
const patience = 5 * time.Second

var errUsage = errors.New("usage")

// errands are by name; each takes the words behind it.
type errands struct {
	open      map[string]net.Conn
	listening []net.Listener
}

func main() {
	e := &errands{open: map[string]net.Conn{}}
	if len(os.Args) > 1 {
		e.run(os.Args[1:])
		return
	}
	fmt.Println("ok", os.Getpid())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		e.run(strings.Fields(lines.Text()))
	}
}

func (e *errands) run(words []string) {
	reply, err := e.do(words)
	if err != nil {
		fmt.Println("no", reason(err))
		return
	}
	// An answer is one line, whatever somebody said.
	fmt.Println(strings.TrimSpace("ok " + strings.Map(plain, strings.TrimSpace(reply))))
}

func plain(r rune) rune {
	if r < ' ' || r > '~' {
		return '.'
	}
	return r
}

// reason is an errno's name, "timeout", or the error in words.
func reason(err error) string {
	var errno syscall.Errno
	var netErr net.Error
	switch {
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	default:
		return strings.ReplaceAll(err.Error(), "\n", " ")
	}
}

func (e *errands) do(words []string) (string, error) {
	args := append(slices.Clone(words), "", "", "", "")[1:]
	if len(words) == 0 {
		return "", errUsage
	}
	switch words[0] {
	case "hear": // connect and hear one line
		return hear(args[0], args[1])
	case "listen": // connect and say nothing until a line was heard
		return listen(args[0], args[1])
	case "open": // name, network, address
		c, err := net.DialTimeout(args[1], args[2], patience)
		if err == nil {
			e.open[args[0]] = c
		}
		return "", err
	case "bind": // name, network, address
		c, err := net.ListenPacket(args[1], args[2])
		if err == nil {
			e.open[args[0]] = c.(net.Conn)
		}
		return "", err
	case "accept": // name, network, address: wait for somebody, and go on listening
		l, err := net.Listen(args[1], args[2])
		if err != nil {
			return "", err
		}
		e.listening = append(e.listening, l)
		e.open[args[0]], err = l.Accept()
		return "", err
	case "setuid":
		uid, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		return "", syscall.Setuid(uid)
	case "say": // name, text
		return exchange(e.open[args[0]], args[1], nil)
	case "tell": // name, text, address
		to, err := net.ResolveUDPAddr("udp", args[2])
		if err != nil {
			return "", err
		}
		return exchange(e.open[args[0]], args[1], to)
	case "close":
		c := e.open[args[0]]
		delete(e.open, args[0])
		return "", c.Close()
	case "socket": // tcp-less families and types
		return "", makeSocket(args[0])
	case "ask": // network, server, name
		return ask(args[0], args[1], args[2])
	case "find": // network, server, name:port: ask, and hear what is there
		return find(args[0], args[1], args[2])
	case "become": // program
		return "", syscall.Exec(args[0], words[1:], os.Environ())
	case "child": // errand
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		out, err := exec.Command(self, words[1:]...).CombinedOutput()
		return string(out), err
	default:
		return "", errUsage
	}
}

func hear(network, address string) (string, error) {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return exchange(c, "hello\n", nil)
}

func listen(network, address string) (string, error) {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// exchange says something and hears the answer.
func exchange(c net.Conn, text string, to *net.UDPAddr) (string, error) {
	if c == nil {
		return "", errUsage
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var err error
	if to != nil {
		_, err = c.(net.PacketConn).WriteTo([]byte(text), to)
	} else {
		_, err = c.Write([]byte(text))
	}
	if err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func makeSocket(kind string) error {
	what := map[string][3]int{
		"raw":     {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"raw6":    {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		"udplite": {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
	}
	w, ok := what[kind]
	if !ok {
		return errUsage
	}
	fd, err := unix.Socket(w[0], w[1]|unix.SOCK_CLOEXEC, w[2])
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// resolver is Go's own, which connects its sockets.
func resolver(network, server string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, server)
	}}
}

func ask(network, server, name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addrs, err := resolver(network, server).LookupHost(ctx, name)
	slices.Sort(addrs)
	return strings.Join(addrs, " "), err
}

func find(network, server, address string) (string, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	addrs, err := ask(network, server, name+".")
	if err != nil {
		return "", err
	}
	return hear("tcp", net.JoinHostPort(strings.Fields(addrs)[0], port))
}
