package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
)

// Refusal is something that the programs refused to an enrolled process, or to
// one that tried to take the proxy's port.
type Refusal struct {
	// Reason is the name of the counter that counted it, as "denied_udp".
	Reason string
	// Observed says that it was let through: [Kernel.SetObserve], or a rule that
	// says [Observed].
	Observed bool
	// Rule is that of the [Destination] or [UnixSocket] that said so; zero where
	// none did.
	Rule uint64
	// Time is the boot-time clock in nanoseconds.
	Time    uint64
	Process process.ID
	// Root is zero for a process that belongs to no tree, or that its tree had
	// no room for.
	Root      process.ID
	Enrolment uint32
	UID       uint32
	Cgroup    uint64
	// Netns is the cookie of the network namespace; zero where it is not known.
	Netns uint64
	// Family, Type and Protocol are those of socket(2).
	Family, Type, Protocol uint32
	// Target is not valid where there was no destination. Its address is not,
	// beside a port, for a bind.
	Target netip.AddrPort
	// Path is the name of a unix socket; an abstract one begins with "@".
	Path string
}

// Refusals calls f with what was refused, until ctx ends or f fails, and returns
// ctx's or f's error. When f does not keep up, refusals are lost and counted
// ("refusals_lost"); each of them was counted by its reason too. Only one call
// may run at a time.
func (k *Kernel) Refusals(ctx context.Context, f func(Refusal) error) error {
	if !k.watching.TryLock() {
		return errors.New("read refusals: somebody else does")
	}
	defer k.watching.Unlock()
	return readRing(ctx, k.maps.Refusals, func(record []byte) error {
		refusal, err := k.decodeRefusal(record)
		if err != nil {
			k.malformed.Add(1)
			return nil
		}
		return f(refusal)
	})
}

func (k *Kernel) decodeRefusal(b []byte) (Refusal, error) {
	var r bpf.HeadgateRefusal
	if _, err := binary.Decode(b, binary.NativeEndian, &r); err != nil || int(r.Reason) >= len(k.names) {
		return Refusal{}, errMalformed
	}
	path := r.Path[:min(int(r.PathLen), len(r.Path))]
	if r.Family == unix.AF_UNIX && len(path) > 0 && path[0] != '@' {
		path, _, _ = bytes.Cut(path, []byte{0})
	}
	refusal := Refusal{
		Reason:    k.names[r.Reason],
		Observed:  r.Observed != 0,
		Rule:      r.Rule,
		Time:      r.Time,
		Process:   process.ID{PID: r.Tgid, Start: r.Start},
		Root:      process.ID{PID: r.RootTgid, Start: r.RootStart},
		Enrolment: r.Enrolment,
		UID:       r.Uid,
		Cgroup:    r.Cgroup,
		Netns:     r.Netns,
		Family:    r.Family, Type: r.Type, Protocol: r.Protocol,
		Path: string(path),
	}
	port := bits.ReverseBytes16(r.Port)
	switch {
	case r.Addr != [4]uint32{}:
		refusal.Target = netip.AddrPortFrom(address(r.Addr).Unmap(), port)
	case port != 0:
		refusal.Target = netip.AddrPortFrom(netip.Addr{}, port)
	}
	return refusal, nil
}
