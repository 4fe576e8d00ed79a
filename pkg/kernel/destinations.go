package kernel

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
)

// Verdict is what happens to a connection to a destination. The zero Verdict
// denies.
type Verdict uint8

// The verdicts. Where no destination matches, loopback connects as asked and
// everything else goes to the proxy.
const (
	Deny   Verdict = iota // refused with EPERM
	Proxy                 // to the proxy, loopback too
	Direct                // as asked, and counted
)

// Destination is a rule for a range of addresses and one port. The longest
// matching prefix counts. If a rule for the port and one for any port match, a
// denial by either wins, else the one for the port.
type Destination struct {
	// Prefix is of IPv4 or IPv6. IPv4 covers v4-mapped addresses; a v4-mapped
	// prefix is refused.
	Prefix netip.Prefix
	// Port is zero for any port.
	Port    uint16
	Verdict Verdict
}

// MetadataDestinations denies the addresses at which clouds hand out instance
// metadata and credentials: EC2's instance metadata, and the credential
// endpoints of ECS and EKS.
func MetadataDestinations() []Destination {
	var denied []Destination
	for _, a := range []string{"169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"} {
		addr := netip.MustParseAddr(a)
		denied = append(denied, Destination{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Verdict: Deny})
	}
	return denied
}

// SetDestinations replaces the rules. Until it was called for the first time
// every connection of an enrolled process is refused, so it must be called with
// an empty list too. While it runs, connections see rules of both lists: new
// denials come first, old ones go last. On an error the old rules stay, beside
// some of the new ones.
func (k *Kernel) SetDestinations(list []Destination) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	v4 := make(map[bpf.HeadgateDest4Key]bpf.HeadgateVerdict)
	v6 := make(map[bpf.HeadgateDest6Key]bpf.HeadgateVerdict)
	for _, d := range list {
		verdict, err := d.verdict()
		if err != nil {
			return err
		}
		// Of rules for the same thing the denial counts.
		if d.Prefix.Addr().Is4() {
			add(v4, d.key4(), verdict)
		} else {
			add(v6, d.key6(), verdict)
		}
	}
	if err := replace(k.maps.Dest4, v4); err != nil {
		return fmt.Errorf("set IPv4 destinations: %w", err)
	}
	if err := replace(k.maps.Dest6, v6); err != nil {
		return fmt.Errorf("set IPv6 destinations: %w", err)
	}
	return k.changeLocked(func(s *bpf.HeadgateDaemonSettings) { s.Generation++ })
}

func (d Destination) verdict() (bpf.HeadgateVerdict, error) {
	if !d.Prefix.IsValid() || d.Prefix.Addr().Is4In6() {
		return 0, fmt.Errorf("destination %v: not a prefix of IPv4 or IPv6", d.Prefix)
	}
	switch d.Verdict {
	case Deny:
		return bpf.HeadgateVerdictVERDICT_DENY, nil
	case Proxy:
		return bpf.HeadgateVerdictVERDICT_PROXY, nil
	case Direct:
		return bpf.HeadgateVerdictVERDICT_DIRECT, nil
	}
	return 0, fmt.Errorf("destination %v: unknown verdict %d", d.Prefix, d.Verdict)
}

// portBits is the length of the port in a key, ahead of the address.
const portBits = 16

func (d Destination) key4() bpf.HeadgateDest4Key {
	return bpf.HeadgateDest4Key{
		Prefixlen: uint32(portBits + d.Prefix.Bits()),
		Port:      bits.ReverseBytes16(d.Port),
		Addr:      d.Prefix.Masked().Addr().As4(),
	}
}

func (d Destination) key6() bpf.HeadgateDest6Key {
	return bpf.HeadgateDest6Key{
		Prefixlen: uint32(portBits + d.Prefix.Bits()),
		Port:      bits.ReverseBytes16(d.Port),
		Addr:      d.Prefix.Masked().Addr().As16(),
	}
}

func add[K comparable](m map[K]bpf.HeadgateVerdict, key K, v bpf.HeadgateVerdict) {
	if m[key] != bpf.HeadgateVerdictVERDICT_DENY {
		m[key] = v
	}
}

// replace makes the trie hold what wanted holds.
func replace[K comparable](trie *ebpf.Map, wanted map[K]bpf.HeadgateVerdict) error {
	if len(wanted) > int(trie.MaxEntries()) {
		return fmt.Errorf("%d rules are more than the %d that fit", len(wanted), trie.MaxEntries())
	}
	stale, err := unwanted(trie, wanted)
	if err != nil {
		return err
	}
	for _, denials := range []bool{true, false} {
		for key, v := range wanted {
			if (v == bpf.HeadgateVerdictVERDICT_DENY) != denials {
				continue
			}
			if err := trie.Put(key, bpf.HeadgateDestValue{Verdict: v}); err != nil {
				return fmt.Errorf("add rule: %w", err)
			}
		}
	}
	for _, denials := range []bool{false, true} {
		for key, v := range stale {
			if (v == bpf.HeadgateVerdictVERDICT_DENY) != denials {
				continue
			}
			if err := trie.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("remove rule: %w", err)
			}
		}
	}
	return nil
}

func unwanted[K comparable](trie *ebpf.Map, wanted map[K]bpf.HeadgateVerdict) (map[K]bpf.HeadgateVerdict, error) {
	stale := make(map[K]bpf.HeadgateVerdict)
	var key K
	var value bpf.HeadgateDestValue
	entries := trie.Iterate()
	for entries.Next(&key, &value) {
		if _, ok := wanted[key]; !ok {
			stale[key] = value.Verdict
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	return stale, nil
}

func remove(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove from %s: %w", m, err)
	}
	return nil
}
