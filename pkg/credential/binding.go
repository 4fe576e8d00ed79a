package credential

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Binding is a set of destinations: the addresses of a prefix, at one port. The
// zero Binding contains nothing.
type Binding struct {
	prefix netip.Prefix
	port   uint16
}

// ParseBinding reads "10.0.3.7:5432", "10.0.3.0/24:5432", "[2001:db8::1]:5432"
// or "[2001:db8::/64]:5432". There is no wildcard: neither for the port, nor for
// all addresses (a prefix of length 0), because a credential that may go
// anywhere is not bound. Names are refused too; whoever resolves them binds
// what they resolved to.
func ParseBinding(s string) (Binding, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Binding{}, fmt.Errorf("parse host %q: want address:port or prefix:port", s)
	}
	host := s[:i]
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 {
		return Binding{}, fmt.Errorf("parse host %q: want a port from 1 to 65535", s)
	}
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if bracketed {
		host = host[1 : len(host)-1]
	}
	prefix, err := parsePrefix(host)
	if err != nil {
		return Binding{}, fmt.Errorf("parse host %q: %v", s, err)
	}
	if prefix.Addr().Is6() != bracketed {
		return Binding{}, fmt.Errorf("parse host %q: an IPv6 address, and no other, goes in brackets", s)
	}
	if prefix.Bits() == 0 {
		return Binding{}, fmt.Errorf("parse host %q: a credential cannot be bound to every address", s)
	}
	return Binding{prefix: prefix, port: uint16(port)}, nil
}

func parsePrefix(host string) (netip.Prefix, error) {
	if !strings.Contains(host, "/") {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return netip.Prefix{}, errors.New("want an IP address without a zone, not v4-mapped")
		}
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(host)
	if err != nil || prefix.Addr().Is4In6() || prefix.Masked() != prefix {
		return netip.Prefix{}, errors.New("want a prefix in CIDR form with no bits set behind its length")
	}
	return prefix, nil
}

// Contains reports whether the target is one of the destinations. A v4-mapped
// address stands for the IPv4 address, as it does for the kernel; an address
// with a zone is contained in nothing.
func (b Binding) Contains(target netip.AddrPort) bool {
	addr := target.Addr().Unmap()
	return b.prefix.IsValid() && b.port != 0 && b.port == target.Port() && b.prefix.Contains(addr)
}

// String returns the binding as [ParseBinding] reads it.
func (b Binding) String() string {
	if !b.prefix.IsValid() {
		return "nothing"
	}
	host := b.prefix.String()
	if b.prefix.IsSingleIP() {
		host = b.prefix.Addr().String()
	}
	if b.prefix.Addr().Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(b.port))
}
