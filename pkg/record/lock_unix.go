//go:build unix

package record

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the exclusive lock that f's closing gives up, without waiting.
func lock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var flockErr error
	err = conn.Control(func(fd uintptr) {
		flockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if errors.Is(flockErr, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return errors.Join(err, flockErr)
}
