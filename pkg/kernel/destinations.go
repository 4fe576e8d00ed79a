package kernel

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/transparent"
)

// Verdict is what happens to a connection to a destination. The zero Verdict
// denies.
type Verdict uint8

// The verdicts. Where no destination matches, TCP to loopback connects as asked
// and everything else of TCP goes to the proxy; UDP passes to loopback only. DNS,
// port 53 of both, goes to the proxy unless a destination says Deny or Direct.
const (
	Deny     Verdict = iota // refused with EPERM
	Proxy                   // to the proxy, loopback too; refused for UDP
	Direct                  // as asked, and counted
	Observed                // as asked, and a [Refusal] says that it would be refused
)

// Cause says why a destination is denied. The zero Cause is that a rule says so.
type Cause uint8

// The causes, as [Kernel.Counters] and [Refusal] name them.
const (
	ByRule       Cause = iota // "denied_rule"
	MetadataOnly              // "denied_metadata"
	OwnPort                   // "denied_own_port"
)

// Destination is a rule for a range of addresses and one port. The longest
// matching prefix counts. If a rule for the port and one for any port match, a
// denial by either wins, else the one for the port; what the one for any port
// would refuse is reported, though, also of what goes to the proxy.
type Destination struct {
	// Prefix is of IPv4 or IPv6. IPv4 covers v4-mapped addresses; a v4-mapped
	// prefix is refused.
	Prefix netip.Prefix
	// Port is zero for any port.
	Port      uint16
	Transport transparent.Transport
	Verdict   Verdict
	// Cause is for denials, and for what is observed.
	Cause Cause
	// Rule is the caller's number for the rule that says so: [Refusal.Rule].
	Rule uint64
}

// MetadataDestinations denies the addresses at which clouds hand out instance
// metadata and credentials: EC2's instance metadata, and the credential
// endpoints of ECS and EKS.
func MetadataDestinations() []Destination {
	var denied []Destination
	for _, a := range []string{"169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"} {
		addr := netip.MustParseAddr(a)
		for _, t := range []transparent.Transport{transparent.TCP, transparent.UDP} {
			denied = append(denied, Destination{
				Prefix: netip.PrefixFrom(addr, addr.BitLen()), Transport: t, Verdict: Deny, Cause: MetadataOnly,
			})
		}
	}
	return denied
}

// maxDestinations is how many fit beside those of the generation before.
const maxDestinations = 16384

// SetDestinations replaces the rules. Until it was called for the first time
// every connection of an enrolled process is refused, so it must be called with
// an empty list too. They take effect together: no connection sees some of the
// old and some of the new. On an error the old rules stay.
func (k *Kernel) SetDestinations(list []Destination) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.settings.Generation + 1
	v4 := make(map[bpf.HeadgateDest4Key]bpf.HeadgateDestValue)
	v6 := make(map[bpf.HeadgateDest6Key]bpf.HeadgateDestValue)
	for _, d := range list {
		value, err := d.value()
		if err != nil {
			return err
		}
		// Of rules for the same thing the most restrictive counts.
		if d.Prefix.Addr().Is4() {
			add(v4, d.key4(next), value)
		} else {
			add(v6, d.key6(next), value)
		}
	}
	// What a daemon wrote that died before it took effect.
	if err := k.purge(); err != nil {
		return err
	}
	if err := fill(k.maps.Dest4, v4); err != nil {
		return fmt.Errorf("set IPv4 destinations: %w", errors.Join(err, k.purge()))
	}
	if err := fill(k.maps.Dest6, v6); err != nil {
		return fmt.Errorf("set IPv6 destinations: %w", errors.Join(err, k.purge()))
	}
	if err := k.changeLocked(func(s *bpf.HeadgateDaemonSettings) { s.Generation = next }); err != nil {
		return errors.Join(err, k.purge())
	}
	// The old ones stay until the next time: a hook that runs at this moment may
	// be about to ask for them.
	return nil
}

// purge removes every destination that is not of the generation in force.
func (k *Kernel) purge() error {
	now := uint8(k.settings.Generation)
	return errors.Join(
		drop(k.maps.Dest4, func(key *bpf.HeadgateDest4Key) bool { return key.Generation != now }),
		drop(k.maps.Dest6, func(key *bpf.HeadgateDest6Key) bool { return key.Generation != now }),
	)
}

func (d Destination) value() (bpf.HeadgateDestValue, error) {
	v := bpf.HeadgateDestValue{Rule: d.Rule}
	if !d.Prefix.IsValid() || d.Prefix.Addr().Is4In6() {
		return v, fmt.Errorf("destination %v: not a prefix of IPv4 or IPv6", d.Prefix)
	}
	switch d.Verdict {
	case Deny:
		v.Verdict = bpf.HeadgateVerdictVERDICT_DENY
	case Proxy:
		v.Verdict = bpf.HeadgateVerdictVERDICT_PROXY
	case Direct:
		v.Verdict = bpf.HeadgateVerdictVERDICT_DIRECT
	case Observed:
		v.Verdict = bpf.HeadgateVerdictVERDICT_OBSERVED
	default:
		return v, fmt.Errorf("destination %v: unknown verdict %d", d.Prefix, d.Verdict)
	}
	switch d.Cause {
	case ByRule:
		v.Why = bpf.HeadgateCounterCOUNT_DENIED_RULE
	case MetadataOnly:
		v.Why = bpf.HeadgateCounterCOUNT_DENIED_METADATA
	case OwnPort:
		v.Why = bpf.HeadgateCounterCOUNT_DENIED_OWN_PORT
	default:
		return v, fmt.Errorf("destination %v: unknown cause %d", d.Prefix, d.Cause)
	}
	return v, nil
}

// letsGo tells whether the destinations in force cover the target, and whether
// they let what leads there go as asked. What cannot be looked up is covered, and
// not let go.
func (k *Kernel) letsGo(transport transparent.Transport, target netip.AddrPort) (asAsked, covered bool) {
	k.mu.Lock()
	generation := k.settings.Generation
	k.mu.Unlock()
	for _, port := range []uint16{target.Port(), 0} {
		d := Destination{Prefix: netip.PrefixFrom(target.Addr(), target.Addr().BitLen()), Port: port, Transport: transport}
		var v bpf.HeadgateDestValue
		var err error
		if target.Addr().Is4() {
			err = k.maps.Dest4.Lookup(d.key4(generation), &v)
		} else {
			err = k.maps.Dest6.Lookup(d.key6(generation), &v)
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil || v.Verdict == bpf.HeadgateVerdictVERDICT_DENY {
			return false, true
		}
		if !covered { // or else the one for the port counts
			asAsked = v.Verdict == bpf.HeadgateVerdictVERDICT_DIRECT || v.Verdict == bpf.HeadgateVerdictVERDICT_OBSERVED
		}
		covered = true
	}
	return asAsked, covered
}

// headBits is the length of what is in a key ahead of the address.
const headBits = 32

func (d Destination) key4(generation uint64) bpf.HeadgateDest4Key {
	return bpf.HeadgateDest4Key{
		Prefixlen:  uint32(headBits + d.Prefix.Bits()),
		Generation: uint8(generation),
		Transport:  transportOf(d.Transport),
		Port:       bits.ReverseBytes16(d.Port),
		Addr:       d.Prefix.Masked().Addr().As4(),
	}
}

func (d Destination) key6(generation uint64) bpf.HeadgateDest6Key {
	return bpf.HeadgateDest6Key{
		Prefixlen:  uint32(headBits + d.Prefix.Bits()),
		Generation: uint8(generation),
		Transport:  transportOf(d.Transport),
		Port:       bits.ReverseBytes16(d.Port),
		Addr:       d.Prefix.Masked().Addr().As16(),
	}
}

func transportOf(t transparent.Transport) uint8 {
	if t == transparent.UDP {
		return uint8(bpf.HeadgateTransportTRANSPORT_UDP)
	}
	return uint8(bpf.HeadgateTransportTRANSPORT_TCP)
}

// freedom orders verdicts, the most restrictive first.
var freedom = []bpf.HeadgateVerdict{
	bpf.HeadgateVerdictVERDICT_DENY, bpf.HeadgateVerdictVERDICT_PROXY,
	bpf.HeadgateVerdictVERDICT_OBSERVED, bpf.HeadgateVerdictVERDICT_DIRECT,
}

func stricter(a, b bpf.HeadgateVerdict) bool {
	return slices.Index(freedom, a) < slices.Index(freedom, b)
}

func add[K comparable](m map[K]bpf.HeadgateDestValue, key K, v bpf.HeadgateDestValue) {
	if before, taken := m[key]; !taken || stricter(v.Verdict, before.Verdict) {
		m[key] = v
	}
}

func fill[K comparable](trie *ebpf.Map, wanted map[K]bpf.HeadgateDestValue) error {
	if len(wanted) > maxDestinations {
		return fmt.Errorf("%d rules are more than the %d that fit", len(wanted), maxDestinations)
	}
	for key, v := range wanted {
		if err := trie.Put(key, v); err != nil {
			return fmt.Errorf("add rule: %w", err)
		}
	}
	return nil
}

// drop removes the entries of a trie that match. It reads all of them first:
// removing while reading would begin again and again.
func drop[K any](trie *ebpf.Map, match func(*K) bool) error {
	var key K
	var value bpf.HeadgateDestValue
	var old []K
	entries := trie.Iterate()
	for entries.Next(&key, &value) {
		if match(&key) {
			old = append(old, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	for _, key := range old {
		if err := remove(trie, key); err != nil {
			return err
		}
	}
	return nil
}

func remove(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove from %s: %w", m, err)
	}
	return nil
}
