// Package control is the daemon's API on a unix socket: HTTP/1.1 with JSON
// bodies, so that any tool can speak it:
//
//	curl --unix-socket /run/headgate/control.sock http://headgate/v1/status
//
// Who calls is told by the kernel (SO_PEERCRED, unix(7)), never by the request.
// Anybody may enrol itself, because that only takes freedom away; enrolling
// another process and reloading need root.
package control

import (
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/process"
)

// MaxBody bounds a request's body in bytes.
const MaxBody = 64 << 10

// Caller is who is at the other end of the socket, as the kernel says.
type Caller struct {
	PID uint32
	UID uint32
	GID uint32
}

// EnrolRequest asks that a process become the root of an enrolled tree.
type EnrolRequest struct {
	// Agent is the name of the policy's agent whose rules the tree is under.
	Agent string `json:"agent"`
	// PID is the process, and Start its start time in nanoseconds since boot, as
	// far as /proc/PID/stat tells it. Both must be true of one living process, so
	// that a recycled pid can't be enrolled by mistake.
	PID   uint32 `json:"pid"`
	Start uint64 `json:"start"`
}

// EnrolReply tells what was enrolled.
type EnrolReply struct {
	Root  process.ID `json:"root"`
	Agent string     `json:"agent"`
}

// Status is how the daemon is.
type Status struct {
	Version    string            `json:"version"`
	PID        int               `json:"pid"`
	Mode       string            `json:"mode"`
	Generation uint64            `json:"policy_generation"`
	PolicyErr  string            `json:"policy_error,omitempty"`
	Cgroup     string            `json:"cgroup"`
	Port       uint16            `json:"port"`
	Programs   []Program         `json:"programs"`
	Sessions   int               `json:"sessions"`
	Inflight   int               `json:"inflight_origins"`
	Counters   map[string]uint64 `json:"counters"`
	AuditSeq   uint64            `json:"audit_seq"`
	AuditErr   string            `json:"audit_error,omitempty"`
	Unresolved []string          `json:"unresolved_hosts,omitempty"`
}

// Public returns what everybody may know of it.
func (s Status) Public() Status {
	return Status{Version: s.Version, PID: s.PID, Mode: s.Mode, Generation: s.Generation}
}

// Program is one attached BPF program.
type Program struct {
	Name   string `json:"name"`
	Attach string `json:"attach"`
}

// Error is a refusal that the daemon words for the caller.
type Error struct {
	// Code is the HTTP status.
	Code int `json:"-"`
	// Message says what was refused and why; Hint what to do instead.
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Refuse builds the [Error] for a refusal.
func Refuse(code int, message, hint string) *Error {
	return &Error{Code: code, Message: message, Hint: hint}
}

// ErrUnreachable is returned by a [Client] when no daemon answers.
var ErrUnreachable = errors.New("the daemon does not answer")

// Hint returns the remedy that belongs to err, if the daemon gave one.
func Hint(err error) string {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Hint
	}
	if errors.Is(err, ErrUnreachable) {
		return "start it with: headgate daemon (or: systemctl start headgate)"
	}
	return ""
}

// String returns the caller as in "pid 12 uid 1000".
func (c Caller) String() string { return fmt.Sprintf("pid %d uid %d", c.PID, c.UID) }
