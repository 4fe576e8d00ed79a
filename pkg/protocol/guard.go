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
	defer Contain(&err)
	return f()
}

// Contain, deferred, makes a panic of the function that defers it a *[Panic], which
// that function returns by way of err. It is Guard for functions in which a session
// waits: it takes less room on the stack.
func Contain(err *error) { Caught(recover(), err) }

// Caught sets *err to a *[Panic] if cause, which recover returned, is one.
func Caught(cause any, err *error) {
	if cause != nil {
		*err = &Panic{Value: cause, Stack: debug.Stack()}
	}
}
