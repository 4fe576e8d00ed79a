package policy

import (
	"net/netip"
	"time"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// Connect is the verb and the effect of opening a connection, in every protocol.
const Connect = "connect"

// Unknown is the effect of whatever could not be understood. "*" does not match
// it. A deny rule may list it; what else becomes of it is for
// defaults.unknown_operation to say.
const Unknown = "unknown"

// Operation is one thing that a protocol does: a statement, a request, an exec.
type Operation struct {
	// Protocol is the protocol's name, as in its package.
	Protocol string `json:"protocol"`
	// Verb is what the operation is, in the protocol's own vocabulary.
	Verb string `json:"verb"`
	// Effects is everything that the operation does, in the same vocabulary;
	// it includes the Verb where that is an effect. An operation is allowed
	// only if every one of its effects is, and denied if one of them is. An
	// empty list is an unknown operation.
	Effects []string `json:"effects"`
	// Objects are the things it touches. Information, and facts for conditions.
	Objects []Object `json:"objects,omitempty"`
	// Text is the operation as the agent wrote it, for the record.
	Text string `json:"text,omitempty"`
	// Parameters accompany Text; rendered, bounded by the protocol.
	Parameters []string `json:"parameters,omitempty"`
	// PartialParameters says that Parameters are not all, or may be others: conditions
	// can't ask for them then. It is not recorded.
	PartialParameters bool `json:"-"`
	// Reason says why an operation with an Unknown effect was not understood, or
	// where an effect comes from that Text does not show. The agent reads it.
	Reason string `json:"reason,omitempty"`
	// Announced says that the operation is only prepared: the same is asked about
	// again before it runs. It does not count against limits.
	Announced bool `json:"announced,omitempty"`
	// Facts are for conditions; nil where nothing is known. They are not recorded.
	Facts Facts `json:"-"`
}

// Object is something that an operation touches.
type Object struct {
	Kind  string `json:"kind"`  // "table", "function", …
	Name  string `json:"name"`  // qualified as far as the agent qualified it
	Write bool   `json:"write"` // whether it is changed, not only read
}

// Request is the question that an [Engine] answers.
type Request struct {
	Principal identity.Principal
	// Process is who asks. Its lineage is reached through it.
	Process *process.Process
	// Agent is the name of the enrolment rule in the policy.
	Agent  string
	Target netip.AddrPort
	// Transport is what carries the flow to Target.
	Transport transparent.Transport
	// Names are those under which the tree was told Target's address by a
	// server that is trusted. They may add resources, which then all have to
	// allow; a name alone never takes one away.
	Names     []string
	Operation Operation
	// Time is the moment of the request: a fact, so that the engine needs no clock.
	Time time.Time
}

// Verdict is what may happen. The zero Verdict denies.
type Verdict uint8

// The verdicts. Approve means: hold until a person answers.
const (
	Deny Verdict = iota
	Approve
	Allow
)

// String returns "deny", "approve" or "allow".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Approve:
		return "approve"
	default:
		return "deny"
	}
}

// MarshalText is [Verdict.String].
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Decision is an engine's answer. The zero Decision denies.
type Decision struct {
	Verdict Verdict
	// Rule is the name of the rule that decided, or "default" where none did.
	Rule string
	// Reason is a stable token: "rule", "implied", "unmatched",
	// "unknown_operation", "unknown_resource", "no_policy", "error".
	Reason string
	// Message is the rule's own text for the agent.
	Message string
	// Resource is the name of the resource that the target belongs to.
	Resource string
	// WouldHave is what would have been said if everything that observes had
	// enforced, and WouldHaveRule names the rule that would have said it. It
	// equals Verdict where nothing only observes.
	WouldHave     Verdict
	WouldHaveRule string
	// Mode is Observe if the operation passes only because what concerns it
	// observes; then Rule, Reason and Message are those of WouldHave. For the
	// operation [Connect] it is Observe only if nothing at all is enforced for
	// this principal at this resource: such a session need not be understood.
	Mode Mode
	// Limits are those of all enforced allow and approve rules that match one of
	// the operation's effects, by the rules' names. Every one of them holds. There
	// are none where Verdict is Deny, and none for [Connect].
	Limits []Limit
	// Approvals are what all enforced approve rules that match ask for, by the rules'
	// names, where Verdict is Approve. Every one of them has to be satisfied; where there is
	// none, as for questions to a name server, nobody can approve.
	Approvals []Approval
	// Generation numbers the compiled policy that answered.
	Generation uint64
}

// Mode tells whether decisions act. The zero Mode enforces.
type Mode uint8

// The modes.
const (
	Enforce Mode = iota
	Observe
)

// String returns "enforce" or "observe".
func (m Mode) String() string {
	if m == Observe {
		return "observe"
	}
	return "enforce"
}

// MarshalText is [Mode.String].
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Resource is a named upstream target.
type Resource struct {
	Name     string
	Protocol string
	// Host is the host name by which the target belongs to the resource: one of
	// the resource's own, or one below a pattern of it. Empty if the target was
	// found by an address or a range.
	Host string
	// Credential names an entry of the configuration's credentials; empty
	// means that the agent's own authentication is relayed.
	Credential string
	TLS        TLS
	// Uninspected says that nothing of what is said there is looked at: the
	// resource has inspection: none, or is UDP or a unix socket.
	Uninspected bool
}

// TLS says how TLS is spoken with the two sides of a resource.
type TLS struct {
	// Verify is how the upstream is verified: [TLSFull], [TLSChain] or [TLSOff].
	// What empty means is the protocol's to say.
	Verify string
	// CA is "system", or empty for the same, or the path of a PEM file. With
	// [TLSChain] it is such a path.
	CA string
	// ServerName overrides the host name that a certificate must carry.
	ServerName string
	// Agent is what an agent is told that asks for TLS: [TLSOffer], or empty for
	// the same, or [TLSRefuse].
	Agent string
}

// The words of [TLS].
const (
	TLSFull   = "full" // the chain, and the host name
	TLSChain  = "ca"   // the chain alone
	TLSOff    = "off"  // no TLS
	TLSOffer  = "offer"
	TLSRefuse = "refuse"
)

// MaskSet is what an engine says must be masked for a request; see [mask.Set].
type MaskSet = mask.Set

// The reasons of a [Decision]. The zero Decision has none.
const (
	// ReasonRule: a rule decided, and Decision.Rule names it.
	ReasonRule = "rule"
	// ReasonImplied: a name may be asked for, because Decision.Rule lets connect
	// to a resource that has it.
	ReasonImplied = "implied"
	// ReasonUnmatched: no rule matched one of the effects.
	ReasonUnmatched = "unmatched"
	// ReasonUnknownOperation: the operation was not understood.
	ReasonUnknownOperation = "unknown_operation"
	// ReasonUnknownResource: the target belongs to no resource.
	ReasonUnknownResource = "unknown_resource"
	// ReasonNoPolicy: there is no engine.
	ReasonNoPolicy = "no_policy"
	// ReasonError: a condition could not be evaluated.
	ReasonError = "error"
)
