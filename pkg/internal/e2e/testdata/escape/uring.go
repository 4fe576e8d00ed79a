package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As in linux/io_uring.h.
const (
	setupSQPoll  = 1 << 1
	sqeAsync     = 1 << 4
	opSendmsg    = 9
	opConnect    = 16
	opSend       = 26
	enterEvents  = 1 << 0
	enterWakeup  = 1 << 1
	offsetSQ     = 0
	offsetSQEs   = 0x10000000
	featSingleMM = 1 << 0
)

type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq                                                                 struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

type submission struct {
	op, flags  uint8
	priority   uint16
	fd         int32
	offset     uint64 // connect: length of the address; send: the address
	addr       uint64
	length     uint32
	opFlags    uint32
	user       uint64
	buffer     uint16
	person     uint16
	addrLength uint16 // send: length of the address
	_          uint16
	_          [2]uint64
}

type ring struct {
	fd       int
	flags    uint32
	sq, sqes []byte
	p        ringParams
}

func newRing(flags uint32) (*ring, error) {
	r := &ring{flags: flags}
	r.p.flags, r.p.threadIdle = flags, 1000
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&r.p)), 0)
	if errno != 0 {
		return nil, at("io_uring_setup", lacking(errno))
	}
	r.fd = int(fd)
	if r.p.features&featSingleMM == 0 {
		return nil, fmt.Errorf("%w: rings in one mapping", errUnavailable)
	}
	size := max(int(r.p.sq.array+r.p.sqEntries*4), int(r.p.cq.cqes+r.p.cqEntries*16))
	var err error
	if r.sq, err = unix.Mmap(r.fd, offsetSQ, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, at("map ring", err)
	}
	r.sqes, err = unix.Mmap(r.fd, offsetSQEs, int(r.p.sqEntries)*64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	return r, at("map entries", err)
}

func (r *ring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.sq[offset])) }

// do submits one entry and returns its result.
func (r *ring) do(s submission) error {
	*(*submission)(unsafe.Pointer(&r.sqes[0])) = s
	*r.word(r.p.sq.array) = 0
	atomic.AddUint32(r.word(r.p.sq.tail), 1)
	flags := uintptr(enterEvents)
	if r.flags&setupSQPoll != 0 {
		flags |= enterWakeup
	}
	for atomic.LoadUint32(r.word(r.p.cq.head)) == atomic.LoadUint32(r.word(r.p.cq.tail)) {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, flags, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return at("io_uring_enter", errno)
		}
	}
	index := atomic.LoadUint32(r.word(r.p.cq.head)) & *r.word(r.p.cq.mask)
	result := *(*int32)(unsafe.Pointer(&r.sq[r.p.cq.cqes+index*16+8]))
	atomic.AddUint32(r.word(r.p.cq.head), 1)
	if result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

func uringConnect(args []string, setup uint32, flags uint8) (string, error) {
	need(args, 1)
	family, _ := target(args[0])
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	r, err := newRing(setup)
	if err != nil {
		return "", err
	}
	to := rawTarget(args[0])
	s := submission{op: opConnect, flags: flags, fd: int32(fd), addr: address(&to[0]), offset: uint64(len(to))}
	err = r.do(s)
	runtime.KeepAlive(to)
	if err != nil {
		return "", at("connect by io_uring", err)
	}
	return talk(fd)
}

// uringSend sends a datagram with an address, by IORING_OP_SEND.
func uringSend(args []string) (string, error) {
	return uringDatagram(args, func(to, text []byte) submission {
		return submission{op: opSend, addr: address(&text[0]), length: uint32(len(text)), offset: address(&to[0]), addrLength: uint16(len(to))}
	})
}

// uringSendmsg is the same by IORING_OP_SENDMSG.
func uringSendmsg(args []string) (string, error) {
	var iov unix.Iovec
	var msg unix.Msghdr
	defer runtime.KeepAlive(&msg)
	return uringDatagram(args, func(to, text []byte) submission {
		iov = unix.Iovec{Base: &text[0], Len: uint64(len(text))}
		msg = unix.Msghdr{Name: &to[0], Namelen: uint32(len(to)), Iov: &iov, Iovlen: 1}
		return submission{op: opSendmsg, addr: uint64(uintptr(unsafe.Pointer(&msg))), length: 1}
	})
}

func uringDatagram(args []string, make func(to, text []byte) submission) (string, error) {
	need(args, 1)
	family, _ := target(args[0])
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	r, err := newRing(0)
	if err != nil {
		return "", err
	}
	to, text := rawTarget(args[0]), []byte("escape\n")
	s := make(to, text)
	s.fd = int32(fd)
	err = r.do(s)
	runtime.KeepAlive(to)
	runtime.KeepAlive(text)
	if errors.Is(err, unix.EINVAL) {
		return "", at("send by io_uring", errors.Join(errUnavailable, err))
	}
	if err != nil {
		return "", at("send by io_uring", err)
	}
	return datagram(fd)
}

func address(b *byte) uint64 { return uint64(uintptr(unsafe.Pointer(b))) }
