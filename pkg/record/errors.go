package record

import (
	"errors"
	"fmt"
)

var (
	// ErrBroken means that a log is not what was once written: a [BrokenError]
	// says where.
	ErrBroken = errors.New("log is broken")
	// ErrFailed means that an append or a sync left it uncertain what the log
	// holds. It takes nothing more until it is closed and opened again.
	ErrFailed = errors.New("log has failed")
	// ErrClosed means that the log was closed, or was never opened.
	ErrClosed = errors.New("log is closed")
	// ErrLocked means that another process, or another Log of this process,
	// has the log open for appending.
	ErrLocked = errors.New("log is in use")
	// ErrTooLarge means that an entry has more than [MaxEntryBytes] bytes.
	// Nothing was written, and the log is still good.
	ErrTooLarge = errors.New("entry is too large")
	// ErrTorn ends a reading at an unfinished last line. That is what a crash
	// leaves, and what a reader sees for a moment while somebody appends. All
	// entries before it were good.
	ErrTorn = errors.New("last line is incomplete")
)

// BrokenError tells where a log stops being what was written. It matches
// [ErrBroken].
type BrokenError struct {
	// File is the name of the segment, without its directory.
	File string
	// Line counts from 1. Zero means the file as a whole.
	Line int
	// Want is what was expected there and Got what was found, both printable
	// and short.
	Want, Got string
}

// Error returns "000001.log:3: expected …, found …".
func (e *BrokenError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: expected %s, found %s", e.File, e.Want, e.Got)
	}
	return fmt.Sprintf("%s:%d: expected %s, found %s", e.File, e.Line, e.Want, e.Got)
}

// Is reports whether target is [ErrBroken].
func (e *BrokenError) Is(target error) bool { return target == ErrBroken }
