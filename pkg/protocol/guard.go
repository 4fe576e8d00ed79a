package protocol

import (
	"fmt"
	"runtime/debug"
)

// Panic is what a panic of a session's code becomes: the end of that session
// and of nothing else.
type Panic struct {
	// Value is what was given to panic, Stack where.
	Value any
	Stack []byte
}

// Error returns the value; the stack is for the log.
func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Guard calls f and returns its error, or a *[Panic]. Decoders of hostile bytes
// do panic, and a panic in a goroutine that nobody recovers ends the daemon with
// all sessions: whatever a protocol runs in a goroutine of its own, it runs in
// Guard.
func Guard(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = &Panic{Value: cause, Stack: debug.Stack()}
		}
	}()
	return f()
}
