package kernel

import (
	"testing"
	"unsafe"

	"github.com/headgate/headgate/bpf"
)

// Origin's system call writes as much as the map's values have, whatever there is
// room for. Pinned maps are compared with the object's when they are opened.
func TestAnOriginHasRoomForWhatTheKernelWrites(t *testing.T) {
	spec, err := bpf.LoadHeadgate()
	must(t, err)
	m := spec.Maps[bpf.HeadgateMapServerOrigin]
	var asked question
	if m.KeySize != uint32(unsafe.Sizeof(asked.socket)) || m.ValueSize != uint32(unsafe.Sizeof(asked.origin)) {
		t.Errorf("keys of %d bytes and values of %d, and room for %d and %d", m.KeySize, m.ValueSize, unsafe.Sizeof(asked.socket), unsafe.Sizeof(asked.origin))
	}
}
