package tls

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// hello is what a ClientHello says.
type hello struct {
	// serverName is in lower case; empty if none was sent.
	serverName string
	// alpn are the application protocols in the agent's order of preference.
	alpn []string
	// version is the highest version that the agent speaks.
	version uint16
	// encrypted says that Encrypted Client Hello was offered, or a decoy of it.
	encrypted bool
	// grease says that there were reserved values, as browsers send them.
	grease bool
}

// Types of extensions.
const (
	extServerName        = 0
	extALPN              = 16
	extSupportedVersions = 43
	extEncryptedHello    = 0xfe0d
)

const maxServerName = 253

var errCut = errors.New("field goes beyond its end")

// reader takes fields from the front of a message. After the first failure it
// has nothing more to give.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.failed = nil, true
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) uint8() int {
	if b := r.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (r *reader) uint16() int {
	if b := r.take(2); b != nil {
		return int(b[0])<<8 | int(b[1])
	}
	return 0
}

// vector8 and vector16 take a field whose length stands before it.
func (r *reader) vector8() reader  { return reader{b: r.take(r.uint8()), failed: r.failed} }
func (r *reader) vector16() reader { return reader{b: r.take(r.uint16()), failed: r.failed} }

func (r *reader) empty() bool { return len(r.b) == 0 }

// parseHello reads the body of a ClientHello. It keeps no part of b.
func parseHello(b []byte) (hello, error) {
	r := reader{b: b}
	h := hello{version: uint16(r.uint16())}
	r.take(32) // random
	sessionID := r.vector8()
	suites := r.vector16()
	compressions := r.vector8()
	switch {
	case r.failed:
		return hello{}, errCut
	case h.version>>8 != 3:
		return hello{}, fmt.Errorf("hello has version %#04x", h.version)
	case len(sessionID.b) > 32:
		return hello{}, errors.New("session id is too long")
	case suites.empty() || len(suites.b)%2 != 0:
		return hello{}, errors.New("list of cipher suites is empty or odd")
	case compressions.empty():
		return hello{}, errors.New("list of compressions is empty")
	}
	for !suites.empty() {
		h.noteGrease(suites.uint16())
	}
	if r.empty() {
		return h, nil // no extensions: allowed up to TLS 1.2
	}
	extensions := r.vector16()
	if extensions.failed || !r.empty() {
		return hello{}, errors.New("list of extensions does not end with the hello")
	}
	return h, h.readExtensions(extensions)
}

func (h *hello) readExtensions(r reader) error {
	// Two bytes of type and two of length bound the number of entries.
	seen := make(map[int]bool)
	for !r.empty() {
		kind := r.uint16()
		content := r.vector16()
		if content.failed {
			return errCut
		}
		if seen[kind] {
			return fmt.Errorf("extension %d is there twice", kind)
		}
		seen[kind] = true
		if err := h.readExtension(kind, content); err != nil {
			return fmt.Errorf("extension %d: %w", kind, err)
		}
	}
	return nil
}

func (h *hello) readExtension(kind int, r reader) (err error) {
	switch kind {
	case extServerName:
		h.serverName, err = readServerName(r)
	case extALPN:
		err = h.readALPN(r)
	case extSupportedVersions:
		err = h.readVersions(r)
	case extEncryptedHello:
		h.encrypted = true
	default:
		h.noteGrease(kind)
	}
	return err
}

// readServerName accepts exactly one name. The list could hold more, and other
// types than host names, but those that receive hellos disagree on what that
// means.
func readServerName(r reader) (string, error) {
	list := r.vector16()
	const hostName = 0
	kind := list.uint8()
	name := list.vector16()
	if name.failed || !list.empty() || !r.empty() || kind != hostName {
		return "", errors.New("want exactly one host name")
	}
	return checkServerName(string(name.b))
}

// checkServerName accepts DNS names in ASCII and returns them in lower case.
func checkServerName(name string) (string, error) {
	if name == "" || len(name) > maxServerName {
		return "", fmt.Errorf("server name has %d bytes", len(name))
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", fmt.Errorf("server name %q has a label of %d bytes", name, len(label))
		}
		for _, c := range []byte(label) {
			if !isNameByte(c) {
				return "", fmt.Errorf("server name %q has a character that names don't have", name)
			}
		}
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return "", fmt.Errorf("server name %q is an address", name)
	}
	return strings.ToLower(name), nil
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

func (h *hello) readALPN(r reader) error {
	list := r.vector16()
	if list.failed || !r.empty() || list.empty() {
		return errors.New("list is empty or does not fill the extension")
	}
	for !list.empty() {
		name := list.vector8()
		if name.failed || name.empty() {
			return errors.New("name is empty or cut")
		}
		if len(name.b) == 2 && isGrease(int(name.b[0])<<8|int(name.b[1])) {
			h.grease = true
			continue
		}
		h.alpn = append(h.alpn, string(name.b))
	}
	return nil
}

func (h *hello) readVersions(r reader) error {
	list := r.vector8()
	if list.failed || !r.empty() || list.empty() || len(list.b)%2 != 0 {
		return errors.New("list is empty, odd, or does not fill the extension")
	}
	highest := 0
	for !list.empty() {
		v := list.uint16()
		if isGrease(v) {
			h.grease = true
			continue
		}
		highest = max(highest, v)
	}
	h.version = uint16(highest)
	return nil
}

func (h *hello) noteGrease(v int) { h.grease = h.grease || isGrease(v) }

// isGrease reports whether v is one of the reserved values of RFC 8701: 0x0a0a,
// 0x1a1a and so on.
func isGrease(v int) bool { return v>>8 == v&0xff && v&0x0f == 0x0a }

// versionName returns the version as people write it.
func versionName(v uint16) string {
	switch v {
	case 0x0300:
		return "ssl3"
	case 0x0301:
		return "1.0"
	case 0x0302:
		return "1.1"
	case 0x0303:
		return "1.2"
	case 0x0304:
		return "1.3"
	default:
		return "0x" + strconv.FormatUint(uint64(v), 16)
	}
}
