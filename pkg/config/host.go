package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
)

// Warning is something that a configuration may say, and that is no good on the
// machine that it is meant for.
type Warning struct {
	// Path is the key in the configuration.
	Path string
	// Text says what is wrong, Remedy what to do.
	Text, Remedy string
}

// String returns the key and the text.
func (w Warning) String() string { return w.Path + ": " + w.Text }

// Settings of the kernel, ip-sysctl.rst in its documentation. They are those of
// the network namespace of whoever reads them.
const (
	portRangePath     = "/proc/sys/net/ipv4/ip_local_port_range"
	reservedPortsPath = "/proc/sys/net/ipv4/ip_local_reserved_ports"
)

// OnHost returns what is to be said about c on the machine whose files read
// reads; read is [os.ReadFile], but for tests. These are warnings and no
// mistakes: the same file may be right on the next machine, and a daemon that
// does not start refuses all agents for certain, where one that starts might be
// kept from it some day.
func OnHost(c *Config, read func(string) ([]byte, error)) []Warning {
	h := host{read: read}
	h.port("intercept.port", c.Intercept.Port)
	// That it is an address and a port was checked; nothing listens otherwise.
	if at, err := netip.ParseAddrPort(c.Metrics.Listen); err == nil {
		h.port("metrics.listen", at.Port())
	}
	return h.warnings
}

type host struct {
	read     func(string) ([]byte, error)
	warnings []Warning
}

// port warns of a port that the kernel gives to whoever asks for any: while the
// daemon is down, somebody may have it by chance, and the daemon does not start.
func (h *host) port(path string, port uint16) {
	if port == 0 {
		return // chosen by the kernel, and so from the range anyway
	}
	low, high, err := h.portRange()
	var reserved []string
	if err == nil && low <= port && port <= high {
		reserved, err = h.reservedPorts()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return // another kind of system
	}
	if err != nil {
		h.warnings = append(h.warnings, Warning{path, fmt.Sprintf("not known whether the kernel gives port %d to others: %v", port, err), "look again as root"})
		return
	}
	if port < low || port > high || includes(reserved, port) {
		return
	}
	h.warnings = append(h.warnings, Warning{
		Path: path,
		Text: fmt.Sprintf("port %d is among those that the kernel gives to any process (%d-%d): one that has it while the daemon is down keeps the daemon from starting, and agents are refused",
			port, low, high),
		// Writing the list replaces it.
		Remedy: fmt.Sprintf("choose a port outside, which also holds in containers; or sysctl -w net.ipv4.ip_local_reserved_ports=%s",
			strings.Join(append(reserved, strconv.Itoa(int(port))), ",")),
	})
}

func (h *host) portRange() (low, high uint16, err error) {
	text, err := h.read(portRangePath)
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) == 2 {
		low, err = portOf(fields[0])
		if err == nil {
			high, err = portOf(fields[1])
		}
	}
	if err != nil || len(fields) != 2 {
		return 0, 0, fmt.Errorf("read %s: not two ports: %q", portRangePath, text)
	}
	return low, high, nil
}

// reservedPorts returns ports and ranges of ports, as they are written.
func (h *host) reservedPorts() ([]string, error) {
	text, err := h.read(reservedPortsPath)
	if err != nil {
		return nil, err
	}
	list := strings.FieldsFunc(strings.TrimSpace(string(text)), func(r rune) bool { return r == ',' })
	for _, each := range list {
		low, high, _ := strings.Cut(each, "-")
		_, err := portOf(low)
		if err == nil && high != "" {
			_, err = portOf(high)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: not a list of ports: %q", reservedPortsPath, text)
		}
	}
	return list, nil
}

func includes(list []string, port uint16) bool {
	for _, each := range list {
		first, last, ranged := strings.Cut(each, "-")
		low, err := portOf(first)
		high := low
		if err == nil && ranged {
			high, err = portOf(last)
		}
		if err == nil && low <= port && port <= high {
			return true
		}
	}
	return false
}

func portOf(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}
