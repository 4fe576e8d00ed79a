package postgres

import (
	"encoding/binary"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// Match recognises a start-up packet by its length and its code. A TLS
// ClientHello is somebody else's.
func (*Postgres) Match(prefix []byte) protocol.Match {
	const head = 8
	if len(prefix) < head {
		if plausible(prefix) {
			return protocol.More
		}
		return protocol.No
	}
	size := binary.BigEndian.Uint32(prefix)
	code := binary.BigEndian.Uint32(prefix[4:])
	switch {
	case size < head || size > wire.MaxStartup:
		return protocol.No
	case code == wire.SSLCode || code == wire.GSSCode:
		return yes(size == head)
	case code == wire.CancelCode:
		return yes(size >= head+8 && size <= head+4+256)
	default:
		return yes(code>>16 == 3 && size > head)
	}
}

// plausible reports whether fewer than eight bytes may begin a start-up packet.
func plausible(prefix []byte) bool {
	var whole [8]byte
	n := copy(whole[:], prefix)
	if n < 4 {
		return (n < 1 || whole[0] == 0) && (n < 2 || whole[1] == 0)
	}
	size := binary.BigEndian.Uint32(whole[:])
	if size < 8 || size > wire.MaxStartup {
		return false
	}
	version := [4]byte{0, 3}
	special := [2]byte{0x04, 0xd2} // 1234, the major number of the requests
	rest := whole[4:n]
	for i, b := range rest {
		if i < 2 && b != version[i] && b != special[i] {
			return false
		}
	}
	return true
}

func yes(is bool) protocol.Match {
	if is {
		return protocol.Yes
	}
	return protocol.No
}
