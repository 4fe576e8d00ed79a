//go:build unix

package record

import (
	"errors"
	"syscall"
)

// noRoom reports whether a write failed for want of room, so that the bytes
// which are in the file are as good as before.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
