package kernel

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
)

// change applies f to the settings and publishes them. They are left as they
// were if that fails.
func (k *Kernel) change(f func(*bpf.HeadgateDaemonSettings)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changeLocked(f)
}

func (k *Kernel) changeLocked(f func(*bpf.HeadgateDaemonSettings)) error {
	next := k.settings
	f(&next)
	if err := k.maps.Settings.Put(uint32(0), next); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	k.settings = next
	return nil
}

// SetDaemon exempts the process id from mediation, and every process in the
// cgroup with the number cgroupID; zero exempts no cgroup. The cgroup that the
// programs are attached to is refused: exempting it would exempt everybody in
// it.
func (k *Kernel) SetDaemon(id process.ID, cgroupID uint64) error {
	if cgroupID == k.cgroupID {
		return errors.New("set daemon: its cgroup is the one that is mediated")
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) {
		s.DaemonTgid, s.DaemonStart, s.DaemonCgroup = id.PID, id.Start, cgroupID
	})
}

// Heartbeat tells the programs that the daemon is alive.
func (k *Kernel) Heartbeat() error {
	now, err := bootTime()
	if err != nil {
		return err
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) { s.Heartbeat = now })
}

// SetHeartbeatLimit makes the programs refuse connections of enrolled processes
// once the last [Kernel.Heartbeat] is older than limit. It counts as one. A
// limit of zero or less switches the check off.
func (k *Kernel) SetHeartbeatLimit(limit time.Duration) error {
	now, err := bootTime()
	if err != nil {
		return err
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) {
		s.Heartbeat, s.HeartbeatLimit = now, uint64(max(limit, 0))
	})
}

// HandOver lets the heartbeat be good for grace beyond its limit from now on: a
// daemon ends, and leaves its listening sockets to the next one. It is good for
// one hand-over: the next [Kernel.Heartbeat] ends it.
func (k *Kernel) HandOver(grace time.Duration) error {
	now, err := bootTime()
	if err != nil {
		return err
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) { s.Heartbeat = now + uint64(max(grace, 0)) })
}

func bootTime() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return uint64(ts.Nano()), nil
}

// SetFailOpen says what becomes of connections that nobody could mediate, since
// the heartbeat is stale or [Kernel.Suspend] was called: they connect as asked
// (true, and are counted as "passed_open") or are refused, as they are until
// this is called. Denials by destination hold either way.
func (k *Kernel) SetFailOpen(open bool) error {
	var n uint32
	if open {
		n = 1
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) { s.FailOpen = n })
}

// SetObserve says whether refusals of what no rule decides (datagrams and kinds
// of sockets) are only reported, and counted as "observed", while what they
// concern passes. What destinations and unix sockets deny stays refused, as does
// what cannot be mediated: a rule that observes says [Observed] itself.
func (k *Kernel) SetObserve(observe bool) error {
	var n uint32
	if observe {
		n = 1
	}
	return k.change(func(s *bpf.HeadgateDaemonSettings) { s.Observe = n })
}

// SetListener tells the programs that the proxy listens on 127.0.0.1 and ::1 at
// port, of TCP and of UDP, in the network namespace with that cookie. Enrolled processes in
// namespaces without a listener are refused. The daemon itself must have bound
// the sockets, after [Kernel.SetDaemon]: a redirect to another's is refused
// ("denied_foreign_listener"). From now on nobody but the daemon may bind that
// port in that namespace ("denied_bind"), also while no daemon runs.
func (k *Kernel) SetListener(netnsCookie uint64, port uint16) error {
	if port == 0 {
		return errors.New("set listener: port is zero")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.maps.Listeners.Put(netnsCookie, bpf.HeadgateListener{Port: uint32(port), Open: 1}); err != nil {
		return fmt.Errorf("set listener: %w", err)
	}
	return nil
}

// Suspend ends every redirect until the next [Kernel.SetListener]: connections
// of enrolled processes that need the proxy are refused ("denied_no_listener").
// The ports stay the daemon's. Call it before the listening sockets are closed,
// and after [Open], which finds what an earlier daemon had set. On an error some
// redirects may go on.
func (k *Kernel) Suspend() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	closed := make(map[uint64]bpf.HeadgateListener)
	var cookie uint64
	var l bpf.HeadgateListener
	entries := k.maps.Listeners.Iterate()
	for entries.Next(&cookie, &l) {
		l.Open = 0
		closed[cookie] = l
	}
	errs := []error{entries.Err()}
	for cookie, l := range closed {
		errs = append(errs, k.maps.Listeners.Put(cookie, l))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("suspend: %w", err)
	}
	return nil
}

// RemoveListener forgets the network namespace with that cookie, which nobody
// uses any more: its port is free for everybody. There being none is no error.
func (k *Kernel) RemoveListener(netnsCookie uint64) error {
	return remove(k.maps.Listeners, netnsCookie)
}

// NetnsCookie returns the number by which the kernel knows the network
// namespace of the calling thread. It needs Linux 5.14.
func NetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	return cookie, nil
}
