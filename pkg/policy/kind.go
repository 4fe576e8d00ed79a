package policy

import (
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/transparent"
)

// The protocols that this package knows beside those of [Options.Vocabulary].
const (
	// protocolTCP is for bytes that nobody reads, whether the proxy relays and
	// records them or the kernel lets them go.
	protocolTCP  = "tcp"
	protocolUDP  = "udp"
	protocolUnix = "unix"
	// protocolDNS is in the vocabulary too: it is inspected, but what it asks
	// for are names, not targets.
	protocolDNS = "dns"
)

// portDNS is where name servers listen: RFC 1035, section 4.2.
const portDNS = 53

// kind is how a resource is reached and who judges that. The zero kind is
// inspected by the proxy.
type kind uint8

const (
	inspected kind = iota
	// uninspected is TCP that the kernel judges.
	uninspected
	// datagrams is UDP, which the kernel judges.
	datagrams
	// sockets is unix sockets, which the kernel judges by their paths.
	sockets
	// questions is what may be asked of name servers.
	questions
)

func kindOf(r resourceSyntax) kind {
	switch {
	case r.Protocol == protocolUDP:
		return datagrams
	case r.Protocol == protocolUnix:
		return sockets
	case r.Protocol == protocolDNS:
		return questions
	case r.Inspection == "none":
		return uninspected
	}
	return inspected
}

// String names the kind for errors.
func (k kind) String() string {
	switch k {
	case inspected:
		return "a resource that is reached over TCP"
	case uninspected:
		return "a resource with inspection: none"
	case datagrams:
		return "a resource with protocol: " + protocolUDP
	case sockets:
		return "a resource with protocol: " + protocolUnix
	case questions:
		return "a resource with protocol: " + protocolDNS
	}
	return "a resource"
}

// static reports whether the kernel alone judges.
func (k kind) static() bool { return k == uninspected || k == datagrams || k == sockets }

// whereKey is the key that says where the resource is.
func (k kind) whereKey() string {
	switch k {
	case sockets:
		return "paths"
	case questions:
		return "names"
	case inspected, uninspected, datagrams:
	}
	return "hosts"
}

// takes reports whether a key that is not required may be given.
func (k kind) takes(key string) bool {
	switch key {
	case "servers":
		return k == questions
	case "inspection":
		return k == inspected || k == uninspected
	case "credential", "tls":
		return k == inspected
	}
	return false
}

// transport is what carries the resource's flows, for kinds that have hosts.
func (k kind) transport() transparent.Transport {
	if k == datagrams {
		return transparent.UDP
	}
	return transparent.TCP
}

// maxSocketPath is the length, in bytes, of the longest path of a unix socket:
// unix(7).
const maxSocketPath = 107

// validSocketPattern reports whether * is nothing but a whole component or the
// end of the last one.
func validSocketPattern(p string) bool {
	if !cleanAbsolute(p) || p == "/" || len(p) > maxSocketPath || checkGlob(p) != nil {
		return false
	}
	list := components(p)
	for i, s := range list {
		if s == "*" {
			continue
		}
		if i == len(list)-1 {
			s = strings.TrimSuffix(s, "*")
		}
		if strings.Contains(s, "*") {
			return false
		}
	}
	return true
}

// matchSocket reports whether a path is one that a pattern stands for. The *
// of a pattern is never empty where it is a whole component.
func matchSocket(pattern, path string) bool {
	return slices.EqualFunc(components(pattern), components(path), matchComponent)
}

func matchComponent(pattern, s string) bool { return s != "" && glob(pattern, s) }

// components splits an absolute path; the root has none.
func components(path string) []string {
	if path == "/" {
		return nil
	}
	return strings.Split(strings.TrimPrefix(path, "/"), "/")
}
