package main

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func tcpWays() map[string]attempt {
	return map[string]attempt{
		"tcp":                  plain,                                          // ADDR
		"tcp-nonblock":         nonblocking,                                    // ADDR
		"tcp-signals":          signalled,                                      // ADDR
		"tcp-reconnect":        reconnect,                                      // ADDR
		"tcp-bind":             bindFirst,                                      // LOCAL ADDR
		"tcp-device":           bindToDevice,                                   // DEVICE ADDR
		"tcp-freebind":         freebind(unix.IPPROTO_IP, unix.IP_FREEBIND),    // LOCAL ADDR
		"tcp-transparent":      freebind(unix.IPPROTO_IP, unix.IP_TRANSPARENT), // LOCAL ADDR
		"tcp-mptcp":            mptcp,                                          // ADDR
		"tcp-fastopen":         fastOpen,                                       // ADDR
		"tcp-fastopen-connect": fastOpenConnect,                                // ADDR
		"tcp-halfclose":        halfClose,                                      // ADDR
		"tcp-uring":            func(a []string) (string, error) { return uringConnect(a, 0, 0) },
		"tcp-uring-async":      func(a []string) (string, error) { return uringConnect(a, 0, sqeAsync) },
		"tcp-uring-sqpoll":     func(a []string) (string, error) { return uringConnect(a, setupSQPoll, 0) },
		"tcp-thread":           fromThread,     // ADDR
		"tcp-leaderless":       withoutLeader,  // ADDR
		"bind":                 bindOnly,       // tcp|udp ADDR
		"listen-unbound":       listenUnbound,  // PORT
		"listen":               listenAndServe, // ADDR
	}
}

func plain(args []string) (string, error) {
	need(args, 1)
	return prepared(args[0], func(int) error { return nil })
}

// prepared connects after something was done to the socket.
func prepared(to string, prepare func(fd int) error) (string, error) {
	family, sa := target(to)
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if err := prepare(fd); err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	return talk(fd)
}

func nonblocking(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return "", at("make blocking", err)
	}
	return talk(fd)
}

// signalled connects a few times while another thread sends signals.
func signalled(args []string) (string, error) {
	need(args, 1)
	runtime.LockOSThread()
	signal.Notify(make(chan os.Signal, 1), unix.SIGUSR1)
	tid, stop := unix.Gettid(), make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				// A thread that is gone wants no signals.
				_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGUSR1)
			}
		}
	}()
	for range 7 {
		if reply, err := plain(args); err != nil {
			return reply, err
		}
	}
	return plain(args)
}

func reconnect(args []string) (string, error) {
	need(args, 1)
	return prepared(args[0], func(fd int) error {
		_, sa := target(args[0])
		if err := connected(fd, sa); err != nil {
			return err
		}
		if _, err := talk(fd); err != nil {
			return err
		}
		return disconnect(fd)
	})
}

// disconnect is connect(2) to an address of family AF_UNSPEC.
func disconnect(fd int) error {
	unspecified := [16]byte{}
	return at("disconnect", rawConnect(fd, unspecified[:]))
}

func bindFirst(args []string) (string, error) {
	need(args, 2)
	return prepared(args[1], func(fd int) error {
		_, local := target(args[0])
		return at("bind", unix.Bind(fd, local))
	})
}

func bindToDevice(args []string) (string, error) {
	need(args, 2)
	return prepared(args[1], func(fd int) error { return at("bind to device", unix.BindToDevice(fd, args[0])) })
}

func freebind(level, option int) attempt {
	return func(args []string) (string, error) {
		need(args, 2)
		return prepared(args[1], func(fd int) error {
			if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
				return at("allow a foreign address", err)
			}
			_, local := target(args[0])
			if err := unix.Bind(fd, local); err != nil {
				return at("bind", err)
			}
			// What answers goes to nobody: the wait would be a long one.
			if err := shorter(fd); err != nil {
				return err
			}
			return at("bound connecting", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 300))
		})
	}
}

func mptcp(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	return talk(fd)
}

// fastOpen sends its first bytes with the SYN, the second time with the cookie
// of the first, if there was one.
func fastOpen(args []string) (reply string, err error) {
	need(args, 1)
	for range 2 {
		family, sa := target(args[0])
		fd, err := socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			return "", err
		}
		err = unix.Sendto(fd, []byte(hello+"escape\n"), unix.MSG_FASTOPEN, sa)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return "", at("send", errors.Join(errUnavailable, err))
		}
		if err != nil {
			return "", at("send", err)
		}
		if reply, err = line(fd); err != nil {
			return reply, err
		}
	}
	return reply, nil
}

func fastOpenConnect(args []string) (string, error) {
	need(args, 1)
	return prepared(args[0], func(fd int) error {
		return at("ask for fast open", lacking(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)))
	})
}

// halfClose ends its own direction first and expects the far side's answer to that.
func halfClose(args []string) (string, error) {
	need(args, 1)
	family, sa := target(args[0])
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if err := connected(fd, sa); err != nil {
		return "", err
	}
	reply, err := talk(fd)
	if err != nil {
		return reply, err
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return reply, at("shut down", err)
	}
	end, err := line(fd)
	return reply + " " + end, err
}

// fromThread connects from a thread that is not the leader.
func fromThread(args []string) (string, error) {
	return elsewhere(func() (string, error) { return plain(args) })
}

// elsewhere runs f on a thread that is not the leader.
func elsewhere(f func() (string, error)) (reply string, err error) {
	done := make(chan struct{})
	var on func()
	on = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// This one keeps the leader busy, so that the next is another thread.
			next := make(chan struct{})
			go func() { defer close(next); on() }()
			<-next
			return
		}
		reply, err = f()
		close(done)
	}
	go on()
	<-done
	return reply, err
}

// withoutLeader connects after the leader of the thread group has exited.
func withoutLeader(args []string) (string, error) {
	need(args, 1)
	onLeader(func() {
		go func() {
			runtime.LockOSThread()
			if err := leaderGone(); err != nil {
				say("tcp-leaderless", "", err)
			} else {
				reply, err := plain(args)
				say("tcp-leaderless", reply, err)
			}
			os.Exit(0)
		}()
		// Ends this thread alone. The runtime takes the call for a long one.
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	})
	select {}
}

// onLeader runs f on the thread group's leader.
func onLeader(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		f()
		return
	}
	go onLeader(f)
	select {}
}

func leaderGone() error {
	for range 100_000 {
		stat, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(unix.Getpid()) + "/stat")
		if err != nil {
			return err
		}
		if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "Z") {
			return nil
		}
	}
	return errors.New("the leader did not exit")
}

func bindOnly(args []string) (string, error) {
	need(args, 2)
	kind := unix.SOCK_STREAM
	if args[0] == "udp" {
		kind = unix.SOCK_DGRAM
	}
	family, local := target(args[1])
	fd, err := socket(family, kind, 0)
	if err != nil {
		return "", err
	}
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return "", at("share the port", err)
		}
	}
	return "bound", at("bind", unix.Bind(fd, local))
}

// listenUnbound listens without bind(2) and has the kernel choose among one port.
func listenUnbound(args []string) (string, error) {
	need(args, 1)
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return "", at("share the port", err)
	}
	const ipLocalPortRange = 51 // since Linux 6.3
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, port|port<<16); err != nil {
		return "", at("choose the port", lacking(err))
	}
	return "listening", at("listen", unix.Listen(fd, 1))
}

// listenAndServe answers the first who connects.
func listenAndServe(args []string) (string, error) {
	need(args, 1)
	family, local := target(args[0])
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	if err := unix.Bind(fd, local); err != nil {
		return "", at("bind", err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		return "", at("listen", err)
	}
	peer := -1
	if err := uninterrupted(func() (err error) { peer, _, err = unix.Accept(fd); return err }); err != nil {
		return "", at("accept", err)
	}
	if err := write(peer, "from inside\n"); err != nil {
		return "", err
	}
	return line(peer)
}
