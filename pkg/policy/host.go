package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Host is where a resource is reached: a name or a range of addresses, and a
// port. The zero Host is nowhere.
type Host struct {
	// Name is a host name in lower case without the final dot; empty if Prefix
	// is set.
	Name string
	// Prefix is the range of addresses, a single one included.
	Prefix netip.Prefix
	Port   uint16
}

// String returns the host as [ParseHost] reads it.
func (h Host) String() string {
	host := h.Name
	if h.Prefix.IsValid() {
		host = h.Prefix.String()
		if h.Prefix.IsSingleIP() {
			host = h.Prefix.Addr().String()
		}
		if h.Prefix.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	return host + ":" + strconv.Itoa(int(h.Port))
}

// ParseHost reads "name:port", "ip:port", "cidr:port", "[ipv6]:port" or
// "[ipv6cidr]:port".
func ParseHost(s string) (Host, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Host{}, errors.New("no port: want host:port")
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 || s[i+1] == '0' {
		return Host{}, fmt.Errorf("port %q is not a number from 1 to 65535", s[i+1:])
	}
	h := Host{Port: uint16(port)}
	host := s[:i]
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return Host{}, errors.New("a bracket is not closed")
		}
		h.Prefix, err = parsePrefix(inner)
		if err == nil && !h.Prefix.Addr().Is6() {
			err = errors.New("brackets are for IPv6 addresses")
		}
		return h, err
	}
	if strings.ContainsRune(host, ':') {
		return Host{}, fmt.Errorf("write an IPv6 address in brackets, as in [%s]:%d", host, port)
	}
	if addressLike(host) {
		h.Prefix, err = parsePrefix(host)
		return h, err
	}
	h.Name, err = parseName(host)
	return h, err
}

// addressLike tells an address, right or wrong, from a name: the last label of
// a name has a letter.
func addressLike(host string) bool {
	host, _, sliced := strings.Cut(host, "/")
	last := host[strings.LastIndexByte(host, '.')+1:]
	return sliced || last != "" && strings.Trim(last, "0123456789") == ""
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.ContainsRune(s, '%') {
		return netip.Prefix{}, errors.New("an address with a zone is not understood")
	}
	p, err := netip.ParsePrefix(s)
	if !strings.ContainsRune(s, '/') {
		var addr netip.Addr
		addr, err = netip.ParseAddr(s)
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not an address or CIDR range", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("write a v4-mapped address as IPv4")
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("%s has host bits set: want %s", p, p.Masked())
	}
	return p, nil
}

func parseName(s string) (string, error) {
	name := normalName(s)
	if name == "" || len(name) > 253 {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("%q is not a host name", s)
		}
		for _, c := range []byte(label) {
			if !lowerAlnum(c) && c != '-' && c != '_' {
				return "", fmt.Errorf("%q is not a host name", s)
			}
		}
	}
	return name, nil
}

func normalName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
