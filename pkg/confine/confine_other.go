//go:build !linux

package confine

import (
	"errors"
	"fmt"
)

// Supported returns an error: there are no such filters here.
func Supported() error { return fmt.Errorf("filter system calls: %w", errors.ErrUnsupported) }

// Install does nothing for None, and fails for every other mode.
func Install(m Mode) (Mode, error) {
	if m == None {
		return None, nil
	}
	return None, Supported()
}
