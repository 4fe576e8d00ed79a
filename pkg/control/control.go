// Package control is the daemon's API on a unix socket: HTTP/1.1 with JSON
// bodies, so that any tool can speak it:
//
//	curl --unix-socket /run/headgate/control.sock http://headgate/v1/status
//
// Who calls is told by the kernel (SO_PEERCRED, unix(7)), never by the request.
// Anybody may enrol itself, because that only takes freedom away; enrolling
// another process, reloading, and the daemon's health need root.
package control

import (
	"errors"
	"fmt"
	"time"

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
	// Shortcuts tells whether protocols take them: on or off.
	Shortcuts  string   `json:"shortcuts"`
	AuditSeq   uint64   `json:"audit_seq"`
	AuditErr   string   `json:"audit_error,omitempty"`
	Unresolved []string `json:"unresolved_hosts,omitempty"`
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

// Health is what the daemon knows of whether it does what it is there for. It is
// for root alone.
type Health struct {
	Version    string `json:"version"`
	PID        int    `json:"pid"`
	Mode       string `json:"mode"`
	OnFailure  string `json:"on_failure"`
	Generation uint64 `json:"policy_generation"`
	PolicyErr  string `json:"policy_error,omitempty"`
	// Cgroup is the directory that the programs are attached to, and WholeHost
	// whether that is meant to be the root of the hierarchy.
	Cgroup    string `json:"cgroup"`
	WholeHost bool   `json:"whole_host"`
	// PinDir is empty where nothing outlives the daemon.
	PinDir    string        `json:"pin_dir"`
	Programs  []ProgramLink `json:"programs"`
	Lost      []Loss        `json:"lost"`
	Canary    Canary        `json:"canary"`
	Listeners []Listener    `json:"listeners"`
	// Lacks are capabilities that the daemon does not hold.
	Lacks    []string `json:"missing_capabilities"`
	AuditSeq uint64   `json:"audit_seq"`
	AuditErr string   `json:"audit_error,omitempty"`
	// Unaccounted is how many connections were redirected and are in no session.
	Unaccounted uint64            `json:"unaccounted"`
	Counters    map[string]uint64 `json:"counters"`
	Unresolved  []string          `json:"unresolved_hosts,omitempty"`
}

// ProgramLink is one attached BPF program with what holds it.
type ProgramLink struct {
	Program
	LinkID uint32 `json:"link_id"`
	Pinned bool   `json:"pinned"`
	// Cgroup is the number of the cgroup that it is attached to, zero for none,
	// and AtRoot whether that is the root of the hierarchy.
	Cgroup uint64 `json:"cgroup_id"`
	AtRoot bool   `json:"at_root"`
	// Hits is how often it ran, as HitsBy tells: "runs" is the kernel's own
	// figure, anything else names counters. With no HitsBy nobody counted.
	Hits   uint64 `json:"hits"`
	HitsBy string `json:"hits_by"`
	// Fault is why it does not do what it was attached for.
	Fault string `json:"fault,omitempty"`
}

// Loss is what the kernel does not allow the daemon; see the kernel package.
type Loss struct {
	Program string `json:"program"`
	Cause   string `json:"cause"`
	Open    string `json:"open"`
	Remedy  string `json:"remedy"`
}

// Canary is the outcome of the latest proof that agents are mediated.
type Canary struct {
	Active bool `json:"active"`
	// Probed is when it was; zero before the first one ended.
	Probed time.Time `json:"probed"`
	Cause  string    `json:"cause,omitempty"`
}

// Listener is the daemon's place in one network namespace.
type Listener struct {
	// Netns is the namespace's cookie, Home whether it is the daemon's own.
	Netns uint64 `json:"netns"`
	Home  bool   `json:"home"`
	// TCP and UDP are how many sockets of each kind serve there.
	TCP int `json:"tcp"`
	UDP int `json:"udp"`
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
