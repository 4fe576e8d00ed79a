package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/transparent"
)

// Of the kernel's net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpTimeWait    = 6
	tcpClose       = 7
	tcpCloseWait   = 8
	tcpListen      = 10
)

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	diagRequestStorages = 2 // INET_DIAG_REQ_SK_BPF_STORAGES
	diagStorageMap      = 1 // SK_DIAG_BPF_STORAGE_REQ_MAP_FD
	diagInfo            = 2
	diagV6Only          = 11
	diagStorages        = 20
	diagStorage         = 1 // SK_DIAG_BPF_STORAGE
	diagMessage         = 72
)

// older is a socket from before the enrolment.
type older struct {
	*netlink.Socket
	transport transparent.Transport
}

// diagnosed is a socket as sock_diag tells of it.
type diagnosed struct {
	older
	// owned: an enrolled process made it, or connected it. Programs wrote that
	// down in its storage, so its traffic is mediated, or was let go on purpose.
	owned     bool
	v6only    bool // of a listening one
	direction direction
}

// diag asks sock_diag in one network namespace.
type diag struct{ socket *nl.NetlinkSocket }

func openDiag(ns netns.NsHandle) (diag, error) {
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return diag{}, fmt.Errorf("open sock_diag: %w", err)
	}
	if err := socket.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		socket.Close()
		return diag{}, fmt.Errorf("open sock_diag: %w", err)
	}
	return diag{socket}, nil
}

func (d diag) request(kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: d.socket}}
	return req
}

// list returns what listens, and what is connected or about to be, with what
// the socket storage with that descriptor knows of it. The list may lack, or
// have twice, what changed meanwhile.
func (d diag) list(family uint8, transport transparent.Transport, storage int) ([]diagnosed, error) {
	req := d.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(dumpRequest{family, transport})
	stores := nl.NewRtAttr(diagRequestStorages, nil)
	stores.AddRtAttr(diagStorageMap, nl.Uint32Attr(uint32(storage)))
	req.AddData(stores)
	var list []diagnosed
	malformed := false
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		s, ok := decodeDiag(msg, transport)
		if ok {
			list = append(list, s)
		}
		malformed = malformed || !ok
		return true
	})
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil
	}
	if err == nil && malformed {
		err = errMalformed
	}
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return list, nil
}

// destroy is of the very socket that was listed, or [unix.ENOENT].
func (d diag) destroy(s older) error {
	req := d.request(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(diagRequest{s})
	if _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); err != nil {
		return fmt.Errorf("destroy socket: %w", err)
	}
	return nil
}

func destroy(ns netns.NsHandle, s older) error {
	d, err := openDiag(ns)
	if err != nil {
		return err
	}
	defer d.socket.Close()
	return d.destroy(s)
}

// dumpRequest is struct inet_diag_req_v2 of linux/inet_diag.h, for a list.
type dumpRequest struct {
	family    uint8
	transport transparent.Transport
}

func (dumpRequest) Len() int { return 56 }

func (r dumpRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1], b[2] = r.family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	states := uint32(0xfff &^ (1<<tcpTimeWait | 1<<tcpClose))
	if r.transport == transparent.UDP {
		b[1] = unix.IPPROTO_UDP
		states = 1 << tcpEstablished // connected
	}
	binary.NativeEndian.PutUint32(b[4:], states)
	return b
}

// diagRequest is struct inet_diag_req_v2 for one socket. The cookie in it makes
// sure that no other is meant.
type diagRequest struct{ s older }

func (diagRequest) Len() int { return 56 }

func (r diagRequest) Serialize() []byte {
	id := r.s.ID
	b := make([]byte, 8, r.Len())
	b[0], b[1] = r.s.Family, unix.IPPROTO_TCP
	if r.s.transport == transparent.UDP {
		b[1] = unix.IPPROTO_UDP
	}
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // in any state
	b = binary.BigEndian.AppendUint16(b, id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, id.DestinationPort)
	var source, destination [16]byte
	if r.s.Family == unix.AF_INET {
		copy(source[:], id.Source.To4())
		copy(destination[:], id.Destination.To4())
	} else {
		copy(source[:], id.Source.To16())
		copy(destination[:], id.Destination.To16())
	}
	b = append(append(b, source[:]...), destination[:]...)
	b = binary.NativeEndian.AppendUint32(b, id.Interface)
	b = binary.NativeEndian.AppendUint32(b, id.Cookie[0])
	return binary.NativeEndian.AppendUint32(b, id.Cookie[1])
}

// decodeDiag reads struct inet_diag_msg and what follows it.
func decodeDiag(b []byte, transport transparent.Transport) (diagnosed, bool) {
	if len(b) < diagMessage {
		return diagnosed{}, false
	}
	size := net.IPv4len
	if b[0] == unix.AF_INET6 {
		size = net.IPv6len
	}
	s := diagnosed{older: older{&netlink.Socket{
		Family: b[0],
		State:  b[1],
		ID: netlink.SocketID{
			SourcePort:      binary.BigEndian.Uint16(b[4:]),
			DestinationPort: binary.BigEndian.Uint16(b[6:]),
			Source:          append(net.IP(nil), b[8:8+size]...),
			Destination:     append(net.IP(nil), b[24:24+size]...),
			Interface:       binary.NativeEndian.Uint32(b[40:]),
			Cookie:          [2]uint32{binary.NativeEndian.Uint32(b[44:]), binary.NativeEndian.Uint32(b[48:])},
		},
		INode: binary.NativeEndian.Uint32(b[68:]),
	}, transport}}
	attrs, err := nl.ParseRouteAttr(b[diagMessage:])
	if err != nil {
		return diagnosed{}, false
	}
	for _, a := range attrs {
		switch a.Attr.Type & nl.NLA_TYPE_MASK {
		case diagInfo:
			if transport == transparent.TCP {
				s.direction = directionOf(s.State, a.Value)
			}
		case diagV6Only:
			s.v6only = len(a.Value) > 0 && a.Value[0] != 0
		case diagStorages:
			s.owned = holdsRecord(a.Value)
		}
	}
	return s, true
}

// holdsRecord tells whether the one storage that was asked for has something.
func holdsRecord(b []byte) bool {
	stores, err := nl.ParseRouteAttr(b)
	if err != nil {
		return false
	}
	for _, a := range stores {
		if a.Attr.Type&nl.NLA_TYPE_MASK == diagStorage {
			return true
		}
	}
	return false
}

// direction says which end asked for a connection.
type direction uint8

const (
	unknownDirection direction = iota
	outgoing
	incoming
)

// directionOf infers it, for sock_diag does not tell: the SYN of who connects
// takes a sequence number, which counts as a byte when it is acknowledged, and
// that of the answer to who is connected to does not. So what was acknowledged
// is one more than what was sent, or not, while nothing is on its way and no FIN
// was sent. Neither is claimed where the sums do not fit: bytes that the host
// itself dropped count as sent twice.
//
// info is struct tcp_info of linux/tcp.h.
func directionOf(state uint8, info []byte) direction {
	var i unix.TCPInfo
	if state == tcpSynSent {
		return outgoing
	}
	if state != tcpEstablished && state != tcpCloseWait || uintptr(len(info)) < unsafe.Offsetof(i.Dsack_dups) {
		return unknownDirection
	}
	if binary.NativeEndian.Uint32(info[unsafe.Offsetof(i.Unacked):]) != 0 {
		return unknownDirection
	}
	acked := binary.NativeEndian.Uint64(info[unsafe.Offsetof(i.Bytes_acked):])
	sent := binary.NativeEndian.Uint64(info[unsafe.Offsetof(i.Bytes_sent):])
	again := binary.NativeEndian.Uint64(info[unsafe.Offsetof(i.Bytes_retrans):])
	switch acked + again - sent {
	case 0:
		return incoming
	case 1:
		return outgoing
	default:
		return unknownDirection
	}
}
