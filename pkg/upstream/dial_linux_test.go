package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

// The kernel gives a new socket some port of a range. Where that is the very port
// that it is to connect to, it answers itself.
func TestASocketThatGotItsTargetsPortIsRefused(t *testing.T) {
	var least, most uint16
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &least, &most); err != nil {
		t.Fatal(err)
	}
	// connect(2) takes ports of the parity of the least one first.
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	target := Target{Addr: netip.AddrPortFrom(loopback, least+(most-least)/4*2)}
	l, err := net.Listen("tcp4", target.Addr.String())
	if err != nil {
		testenv.Skip(t, "needs a port that is free: "+err.Error())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range most - least {
		conn, err := Dialer{}.Dial(t.Context(), target)
		if err == nil {
			t.Fatalf("%v is connected to %v", conn.LocalAddr(), conn.RemoteAddr())
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}
