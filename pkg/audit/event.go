package audit

import (
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// The kinds of events. The body of each is the struct that is named beside it.
const (
	KindSessionOpen = "session_open" // SessionOpen
	KindDecision    = "decision"     // Decision
	KindResult      = "result"       // Result
	KindSessionEnd  = "session_end"  // SessionEnd
	KindFinding     = "finding"      // Finding
	KindRefused     = "refused"      // Refused
	KindEscape      = "escape"       // EscapeAttempt
	KindEnrol       = "enrol"        // Enrol
	KindPolicy      = "policy"       // Policy
	KindDaemonStart = "daemon_start" // DaemonStart
	KindDaemonStop  = "daemon_stop"  // DaemonStop
	KindRecovered   = "recovered"    // Recovered
	KindLogOpen     = "log_open"     // LogOpen
)

// ReasonDaemonStopped is the reason of a [SessionEnd] that the next start of
// the daemon wrote, since the session's own never was.
const ReasonDaemonStopped = "daemon_stopped"

// SessionOpen is the first event of a session.
type SessionOpen struct {
	Session string `json:"session"`
	// Agent is the name of the agent in the policy.
	Agent  string             `json:"agent"`
	Origin transparent.Origin `json:"origin"`
	// Lineage is the process that connected and its ancestors, nearest first;
	// see [Lineage].
	Lineage []Process `json:"lineage"`
	// LineagePartial says that the lineage is not complete, or partly guessed.
	LineagePartial bool               `json:"lineage_partial,omitempty"`
	Principal      identity.Principal `json:"principal"`
	// Protocol is empty where it is not known yet.
	Protocol string `json:"protocol,omitempty"`
	Resource string `json:"resource,omitempty"`
	// Names are those that the tree was told the target's address for.
	Names []string `json:"names,omitempty"`
	// NameSource is NameSourceDNS or NameSourceNone, and empty where the
	// session ended before anybody asked.
	NameSource string `json:"name_source,omitempty"`
}

// Where the names of a [SessionOpen] come from.
const (
	NameSourceDNS  = "dns"  // answers of a trusted name server
	NameSourceNone = "none" // there are none
)

// Process is one process of a lineage.
type Process struct {
	ID   process.ID `json:"id"`
	Exe  string     `json:"exe"`
	Argv []string   `json:"argv,omitempty"`
	// ArgvTruncated says that Argv was cut, here or by the kernel side.
	ArgvTruncated bool   `json:"argv_truncated,omitempty"`
	UID           uint32 `json:"uid"`
	Partial       bool   `json:"partial,omitempty"`
}

// Operation is a [policy.Operation] within bounds.
type Operation struct {
	policy.Operation
	// TextBase64 is the text where that is not valid UTF-8; Text is then empty.
	TextBase64 []byte `json:"text_base64,omitempty"`
	// Truncated says that Text or one of the lists was cut.
	Truncated bool `json:"truncated,omitempty"`
}

// Decision tells what was decided about one operation. It is written before
// the operation goes on.
type Decision struct {
	Session string `json:"session"`
	// Op is the operation's id within the session.
	Op string `json:"op"`
	// Stage is where it was decided.
	Stage     string    `json:"stage,omitempty"`
	Operation Operation `json:"operation"`
	// Verdict and WouldHave are "deny", "approve" or "allow". WouldHave is set in
	// observe mode, and where rules that observe would have made it another one.
	Verdict   string `json:"verdict"`
	WouldHave string `json:"would_have,omitempty"`
	// WouldHaveRule is the rule of WouldHave, where Rule is another.
	WouldHaveRule string `json:"would_have_rule,omitempty"`
	Mode          string `json:"mode,omitempty"`
	Rule          string `json:"rule,omitempty"`
	Reason        string `json:"reason,omitempty"`
	Resource      string `json:"resource,omitempty"`
	Message       string `json:"message,omitempty"`
	Generation    uint64 `json:"generation"`
	// Approval and Approver name the approval that decided, if one did.
	Approval string `json:"approval,omitempty"`
	Approver string `json:"approver,omitempty"`
}

// DecisionOf returns the event for an engine's answer to op. The caller sets
// Session, Op and Stage.
func DecisionOf(op *policy.Operation, d policy.Decision) Decision {
	e := Decision{
		Verdict:    d.Verdict.String(),
		Mode:       d.Mode.String(),
		Rule:       d.Rule,
		Reason:     d.Reason,
		Resource:   d.Resource,
		Message:    d.Message,
		Generation: d.Generation,
	}
	if op != nil {
		e.Operation.Operation = *op
	}
	if d.Mode == policy.Observe || d.WouldHaveRule != "" && d.WouldHave != d.Verdict {
		e.WouldHave = d.WouldHave.String()
	}
	if e.WouldHave != "" && d.WouldHaveRule != d.Rule {
		e.WouldHaveRule = d.WouldHaveRule
	}
	return e
}

// Result tells how an operation ended that was let through.
type Result struct {
	Session string `json:"session"`
	Op      string `json:"op"`
	// Outcome is "ok", "error" or "aborted".
	Outcome string `json:"outcome"`
	Rows    uint64 `json:"rows,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	// Tag is the upstream's own word for success, Code and Error its refusal.
	Tag   string `json:"tag,omitempty"`
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	// Masked counts the values that were masked.
	Masked uint64 `json:"masked,omitempty"`
}

// The outcomes of a [Result].
const (
	OutcomeOK      = "ok"
	OutcomeError   = "error"
	OutcomeAborted = "aborted"
)

// Finding tells that a secret was seen where it has no business. The secret is not
// in it.
type Finding struct {
	Session string `json:"session"`
	// Kind is "agent_holds_secret", of an agent that logged in with it or wrote it into
	// an operation, or "secret_returned", of a target that sent it back.
	Kind string `json:"kind"`
	// Credential is the secret's name. Fingerprint tells whether two findings are of
	// the same secret, as long as the daemon runs.
	Credential  string `json:"credential"`
	Fingerprint string `json:"fingerprint"`
}

// SessionEnd is the last event of a session.
type SessionEnd struct {
	Session string `json:"session"`
	Reason  string `json:"reason"`
	// Stage and Error say where and why it stopped, if not in order.
	Stage      string `json:"stage,omitempty"`
	Error      string `json:"error,omitempty"`
	BytesUp    uint64 `json:"bytes_up"`
	BytesDown  uint64 `json:"bytes_down"`
	DurationMS int64  `json:"duration_ms"`
	// Recording is what [Recording.Close] returned; nil if nothing was recorded.
	Recording *Anchor `json:"recording,omitempty"`
	// RecordingError says why a recording has no anchor.
	RecordingError string `json:"recording_error,omitempty"`
	// Synthetic says that the daemon's next start wrote this event.
	Synthetic bool `json:"synthetic,omitempty"`
}

// Refused stands for connections that were refused in such numbers that they are
// not sessions in the record of their own.
type Refused struct {
	// Agent is the name of the agent in the policy. It is empty, and Root zero,
	// where those of more than one tree are counted together.
	Agent string     `json:"agent,omitempty"`
	Root  process.ID `json:"root"`
	// Reason is that of the [SessionEnd] of those that have a record.
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// EscapeAttempt tells what the kernel side refused to an enrolled process, past which
// no session begins: a datagram, a socket of another kind, a socket of another
// daemon, an address of the cloud's, the daemon's own ports.
type EscapeAttempt struct {
	// Kind is what was tried, as in "udp", "socket_type" or "unix".
	Kind string `json:"kind"`
	// Rule refused it, or would have: "default" stands for the policy's defaults. It
	// is empty where no policy can decide, since the daemon itself keeps that from
	// agents.
	Rule string `json:"rule,omitempty"`
	// Observed says that it was let through, since the policy only observes.
	Observed bool       `json:"observed,omitempty"`
	Agent    string     `json:"agent,omitempty"`
	Root     process.ID `json:"root"`
	// Process is who tried, and Lineage its ancestors, as far as they are known.
	Process process.ID `json:"process"`
	Lineage []Process  `json:"lineage,omitempty"`
	UID     uint32     `json:"uid"`
	// Target is an address and port, or the name of a unix socket.
	Target string `json:"target,omitempty"`
	// Names and NameSource are as in [SessionOpen]; of a unix socket there are none.
	Names      []string `json:"names,omitempty"`
	NameSource string   `json:"name_source,omitempty"`
	// Family, Type and Protocol are those of socket(2).
	Family   uint32 `json:"family,omitempty"`
	Type     uint32 `json:"type,omitempty"`
	Protocol uint32 `json:"protocol,omitempty"`
	// Count is how many equal attempts the event stands for, at least 1. An event
	// without a kind counts those of a tree that are not in the record one by one.
	Count uint64 `json:"count"`
}

// Anchor fixes a recording: it cannot be changed any more without being found.
type Anchor struct {
	// Entries counts the recording's entries.
	Entries uint64 `json:"entries"`
	// Head is the hash of its last line, in hexadecimal.
	Head string `json:"head"`
	// Truncated says that the recording reached its bound.
	Truncated bool `json:"truncated,omitempty"`
}

// Enrol tells that a process tree became an agent.
type Enrol struct {
	Agent     string             `json:"agent"`
	Enrolment uint32             `json:"enrolment,omitempty"`
	Root      process.ID         `json:"root"`
	Process   *Process           `json:"process,omitempty"`
	Principal identity.Principal `json:"principal"`
	// How says what enrolled it: one of the words below.
	How string `json:"how,omitempty"`
}

// What enrols a tree, as [Enrol].How has it.
const (
	HowRun        = "run"        // its root asked for it
	HowEnrol      = "enrol"      // another process asked for it
	HowUser       = "user"       // a rule of the policy, by the root's user
	HowCgroup     = "cgroup"     // or by its cgroup
	HowExecutable = "executable" // or by its executable
	HowRule       = "rule"       // or by one of these, of which it is not known
)

// Policy tells that a policy came into force, or was refused.
type Policy struct {
	Generation uint64       `json:"generation"`
	Mode       string       `json:"mode,omitempty"`
	Files      []PolicyFile `json:"files"`
	// Error says why the files were refused; Generation is then the one that
	// stays in force.
	Error string `json:"error,omitempty"`
}

// PolicyFile is one file of a policy as it was read.
type PolicyFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

// DaemonStart tells that the daemon is about to mediate.
type DaemonStart struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	Mode    string `json:"mode,omitempty"`
	Host    string `json:"host,omitempty"`
}

// DaemonStop tells that the daemon stopped in order.
type DaemonStop struct {
	Reason string `json:"reason"`
}

// Recovered tells what was cut from the audit log when it was opened: an unfinished
// last line from a segment, or from the journal what did not go on from there.
type Recovered struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// LogOpen tells that the log was opened and that no session from before is left
// open: whoever looks for open sessions need not look further back.
type LogOpen struct {
	// SessionsEnded counts the synthetic ends that were written just before.
	SessionsEnded int `json:"sessions_ended"`
}
