package kernel

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
)

// treeShare is what one tree may have of connections in flight, and of sockets
// that ask the resolver.
const treeShare = 4096

// A tree that asks for all that the tables hold is refused what is beyond its
// share; another connects and resolves as before, and so does the first one when
// it has let go.
func TestPrivilegedOneTreeCannotTakeWhatOthersNeed(t *testing.T) {
	t.Run("datagrams", func(t *testing.T) {
		f := listening(t, Options{})
		reports := f.refusals(t)
		greedy := takeAll(t, f, "udp", "198.51.100.53:53")
		greedy.want(t, filled{Begun: treeShare, Refused: 10, Again: 0, Late: unix.EPERM})
		f.wantCount(t, "denied_share", 11)
		f.wantCount(t, "inflight_full", 0)
		for range 11 {
			if r := nextOf(t, reports); r.Reason != "denied_share" || r.Root.PID != uint32(greedy.cmd.Process.Pid) || r.Target.Port() == 0 {
				t.Errorf("reported as %+v", r)
			}
		}
		other := outcome(t, helper(t, f.jobs, "send", "198.51.100.53:53", "connect=198.51.100.53:53"))
		for _, d := range other {
			if d.Errno != 0 || d.Answer == "" {
				t.Errorf("another tree: %+v", d)
			}
		}
		wantErrno(t, dial(t, f.jobs, "198.51.100.7:5432"), 0)
		greedy.done()
		f.wantShares(t)
		again := takeAll(t, f, "udp", "198.51.100.53:53")
		again.want(t, filled{Begun: treeShare, Refused: 10, Again: 0, Late: unix.EPERM})
	})
	t.Run("connections", func(t *testing.T) {
		f := listening(t, Options{})
		f.stop()
		// A proxy that hangs: its backlog holds one connection, then SYNs are lost.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(f.port)}))
		must(t, unix.Listen(fd, 0))
		greedy := takeAll(t, f, "tcp", "198.51.100.7:5432")
		got := greedy.filled(t)
		handed := int(f.count(t, "handed_over"))
		if got.Begun != treeShare+handed || got.Refused != 10-handed || f.count(t, "denied_share") != uint64(got.Refused) {
			t.Errorf("%+v, of which %d were handed over", got, handed)
		}
		f.wantInflight(t, treeShare)
		out, err := helper(t, f.jobs, "giveup", "1", "198.51.100.7:5432").Output()
		must(t, err)
		if string(out) != "1" {
			t.Errorf("another tree began %s connections", out)
		}
		greedy.done()
		f.wantInflight(t, 0)
		f.wantShares(t)
	})
}

// wantShares looks whether nothing is counted of what is gone.
func (f *fixture) wantShares(t *testing.T) {
	t.Helper()
	var slot uint32
	var s bpf.HeadgateShare
	entries := f.maps.Shares.Iterate()
	for entries.Next(&slot, &s) {
		if s != (bpf.HeadgateShare{}) {
			t.Errorf("slot %d: %+v is left", slot, s)
		}
	}
	must(t, entries.Err())
}

// filled is what became of the attempts of a helper to take more than a share.
type filled struct {
	Begun, Refused int
	// Again is what a socket got that was begun and sends once more, Late one
	// that was connected while there was room and sends for the first time.
	Again, Late syscall.Errno
}

type filler struct{ *obedient }

// takeAll lets a helper begin ten more than a share.
func takeAll(t *testing.T, f *fixture, kind, target string) filler {
	t.Helper()
	return filler{obey(t, helper(t, f.jobs, "fill", kind, strconv.Itoa(treeShare+10), target))}
}

func (f filler) filled(t *testing.T) filled {
	t.Helper()
	var got filled
	must(t, f.out.Decode(&got))
	return got
}

func (f filler) want(t *testing.T, want filled) {
	t.Helper()
	if got := f.filled(t); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// fillRole begins a number of connections, or asks as often from sockets of
// their own, and keeps all sockets until its input ends.
func fillRole(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(n) + 100, Max: uint64(n) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	family, sa := sockaddr(args[2])
	kind := unix.SOCK_DGRAM
	if args[0] == "tcp" {
		kind = unix.SOCK_STREAM
	}
	var result filled
	late, first := -1, -1
	for i := range n + 1 {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		switch {
		case kind == unix.SOCK_DGRAM && i == 0:
			late = fd
			if err := unix.Connect(fd, sa); err != nil {
				return err
			}
			continue
		case kind == unix.SOCK_DGRAM:
			err = unix.Sendto(fd, []byte("x"), 0, sa)
		case i == n:
			continue
		default:
			err = unix.Connect(fd, sa)
		}
		switch {
		case errors.Is(err, unix.EPERM):
			result.Refused++
		case err == nil || errors.Is(err, unix.EINPROGRESS):
			result.Begun++
			if first < 0 {
				first = fd
			}
		default:
			return fmt.Errorf("socket %d: %w", i, err)
		}
	}
	if late >= 0 {
		_, err := unix.Write(late, []byte("x"))
		result.Late = errnoOf(err)
		result.Again = errnoOf(unix.Sendto(first, []byte("x"), 0, sa))
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
	}
	return in.Err()
}
