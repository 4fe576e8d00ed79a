package kernel

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// Ended is a connection that was older than the enrolment of who held it, and
// was destroyed.
type Ended struct {
	Process       process.ID // one that held it
	Transport     transparent.Transport
	Local, Remote netip.AddrPort
}

// destroySockets ends the connections that processes made before they were
// enrolled, and disconnects their UDP sockets: nobody mediated them. Listening
// sockets stay, and so does what leads to loopback, unless a destination names
// it, what the programs know to be of an enrolled process's making, and what was
// accepted. It needs CONFIG_INET_DIAG_DESTROY; what it could not do is counted.
// While refusals are only observed it does nothing.
func (k *Kernel) destroySockets(processes ...process.ID) []Ended {
	if k.observing() {
		return nil
	}
	held := newSockets()
	defer held.close()
	for _, id := range processes {
		if err := held.addProcess(id); err != nil {
			k.socketsKept.Add(1)
		}
	}
	if len(held.inodes) == 0 {
		return nil
	}
	var all []Ended
	for _, ns := range held.namespaces {
		ended, kept := k.destroyIn(ns, held.inodes)
		k.socketsDestroyed.Add(uint64(len(ended)))
		k.socketsKept.Add(uint64(kept))
		all = append(all, ended...)
	}
	return all
}

func (k *Kernel) observing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.settings.Observe != 0
}

// sockets are what the threads of processes hold. A thread may have a table of
// files and a network namespace of its own.
type sockets struct {
	inodes     map[uint32]process.ID
	namespaces map[uint64]netns.NsHandle // by inode
}

func newSockets() *sockets {
	return &sockets{inodes: make(map[uint32]process.ID), namespaces: make(map[uint64]netns.NsHandle)}
}

func (s *sockets) close() {
	for _, ns := range s.namespaces {
		// It was opened to be entered alone.
		_ = ns.Close()
	}
}

// addProcess takes in the threads of a process. What could not be read makes an
// error beside what could; a process or thread that is gone holds nothing, and
// neither does another process that has the pid by now.
func (s *sockets) addProcess(id process.ID) error {
	dir := filepath.Join("/proc", strconv.Itoa(int(id.PID)), "task")
	threads, err := os.ReadDir(dir)
	if err != nil {
		return unlessGone(err)
	}
	var errs []error
	found := make(map[uint32]bool)
	for _, thread := range threads {
		errs = append(errs, unlessGone(s.addThread(filepath.Join(dir, thread.Name()), found)))
	}
	start, err := ProcStart(int(id.PID))
	if err == nil && SameStart(start, id.Start) {
		for inode := range found {
			s.inodes[inode] = id
		}
		return errors.Join(errs...)
	}
	return unlessGone(err)
}

func unlessGone(err error) error {
	if err == nil || errors.Is(err, ErrGone) || errors.Is(goneOr(err), ErrGone) {
		return nil
	}
	return err
}

// addThread takes in the thread whose directory in /proc is given.
func (s *sockets) addThread(thread string, found map[uint32]bool) error {
	fds, err := os.ReadDir(filepath.Join(thread, "fd"))
	if err != nil {
		return err
	}
	some := false
	for _, fd := range fds {
		path := filepath.Join(thread, "fd", fd.Name())
		target, err := os.Readlink(path)
		if err != nil {
			continue // closed meanwhile
		}
		number, ok := strings.CutPrefix(target, "socket:[")
		if !ok || isLocal(path) {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
		if err != nil {
			continue // beyond what sock_diag can name
		}
		found[uint32(inode)] = true
		some = true
	}
	if !some {
		return nil
	}
	ns := filepath.Join(thread, "ns/net")
	var st unix.Stat_t
	if err := unix.Stat(ns, &st); err != nil {
		return err
	}
	if _, there := s.namespaces[st.Ino]; there {
		return nil
	}
	handle, err := netns.GetFromPath(ns)
	if err != nil {
		return err
	}
	s.namespaces[st.Ino] = handle
	return nil
}

// isLocal tells whether a socket is certainly none of the internet's: most are
// not, and a list of the others costs more than this. The process may put a file
// in the socket's place at any time, and one of FUSE answers such a question when
// it pleases, or never. So what is asked is held first, and is a socket.
func isLocal(path string) bool {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	// It was opened to be named alone.
	defer func() { _ = unix.Close(fd) }()
	held := "/proc/self/fd/" + strconv.Itoa(fd)
	if target, err := os.Readlink(held); err != nil || !strings.HasPrefix(target, "socket:[") {
		return false
	}
	var name [32]byte
	n, err := unix.Getxattr(held, "system.sockprotoname", name[:])
	if err != nil {
		return false
	}
	protocol := string(name[:n])
	return strings.HasPrefix(protocol, "UNIX") || strings.HasPrefix(protocol, "NETLINK")
}

// destroyIn destroys the connections with these inodes in a network namespace.
// Of sockets that are neither TCP nor UDP it finds nothing.
func (k *Kernel) destroyIn(ns netns.NsHandle, inodes map[uint32]process.ID) (ended []Ended, kept int) {
	// Entering even our own namespace takes CAP_SYS_ADMIN.
	if here, err := netns.Get(); err == nil {
		if here.Equal(ns) {
			ns = netns.None()
		}
		// It was opened for the comparison alone.
		_ = here.Close()
	}
	d, err := openDiag(ns)
	if err != nil {
		return nil, 1
	}
	defer d.socket.Close()
	var open []doorway
	var held []diagnosed
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, transport := range []transparent.Transport{transparent.TCP, transparent.UDP} {
			list, err := d.list(family, transport, k.maps.OwnedSocket.FD())
			if err != nil {
				kept++
			}
			for _, s := range list {
				if s.State == tcpListen && transport == transparent.TCP {
					open = append(open, doorwayOf(s))
				} else if _, ok := inodes[s.INode]; ok {
					held = append(held, s)
				}
			}
		}
	}
	for _, s := range held {
		if !k.leadsAway(s.older) || s.owned || s.accepted(open) {
			continue
		}
		err := d.destroy(s.older)
		if errors.Is(err, unix.ENOENT) {
			continue // closed meanwhile
		}
		if err != nil {
			kept++
			continue
		}
		ended = append(ended, Ended{inodes[s.INode], s.transport, s.local(), s.remote()})
	}
	return ended, kept
}

// local and remote are without a v4-mapped form.
func (s older) local() netip.AddrPort {
	addr, _ := netip.AddrFromSlice(s.ID.Source)
	return netip.AddrPortFrom(addr.Unmap(), s.ID.SourcePort)
}

func (s older) remote() netip.AddrPort {
	addr, _ := netip.AddrFromSlice(s.ID.Destination)
	return netip.AddrPortFrom(addr.Unmap(), s.ID.DestinationPort)
}

// leadsAway tells whether a socket is connected to where it would not be by now.
// Of UDP, sock_diag does not tell whose making it was: what the destinations let
// go stays, for the socket could be a new one.
func (k *Kernel) leadsAway(s older) bool {
	target := s.remote()
	if s.State == tcpListen || target.Addr().IsUnspecified() {
		return false
	}
	asAsked, covered := k.letsGo(s.transport, target)
	if target.Addr().IsLoopback() {
		return covered && !asAsked
	}
	return s.transport == transparent.TCP || !asAsked
}

// accepted tells whether somebody else connected to who holds the socket: an
// agent's listening socket is nobody's to judge, and its users must not be thrown
// out because the process that serves them is enrolled now. Where the socket
// itself does not tell, it is taken for accepted if somebody listens at its
// address. Not recognised is a connection that has data on its way, or is half
// closed, while nobody listens any more; nor one of UDP.
func (s diagnosed) accepted(open []doorway) bool {
	if s.transport != transparent.TCP || s.direction == outgoing {
		return false
	}
	if s.direction == incoming {
		return true
	}
	for _, l := range open {
		if l.takes(s.local()) {
			return true
		}
	}
	return false
}

// doorway is where a socket listens.
type doorway struct {
	netip.AddrPort
	mapped bool // for IPv4 too, at the unspecified address of IPv6
}

func doorwayOf(s diagnosed) doorway {
	return doorway{s.local(), s.Family == unix.AF_INET6 && !s.v6only}
}

// takes tells whether what comes to an address, which is not v4-mapped, comes to
// the listening socket.
func (l doorway) takes(at netip.AddrPort) bool {
	if l.Port() != at.Port() {
		return false
	}
	if !l.Addr().IsUnspecified() {
		return l.Addr() == at.Addr()
	}
	return l.Addr().Is4() == at.Addr().Is4() || l.mapped
}
