package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// marks is the memory of the map of that name, one byte for each pid. Bytes are
// read and written alone: the programs write those beside them.
type marks []byte

func mapMarks(m *ebpf.Map) (marks, error) {
	size := int(m.MaxEntries()) * int(m.ValueSize())
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map marks: %w", err)
	}
	return mem, nil
}

func (m marks) has(pid uint32) (bool, error) {
	if uint64(pid) >= uint64(len(m)) {
		return false, fmt.Errorf("read mark of process %d: beyond the table", pid)
	}
	return m[pid] != 0, nil
}

func (m marks) set(pid uint32) error {
	if uint64(pid) >= uint64(len(m)) {
		return fmt.Errorf("mark process %d: beyond the table", pid)
	}
	m[pid] = 1
	return nil
}

func (m marks) close() error {
	if m == nil {
		return nil
	}
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("unmap marks: %w", err)
	}
	return nil
}
