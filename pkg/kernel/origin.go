package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

var _ transparent.Origins = (*Kernel)(nil)

// Origin returns what the kernel wrote down of the accepted connection conn, or
// [ErrNoOrigin]. It may be asked again: the record lives as long as the socket.
// The connection stays the caller's.
func (k *Kernel) Origin(conn syscall.Conn) (transparent.Origin, error) {
	if k == nil || conn == nil {
		return transparent.Origin{}, ErrNoOrigin
	}
	k.life.RLock()
	defer k.life.RUnlock()
	if k.closed {
		return transparent.Origin{}, ErrNoOrigin
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return transparent.Origin{}, fmt.Errorf("read origin: %w", err)
	}
	asked := question{fd: uint32(k.maps.ServerOrigin.FD())}
	asked.key, asked.value = &asked.socket, &asked.origin
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		asked.socket = uint32(fd)
		_, _, errno = unix.RawSyscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&asked)), lookupSize)
	})
	switch {
	case err == nil && errno == unix.ENOENT:
		return transparent.Origin{}, ErrNoOrigin
	case err == nil && errno != 0:
		err = os.NewSyscallError("bpf", errno)
	}
	if err != nil {
		return transparent.Origin{}, fmt.Errorf("read origin: %w", err)
	}
	return origin(&asked.origin), nil
}

// question is a lookup in the map of accepted sockets: the attributes of bpf(2) for
// BPF_MAP_LOOKUP_ELEM (linux/bpf.h), which begin it, and what they point to. It is
// asked for each connection, so without the library's reflection, and without
// telling the scheduler: the kernel answers at once.
type question struct {
	fd    uint32
	_     uint32
	key   *uint32
	value *bpf.HeadgateOrigin
	flags uint64

	socket uint32
	origin bpf.HeadgateOrigin
}

// lookupSize is how much of a question is for the kernel.
const lookupSize = unsafe.Offsetof(question{}.socket)

// The kernel's pointers have eight bytes on every machine.
const _ = uint(unsafe.Sizeof(uintptr(0)) - 8)

// DatagramOrigin returns what the kernel wrote down of the socket that sends
// datagrams to the resolver from that address, in the network namespace with
// that cookie, or [ErrNoOrigin]. It is the origin of the latest datagram that
// was sent: another may have been sent since the one that is asked about.
func (k *Kernel) DatagramOrigin(from netip.AddrPort, netns uint64) (transparent.Origin, error) {
	if k == nil {
		return transparent.Origin{}, ErrNoOrigin
	}
	k.life.RLock()
	defer k.life.RUnlock()
	if k.closed {
		return transparent.Origin{}, ErrNoOrigin
	}
	key := bpf.HeadgateFlow{Netns: netns, Port: uint32(from.Port())}
	b := from.Addr().As16()
	for i := range key.Addr {
		key.Addr[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	var o bpf.HeadgateOrigin
	if err := k.maps.Datagrams.Lookup(key, &o); errors.Is(err, ebpf.ErrKeyNotExist) {
		return transparent.Origin{}, ErrNoOrigin
	} else if err != nil {
		return transparent.Origin{}, fmt.Errorf("read origin: %w", err)
	}
	found := origin(&o)
	found.Transport = transparent.UDP
	return found, nil
}

// address makes an address of its words, which hold the bytes as they are on the
// wire. A v4-mapped one stays so.
func address(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, word := range words {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	return netip.AddrFrom16(b)
}

func origin(o *bpf.HeadgateOrigin) transparent.Origin {
	addr := address(o.Addr)
	return transparent.Origin{
		Target:    netip.AddrPortFrom(addr.Unmap(), bits.ReverseBytes16(o.Port)),
		Mapped:    o.Family == unix.AF_INET6 && addr.Is4In6(),
		Process:   process.ID{PID: o.Tgid, Start: o.Start},
		Root:      process.ID{PID: o.RootTgid, Start: o.RootStart},
		Thread:    o.Tid,
		Exec:      o.ExecTime,
		Enrolment: o.Enrolment,
		UID:       o.Uid,
		Cgroup:    o.Cgroup,
		Netns:     o.Netns,
		Socket:    o.Cookie,
		Time:      o.Time,
	}
}

// Inflight returns how many connections are between connect and accept.
func (k *Kernel) Inflight() (int, error) {
	n := 0
	var key bpf.HeadgateFlow
	var value bpf.HeadgateOrigin
	entries := k.maps.Inflight.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	if err := entries.Err(); err != nil {
		return 0, fmt.Errorf("count connections in flight: %w", err)
	}
	return n, nil
}
