package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestDirectionIsWhatTheSequenceNumbersSay(t *testing.T) {
	const others = 1000
	for _, c := range []struct {
		name                       string
		state                      uint8
		unacked                    uint32
		acked, sent, retransmitted uint64
		want                       direction
	}{
		{"connecting", tcpSynSent, 1, 0, 0, 0, outgoing},
		{"connected, silent", tcpEstablished, 0, 1, 0, 0, outgoing},
		{"connected", tcpEstablished, 0, 701, 700, 0, outgoing},
		{"connected, with losses", tcpEstablished, 0, 701, 900, 200, outgoing},
		{"connected, other end closed", tcpCloseWait, 0, 701, 700, 0, outgoing},
		{"accepted, silent", tcpEstablished, 0, 0, 0, 0, incoming},
		{"accepted", tcpEstablished, 0, 700, 700, 0, incoming},
		{"accepted, with losses", tcpEstablished, 0, 700, 900, 200, incoming},
		{"accepted, other end closed", tcpCloseWait, 0, 700, 700, 0, incoming},
		{"with data on its way", tcpEstablished, 1, 700, 700, 0, unknownDirection},
		{"after a FIN", 4, 0, 700, 700, 0, unknownDirection},
		{"dropped by the host", tcpEstablished, 0, 701, 800, 0, unknownDirection},
		{"more than one too many", tcpEstablished, 0, 702, 700, 0, unknownDirection},
	} {
		info := make([]byte, others)
		binary.NativeEndian.PutUint32(info[24:], c.unacked)
		binary.NativeEndian.PutUint64(info[120:], c.acked)
		binary.NativeEndian.PutUint64(info[200:], c.sent)
		binary.NativeEndian.PutUint64(info[208:], c.retransmitted)
		if got := directionOf(c.state, info); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		if got := directionOf(tcpEstablished, info[:215]); got != unknownDirection {
			t.Errorf("%s, of a kernel that tells less: %d", c.name, got)
		}
	}
}

func TestListeningSocketTakesWhatComesToItsAddress(t *testing.T) {
	for _, c := range []struct {
		listens string
		mapped  bool
		at      string
		want    bool
	}{
		{"192.0.2.1:22", false, "192.0.2.1:22", true},
		{"192.0.2.1:22", false, "192.0.2.1:23", false},
		{"192.0.2.1:22", false, "192.0.2.2:22", false},
		{"0.0.0.0:22", false, "192.0.2.1:22", true},
		{"0.0.0.0:22", false, "[2001:db8::1]:22", false},
		{"[::]:22", true, "192.0.2.1:22", true},
		{"[::]:22", false, "192.0.2.1:22", false},
		{"[::]:22", false, "[2001:db8::1]:22", true},
		{"[2001:db8::1]:22", true, "192.0.2.1:22", false},
	} {
		l := doorway{netip.MustParseAddrPort(c.listens), c.mapped}
		if got := l.takes(netip.MustParseAddrPort(c.at)); got != c.want {
			t.Errorf("%s (mapped: %v) takes what comes to %s: %v", c.listens, c.mapped, c.at, got)
		}
	}
}

func TestSocketMessageThatIsCutIsNotUsed(t *testing.T) {
	b := make([]byte, diagMessage+8)
	b[0] = unix.AF_INET6
	binary.NativeEndian.PutUint16(b[diagMessage:], 8)
	binary.NativeEndian.PutUint16(b[diagMessage+2:], diagV6Only)
	b[diagMessage+4] = 1
	if s, ok := decodeDiag(b, transparent.TCP); !ok || !s.v6only {
		t.Errorf("the whole is %+v (%v)", s, ok)
	}
	for n := range b {
		_, ok := decodeDiag(b[:n], transparent.TCP)
		if whole := n >= diagMessage && n < diagMessage+4; ok != whole {
			t.Errorf("%d bytes are taken for a socket: %v", n, ok)
		}
	}
}

// A process whose pid is another's by now holds nothing.
func TestSocketsOfAnotherProcessWithThePidAreNotTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	start, err := ProcStart(os.Getpid())
	must(t, err)
	for _, c := range []struct {
		id   process.ID
		some bool
	}{
		{process.ID{PID: uint32(os.Getpid()), Start: start}, true},
		{process.ID{PID: uint32(os.Getpid()), Start: start - tick}, false},
		{process.ID{PID: 1 << 30, Start: start}, false},
	} {
		held := newSockets()
		err := held.addProcess(c.id)
		if err != nil || len(held.inodes) > 0 != c.some {
			t.Errorf("process %v holds %v (%v)", c.id, held.inodes, err)
		}
		held.close()
	}
}
