package protocol

import (
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/policy"
)

// Denial is a refusal: the only error whose words reach an agent. Each protocol
// translates it into its own language.
type Denial struct {
	// ID names the refused operation in the record; a person quotes it.
	ID string
	// Rule is the rule that decided, or "default".
	Rule string
	// Reason is a stable token; see policy.Decision.
	Reason string
	// Message is the rule's own text. It may be empty.
	Message string
	// Detail says what was not understood, where that is the reason.
	Detail string
}

// Reasons for denials that no rule gives.
const (
	ReasonAudit    = "audit_failed"
	ReasonProtocol = "protocol_error"
	ReasonInternal = "internal"
)

// NewDenial turns a decision into the refusal of the operation named id.
func NewDenial(id string, d policy.Decision, detail string) *Denial {
	return &Denial{ID: id, Rule: d.Rule, Reason: d.Reason, Message: d.Message, Detail: detail}
}

// Error returns the sentence that operators read.
func (d *Denial) Error() string {
	return fmt.Sprintf("denied by rule %q (%s), id %s", d.Rule, d.Reason, d.ID)
}

// Summary is the one-line refusal for the agent.
func (d *Denial) Summary() string {
	switch {
	case d.Reason == policy.ReasonRule || d.Reason == policy.ReasonUnmatched:
		return fmt.Sprintf("headgate: denied by rule %q", d.Rule)
	case d.Detail != "":
		return fmt.Sprintf("headgate: denied (%s): %s", d.Reason, d.Detail)
	default:
		return fmt.Sprintf("headgate: denied (%s)", d.Reason)
	}
}

// Hint tells the agent, or the person behind it, what to do.
func (d *Denial) Hint() string {
	if d.Message != "" {
		return fmt.Sprintf("%s Ask the operators of this host and quote id %s.", d.Message, d.ID)
	}
	switch d.Reason {
	case policy.ReasonUnknownOperation:
		return fmt.Sprintf("The operation could not be understood, and what is not understood is refused. Rewrite it, or ask the operators of this host and quote id %s.", d.ID)
	case policy.ReasonUnknownResource:
		return fmt.Sprintf("No resource in the policy names this address. Ask the operators of this host to add it and quote id %s.", d.ID)
	default:
		return fmt.Sprintf("Ask the operators of this host and quote id %s.", d.ID)
	}
}

// AsDenial returns the denial inside err, or one that says nothing but that
// something inside went wrong: an agent never reads an internal cause.
func AsDenial(err error, session string) *Denial {
	var d *Denial
	if errors.As(err, &d) {
		return d
	}
	return &Denial{ID: session, Rule: "default", Reason: ReasonInternal}
}
