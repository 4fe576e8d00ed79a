package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/transparent"
)

// tcpListen is TCP_LISTEN of the kernel's net/tcp_states.h.
const tcpListen = 10

// destroySockets ends the connections that a process made before it was
// enrolled, and disconnects its UDP sockets: nobody mediated them. Listening
// sockets stay, and so does what leads to loopback, unless a destination names
// it. It needs CONFIG_INET_DIAG_DESTROY; what it could not do is counted.
func (k *Kernel) destroySockets(pid int) {
	held, err := socketsOf(pid)
	if err != nil {
		k.socketsKept.Add(1)
	}
	if len(held.inodes) == 0 {
		return
	}
	for _, ns := range held.namespaces {
		destroyed, kept := k.destroyIn(ns, held.inodes)
		k.socketsDestroyed.Add(uint64(destroyed))
		k.socketsKept.Add(uint64(kept))
	}
}

// sockets are what the threads of a process hold. A thread may have a table of
// files and a network namespace of its own.
type sockets struct {
	inodes     map[uint32]bool
	namespaces map[uint64]string // by inode: a path to it
}

// socketsOf looks at every thread. What could not be read makes an error beside
// what could; a process or thread that is gone holds nothing.
func socketsOf(pid int) (sockets, error) {
	held := sockets{inodes: make(map[uint32]bool), namespaces: make(map[uint64]string)}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
	threads, err := os.ReadDir(dir)
	if err != nil {
		return held, unlessGone(err)
	}
	var errs []error
	for _, thread := range threads {
		errs = append(errs, unlessGone(held.add(filepath.Join(dir, thread.Name()))))
	}
	return held, errors.Join(errs...)
}

func unlessGone(err error) error {
	if err == nil || errors.Is(goneOr(err), ErrGone) {
		return nil
	}
	return err
}

// add takes in the thread whose directory in /proc is given.
func (s *sockets) add(thread string) error {
	fds, err := os.ReadDir(filepath.Join(thread, "fd"))
	if err != nil {
		return err
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(thread, "fd", fd.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		number, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
		if err != nil {
			continue // beyond what sock_diag can name
		}
		s.inodes[uint32(inode)] = true
	}
	ns := filepath.Join(thread, "ns/net")
	var st unix.Stat_t
	if err := unix.Stat(ns, &st); err != nil {
		return err
	}
	if s.namespaces[st.Ino] == "" {
		s.namespaces[st.Ino] = ns
	}
	return nil
}

// destroyIn destroys the connections with these inodes in the network namespace
// at path. Of sockets that are neither TCP nor UDP it finds nothing.
func (k *Kernel) destroyIn(path string, inodes map[uint32]bool) (destroyed, kept int) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return 0, 1
	}
	defer ns.Close()
	// Entering even our own namespace takes CAP_SYS_ADMIN.
	if here, err := netns.Get(); err == nil {
		if here.Equal(ns) {
			defer func(opened netns.NsHandle) { opened.Close() }(ns)
			ns = netns.None()
		}
		// It was opened for the comparison alone.
		_ = here.Close()
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, 1
	}
	defer h.Close()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, list := range []struct {
			transport transparent.Transport
			sockets   func(uint8) ([]*netlink.Socket, error)
		}{{transparent.TCP, h.SocketDiagTCP}, {transparent.UDP, h.SocketDiagUDP}} {
			sockets, err := list.sockets(family)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				kept++
				continue
			}
			for _, s := range sockets {
				if !inodes[s.INode] || !k.leadsAway(list.transport, s) {
					continue
				}
				err := destroy(ns, older{s, list.transport})
				if err != nil && !errors.Is(err, unix.ENOENT) {
					kept++
					continue
				}
				destroyed++
			}
		}
	}
	return destroyed, kept
}

// leadsAway tells whether a socket is connected to where it would not be by now.
func (k *Kernel) leadsAway(transport transparent.Transport, s *netlink.Socket) bool {
	addr, ok := netip.AddrFromSlice(s.ID.Destination)
	if !ok || s.State == tcpListen || addr.IsUnspecified() {
		return false
	}
	target := netip.AddrPortFrom(addr.Unmap(), s.ID.DestinationPort)
	return !target.Addr().IsLoopback() || k.named(transport, target)
}

// older is a socket from before the enrolment.
type older struct {
	*netlink.Socket
	transport transparent.Transport
}

func destroy(ns netns.NsHandle, s older) error {
	sock, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	defer sock.Close()
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: sock}}
	req.AddData(diagRequest{s})
	if _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); err != nil {
		return fmt.Errorf("destroy socket: %w", err)
	}
	return nil
}

// diagRequest is struct inet_diag_req_v2 of linux/inet_diag.h. The cookie in it
// makes sure that no other socket is meant.
type diagRequest struct{ s older }

func (diagRequest) Len() int { return 56 }

func (r diagRequest) Serialize() []byte {
	id := r.s.ID
	b := make([]byte, 8, r.Len())
	b[0], b[1] = r.s.Family, unix.IPPROTO_TCP
	if r.s.transport == transparent.UDP {
		b[1] = unix.IPPROTO_UDP
	}
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // in any state
	b = binary.BigEndian.AppendUint16(b, id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, id.DestinationPort)
	var source, destination [16]byte
	if r.s.Family == unix.AF_INET {
		copy(source[:], id.Source.To4())
		copy(destination[:], id.Destination.To4())
	} else {
		copy(source[:], id.Source.To16())
		copy(destination[:], id.Destination.To16())
	}
	b = append(append(b, source[:]...), destination[:]...)
	b = binary.NativeEndian.AppendUint32(b, id.Interface)
	b = binary.NativeEndian.AppendUint32(b, id.Cookie[0])
	return binary.NativeEndian.AppendUint32(b, id.Cookie[1])
}
