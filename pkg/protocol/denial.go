package protocol

import (
	"errors"
	"fmt"
	"time"

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
	// Detail says what was not understood, or which limit was reached, where that
	// is the reason.
	Detail string
	// Retry is after how long the same may be tried again; 0 if waiting does not
	// help.
	Retry time.Duration
}

// Reasons for denials that no rule gives.
const (
	ReasonAudit    = "audit_failed"
	ReasonProtocol = "protocol_error"
	ReasonInternal = "internal"
	// ReasonLimit: a limit of Denial.Rule was reached.
	ReasonLimit = "limit"
	// ReasonMask: what is masked would have got to where no mask follows it.
	// Denial.Rule names the mask.
	ReasonMask = "mask"
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
	case d.Reason == policy.ReasonUnmatched && d.Detail != "":
		return fmt.Sprintf("headgate: denied by rule %q: %s", d.Rule, d.Detail)
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
	case policy.ReasonUnmatched:
		return fmt.Sprintf("What agents on this host, and whatever they start, may do is listed, and this is not. Ask the operators of this host to allow it; "+
			"headgate policy explain --op %s shows them why it was refused.", d.ID)
	case policy.ReasonUnknownOperation:
		return fmt.Sprintf("The operation could not be understood, and what is not understood is refused. Rewrite it, or ask the operators of this host and quote id %s.", d.ID)
	case policy.ReasonUnknownResource:
		return fmt.Sprintf("No resource in the policy names this address. Ask the operators of this host to add it and quote id %s.", d.ID)
	case ReasonLimit:
		if d.Retry > 0 {
			return fmt.Sprintf("Try again in %d s, or ask the operators of this host and quote id %s.", int64((d.Retry+time.Second-1)/time.Second), d.ID)
		}
		return fmt.Sprintf("Ask for less at a time, or ask the operators of this host and quote id %s.", d.ID)
	case ReasonMask:
		return fmt.Sprintf("Leave the protected columns out, or ask the operators of this host and quote id %s.", d.ID)
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
