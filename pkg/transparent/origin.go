// Package transparent turns redirected TCP connections and UDP flows back into
// what the agent meant: a connection to some origin, made by some process.
//
// It knows nothing of how the kernel side works; [Origins] and
// [DatagramOrigins] are what it needs from it. A connection without a record of
// its origin is reset, a datagram without one is dropped; neither is served.
package transparent

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/headgate/headgate/pkg/process"
)

// Origin is what the kernel wrote down when an agent called connect(2): where
// it wanted to go, and who it was. It stays true after the process has exited.
type Origin struct {
	// Target is the destination that the agent asked for. A v4-mapped address
	// is unmapped here; Mapped tells that it was one.
	Target netip.AddrPort `json:"target"`
	Mapped bool           `json:"mapped,omitempty"`
	// Transport is what the agent's socket speaks.
	Transport Transport `json:"transport,omitempty"`
	// Process is the caller's thread group; Root is the root of its tree.
	Process process.ID `json:"process"`
	Root    process.ID `json:"root"`
	// Thread is the calling thread. Information only, never a decision.
	Thread uint32 `json:"thread"`
	// Exec identifies the image that the process executed at that moment
	// ([process.Image.Exec]).
	Exec uint64 `json:"exec"`
	// Enrolment is the number that the daemon gave to the enrolment rule.
	Enrolment uint32 `json:"enrolment"`
	UID       uint32 `json:"uid"`
	Cgroup    uint64 `json:"cgroup"`
	// Netns is the cookie of the network namespace, Socket that of the socket.
	Netns  uint64 `json:"netns"`
	Socket uint64 `json:"socket"`
	// Time is the boot-time clock in nanoseconds at which connect was called.
	Time uint64 `json:"time"`
}

// complete returns an error unless o says where to and by whom.
func (o *Origin) complete() error {
	if !o.Target.IsValid() || o.Process.IsZero() {
		return errors.New("look up origin: the record is incomplete")
	}
	return nil
}

// sameAsker reports whether other is of the same process and image, under the
// same enrolment, and goes to the same target.
func (o *Origin) sameAsker(other *Origin) bool {
	return o.Target == other.Target && o.Process == other.Process && o.Exec == other.Exec &&
		o.Root == other.Root && o.Enrolment == other.Enrolment && o.UID == other.UID
}

// Transport is what carries a flow. The zero Transport is TCP.
type Transport uint8

// The transports that are mediated.
const (
	TCP Transport = iota
	UDP
)

// String returns "tcp" or "udp".
func (t Transport) String() string {
	if t == UDP {
		return "udp"
	}
	return "tcp"
}

// MarshalText returns what String does.
func (t Transport) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (t *Transport) UnmarshalText(text []byte) error {
	switch string(text) {
	case "tcp":
		*t = TCP
	case "udp":
		*t = UDP
	default:
		return fmt.Errorf("transport %q is not known", text)
	}
	return nil
}
