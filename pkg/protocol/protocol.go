// Package protocol is the boundary between the gateway and the wire languages.
//
// A [Protocol] gets a [Session] that holds functions, not systems: it can ask
// for a decision, dial the origin, obtain a credential and a set of masks, and
// record. It cannot act without a record, cannot dial around the policy, and
// cannot see the kernel.
package protocol

import (
	"context"
	"net"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// Match says whether a connection's first bytes are a protocol's.
type Match uint8

// The answers of [Protocol.Match]. The zero Match is No.
const (
	No Match = iota
	More
	Yes
)

// Protocol is one wire language. One value serves all its sessions, at the same
// time; what crosses connections (a cancel key that arrives on a second one)
// lives in it.
type Protocol interface {
	// Name is the protocol's name in policies, metrics and records.
	Name() string
	// Operations lists the effects that its operations can have, beside connect
	// and unknown: the words that a policy may use for it.
	Operations() []string
	// Match looks at the first bytes that an agent sent. It is pure, and must
	// say No or Yes once prefix has transparent.MaxPeek bytes. A protocol in
	// which the agent does not speak first always says No and is chosen by the
	// policy alone.
	Match(prefix []byte) Match
	// Serve speaks the protocol until the session is over. It returns nil when
	// both sides ended in order. The gateway closes the connections.
	Serve(ctx context.Context, s *Session) error
	// Refuse tells the agent, in the protocol's own words, that the connection
	// is denied. Nothing was dialled and nothing may be. It reads no more of
	// the agent's bytes than it needs for being understood.
	Refuse(ctx context.Context, s *Session, d *Denial) error
}

// Meter is a [Protocol] that charges everything that its operations return with
// [Ruling.Spend]. Rules may have limits for no other.
type Meter interface {
	Protocol
	// Metered does nothing: that it is there is the promise.
	Metered()
}

// Settings is what a daemon tells all of its protocols. The zero Settings are the
// protocols' defaults.
type Settings struct {
	Limits
	Shortcuts Shortcuts
}

// Shortcuts says whether a protocol gets the same result by a shorter way where it
// has one. Nothing but the cost may depend on it.
type Shortcuts uint8

const (
	// ShortcutsTaken is what everybody wants.
	ShortcutsTaken Shortcuts = iota
	// ShortcutsAvoided goes the whole way each time. It is there to be compared with.
	ShortcutsAvoided
)

// Taken reports whether shortcuts are to be taken.
func (s Shortcuts) Taken() bool { return s == ShortcutsTaken }

// Limits bounds what a protocol takes in at once. A zero field is the protocol's
// own default.
type Limits struct {
	// Operation bounds the text of one operation, in bytes. A longer one is an
	// unknown operation.
	Operation int
	// Message bounds one message that has to be understood as a whole, in bytes.
	Message int
}

// Session is one mediated connection as its protocol sees it. All functions may
// be called concurrently and none but Certify is nil.
type Session struct {
	// ID names the session in records, metrics and refusals.
	ID string
	// Downstream is the agent's side. The gateway closes it after Serve.
	Downstream *transparent.Conn
	Process    *process.Process
	Principal  identity.Principal
	// Resource is the policy's resource that was dialled; its zero value means
	// that no resource names the target.
	Resource policy.Resource
	// Observe says that nothing may be altered: no byte, no TLS, no credential.
	Observe bool
	Log     zerolog.Logger

	// Decide asks whether an operation may happen, and records the answer. It
	// returns a *[Denial] as error in every case in which it may not, including
	// a failure to record. It may take as long as a person needs to answer. It does
	// not keep op, unless there is a Spend in the ruling.
	Decide func(ctx context.Context, op *policy.Operation) (Ruling, error)
	// Deny records that an operation is refused after all which Decide has let
	// through, for a reason that only the protocol can know. An error means that
	// the session must end.
	Deny func(r Ruling, op *policy.Operation, d *Denial) error
	// Dial opens the connection to the origin. The caller closes it. TLS, where
	// it begins inside the protocol, is the protocol's business, with Secure.
	Dial func(ctx context.Context) (net.Conn, error)
	// Secure starts TLS on a dialled connection, verified as the resource
	// demands, or fully where it says nothing, against our trust, never the
	// agent's. It takes over conn.
	Secure func(ctx context.Context, conn net.Conn) (net.Conn, error)
	// Certify speaks TLS to the agent in the target's place, on Downstream or a
	// connection that wraps it, with a certificate of this host's authority. The
	// names of the terms are the target's if there are none. It is nil where
	// nothing can be certified, or the policy's resource refuses TLS to agents.
	Certify func(ctx context.Context, conn net.Conn, t certs.Terms) (*certs.Conn, error)
	// Credential returns what to log in with. ok is false where the policy
	// configures none: the agent's own authentication is relayed then.
	Credential func(ctx context.Context) (c credential.Credential, ok bool, err error)
	// Learn tells which addresses a name was said to have, by the server that
	// this session talks to. What comes of it depends on who that is.
	Learn func(names.Answer)
	// Mask returns what must be masked from now on. A nil set masks nothing.
	Mask func() *mask.Set
	// Refuses reports whether a rule of the policy that lists one of the effects by
	// its name may refuse it from now on; see policy.Engine. It may be nil: none does.
	Refuses func(effects ...string) bool
	// Asks reports whether a condition of the policy looks at one of the facts, by
	// their names in [Describer], from now on. It may be nil: none does.
	Asks func(facts []string) bool
	// Record appends to the session's recording. An error means that the
	// session must end: what can't be recorded can't happen. It does not keep the
	// frame's Outcome.
	Record func(Frame) error
	// NoTables says that the recording takes no results: a protocol need not render
	// any for frames of [FrameTable], which Record would drop.
	NoTables bool
}

// Ruling is a decision that allows, under the id that the record has it.
type Ruling struct {
	// ID names the operation in the record.
	ID       string
	Decision policy.Decision
	// Spend charges the part more of the operation's result, before the agent gets
	// it; given is what it has got of that result. If it returns a denial, which is
	// in the record then, nothing was charged and nothing more of the result may be
	// given. If the denial's reason is [ReasonAudit], the session must end. Spend is
	// nil where nothing limits the result. It is safe for concurrent use.
	Spend func(given, more Volume) *Denial
}

// Volume is an amount of what an operation returns. What a row is, and which
// bytes count, is up to the protocol.
type Volume struct{ Rows, Bytes uint64 }

// Frame is one entry of a recording.
type Frame struct {
	// Op is the [Ruling]'s ID that the frame belongs to; empty for frames of
	// the session as a whole.
	Op   string
	Kind FrameKind
	// Text is what was said, after masking. The recorder bounds it.
	Text string
	// Columns and Rows hold a tabular result, after masking. A nil cell is NULL.
	Columns []string
	Rows    [][]*string
	// Outcome is set for Result frames.
	Outcome *Outcome
	// Finding is set for Finding frames.
	Finding *Finding
}

// FrameKind tells what a [Frame] holds.
type FrameKind string

// The kinds of frames.
const (
	FrameNotice  FrameKind = "notice"
	FrameTable   FrameKind = "rows"
	FrameResult  FrameKind = "result"
	FrameFinding FrameKind = "finding"
)

// Finding says that a secret of ours was seen where it has no business. It never
// holds the secret.
type Finding struct {
	Kind FindingKind
	// Credential is the secret's name, and Fingerprint tells it from others of this
	// process; see credential.Secret.
	Credential, Fingerprint string
}

// FindingKind tells what a [Finding] is.
type FindingKind string

// The kinds of findings.
const (
	// FindingHoldsSecret is an agent that logged in with the real secret, or wrote it
	// into a statement: it leaked before, and has to be changed.
	FindingHoldsSecret FindingKind = "agent_holds_secret"
	// FindingReturned is a target that sent the secret back in a result; the agent
	// did not get to see it.
	FindingReturned FindingKind = "secret_returned"
)

// Outcome is how an operation ended.
type Outcome struct {
	// Tag is the upstream's own word for success, as in "SELECT 3".
	Tag string
	// Code and Error are the upstream's refusal, after masking.
	Code  string
	Error string
	Rows  uint64
	Bytes uint64
	// Masked counts the values that were masked.
	Masked uint64
	// Detected counts them by detector; what was masked for its column counts
	// as "column". It may be nil.
	Detected map[string]uint64
}
