package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// onTheWire is the network of packets that were seen, whoever they reached.
const onTheWire = "wire"

// wireKnock is where nobody listens; what is sent there is seen all the same.
const wireKnock = "127.0.0.1:7010"

// sniff notes packets that go another way than their socket's peer says: those
// with a route in them, and those to loopback that leave by another device.
func (w *witness) sniff() {
	w.t.Helper()
	protocol := uint16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol<<8|protocol>>8))
	check(w.t, err)
	tv := unix.Timeval{Usec: 100_000}
	check(w.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	stop, stopped := make(chan struct{}), make(chan struct{})
	w.t.Cleanup(func() {
		close(stop)
		<-stopped
		check(w.t, unix.Close(fd))
	})
	w.places = append(w.places, place{onTheWire, wireKnock})
	go func() {
		defer close(stopped)
		b := make([]byte, 4096)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			select {
			case <-stop:
				return
			default:
			}
			link, ok := from.(*unix.SockaddrLinklayer)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || !ok || link.Pkttype != unix.PACKET_OUTGOING {
				continue
			}
			w.look(b[:n], link.Ifindex)
		}
	}()
}

// look notes a packet if it is an odd one, or a knock.
func (w *witness) look(b []byte, device int) {
	const loopback = 1
	source, target, protocol, odd := addresses(b)
	if protocol == unix.IPPROTO_UDP && target.String() == wireKnock {
		w.note(contact{network: onTheWire, local: target.String(), peer: source.String(), direct: true})
		return
	}
	if odd || target.Addr().IsLoopback() && device != loopback {
		w.note(contact{network: onTheWire, local: fmt.Sprintf("device %d to %v", device, target), peer: source.String(), direct: true})
	}
}

// addresses reads the headers of a packet. It is odd if there is a route in it,
// behind which the ports are not looked for.
func addresses(b []byte) (source, target netip.AddrPort, protocol byte, odd bool) {
	var from, to netip.Addr
	var payload []byte
	switch {
	case len(b) >= 28 && b[0]>>4 == 4:
		from, _ = netip.AddrFromSlice(b[12:16])
		to, _ = netip.AddrFromSlice(b[16:20])
		protocol, payload = b[9], b[20:]
		odd = b[0]&15 > 5 && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP)
	case len(b) >= 48 && b[0]>>4 == 6:
		from, _ = netip.AddrFromSlice(b[8:24])
		to, _ = netip.AddrFromSlice(b[24:40])
		protocol, payload = b[6], b[40:]
		odd = protocol == unix.IPPROTO_ROUTING
	default:
		return netip.AddrPort{}, netip.AddrPort{}, 0, false
	}
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(payload)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(payload[2:])), protocol, odd
}
