package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// createJournal makes an empty journal, where there must be none. An error means
// that the log does without: the file system has no room or no blocks to promise,
// or does not show to readers what was stored in a mapping.
func createJournal(root *os.Root) (*journal, error) {
	f, err := root.OpenFile(journalName, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	j, err := mapJournal(f)
	if err == nil {
		err = j.probe(f)
	}
	// The mapping stays without the descriptor.
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("create journal: %w", errors.Join(err, j.close(), root.Remove(journalName)))
	}
	return j, nil
}

func mapJournal(f *os.File) (*journal, error) {
	// Blocks that were promised and never written would still cost the file
	// system something when they are: it pays now.
	if _, err := f.WriteAt(make([]byte, journalBytes), 0); err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var mem []byte
	var mapErr error
	err = conn.Control(func(fd uintptr) {
		for mapErr = syscall.EINTR; mapErr == syscall.EINTR; {
			mapErr = syscall.Fallocate(int(fd), 0, 0, journalBytes)
		}
		if mapErr == nil {
			mem, mapErr = syscall.Mmap(int(fd), 0, journalBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		}
	})
	if err = errors.Join(err, mapErr); err != nil {
		return nil, err
	}
	return &journal{mem: mem, state: (*atomic.Uint64)(unsafe.Pointer(&mem[0]))}, nil
}

// probe checks that readers of the file see what is stored in the mapping, and as
// the bytes that they expect.
func (j *journal) probe(f *os.File) error {
	if err := j.empty(); err != nil {
		return err
	}
	var b [8]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return err
	}
	if got, want := binary.LittleEndian.Uint64(b[:]), j.state.Load(); got != want {
		return fmt.Errorf("%x was stored, the file holds %x", want, got)
	}
	return nil
}

// close gives the mapping back. The journal must not be used any more.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return syscall.Munmap(j.mem)
}
