package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

func (c *checker) resource(at string, r resourceSyntax) {
	c.required(at + ".protocol")
	if c.given(at+".protocol") && !validName(r.Protocol) {
		c.bad(at+".protocol", "protocol %q is not a name", r.Protocol)
	}
	c.oneOf(at+".inspection", r.Inspection, "full", "none")
	k := kindOf(r)
	c.keysOf(at, k)
	c.hosts(at+".hosts", r.Hosts, k)
	for i, p := range r.Paths {
		if !validSocketPattern(p) {
			c.bad(index(at+".paths", i), "path %q: want a clean absolute path of at most %d bytes; "+
				"* is a whole component or ends the path", p, maxSocketPath)
		}
	}
	for i, n := range r.Names {
		if _, err := parseNamePattern(n); err != nil {
			c.bad(index(at+".names", i), "name %q: %v", n, err)
		}
	}
	for i, s := range r.Servers {
		if _, err := parseServer(s); err != nil {
			c.bad(index(at+".servers", i), "server %q: %v", s, err)
		}
	}
	if c.given(at+".credential") && !validName(r.Credential) {
		// The value is not repeated: it may be a secret put in the wrong place.
		c.bad(at+".credential", "credential: want the name of one in the configuration, never a secret")
	}
	if c.given(at + ".tls") {
		c.tls(at+".tls", r.TLS)
	}
}

// keysOf checks which keys a resource has. What is not inspected is not logged
// in to, and no TLS is spoken for it.
func (c *checker) keysOf(at string, k kind) {
	for _, key := range []string{"hosts", "paths", "names", "servers", "inspection", "credential", "tls"} {
		switch here := at + "." + key; {
		case key == k.whereKey():
			c.required(here)
		case c.given(here) && !k.takes(key):
			c.bad(here, "%s: %s has no %s", here, k, key)
		}
	}
}

func (c *checker) hosts(at string, hosts []string, k kind) {
	for i, text := range hosts {
		h, err := parseResourceHost(text)
		switch {
		case err != nil:
		case h.Port == portDNS:
			// Such a resource would open a way past the resolver.
			err = fmt.Errorf("port %d is for name servers: use protocol: %s", portDNS, protocolDNS)
		case h.suffix && k != inspected:
			err = errors.New("a pattern is matched by the names of connections, which the kernel does not see")
		}
		if err != nil {
			c.bad(index(at, i), "host %q: %v", text, err)
		}
	}
}

func (c *checker) tls(at string, t tlsSyntax) {
	c.oneOf(at+".verify", t.Verify, TLSFull, TLSChain, TLSOff)
	c.oneOf(at+".agent", t.Agent, TLSOffer, TLSRefuse)
	if ca := t.CA; c.given(at+".ca") && ca != "system" && !cleanAbsolute(ca) {
		c.bad(at+".ca", "ca %q: want system or the absolute path of a PEM file", ca)
	}
	if c.given(at + ".server_name") {
		if _, err := parseName(t.ServerName); err != nil {
			c.bad(at+".server_name", "server_name: %v", err)
		}
	}
	if t.Verify == TLSChain && (t.CA == "" || t.CA == "system") {
		// Anybody can have a certificate that such an authority has signed.
		c.bad(at+".verify", "verify: ca needs a ca of your own: with those of the system anybody would be taken for the target; want full")
	}
	for _, key := range []string{at + ".ca", at + ".server_name"} {
		if t.Verify == TLSOff && c.given(key) {
			c.bad(key, "%s: nothing is verified with verify: off", key)
		}
	}
}

// resourceHost is one host of a resource: a [Host] or, if suffix is set, every
// name that ends in a dot and the Host's.
type resourceHost struct {
	Host
	suffix bool
}

// parseResourceHost reads what ParseHost does, and "*.name:port".
func parseResourceHost(s string) (resourceHost, error) {
	rest, suffix := strings.CutPrefix(s, "*.")
	h, err := ParseHost(rest)
	if err == nil && suffix && h.Name == "" {
		err = errors.New("*. stands before a name")
	}
	return resourceHost{h, suffix}, err
}

// parseServer reads "ip:port" or "[ipv6]:port".
func parseServer(s string) (netip.AddrPort, error) {
	h, err := ParseHost(s)
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case h.Name != "" || !h.Prefix.IsSingleIP():
		return netip.AddrPort{}, errors.New("want one address and a port")
	}
	return netip.AddrPortFrom(h.Prefix.Addr(), h.Port), nil
}

// namePattern is a name, every name below one, or every name there is.
type namePattern struct {
	name               string
	suffix, everything bool
}

// parseNamePattern reads "name", "*.name" or "*".
func parseNamePattern(s string) (namePattern, error) {
	if s == "*" {
		return namePattern{everything: true}, nil
	}
	rest, suffix := strings.CutPrefix(s, "*.")
	name, err := parseName(rest)
	return namePattern{name: name, suffix: suffix}, err
}
