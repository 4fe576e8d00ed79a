package audit

import (
	"fmt"
	"syscall"
)

// diskOf returns how many bytes of path's file system are free for everybody
// and how many there are, zero if it does not say.
func diskOf(path string) (free, total uint64, err error) {
	var s syscall.Statfs_t
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Statfs(path, &s)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	// Blocks are counted in fragments; old file systems leave those at zero.
	block := uint64(s.Frsize)
	if block == 0 {
		block = uint64(s.Bsize)
	}
	return s.Bavail * block, s.Blocks * block, nil
}
