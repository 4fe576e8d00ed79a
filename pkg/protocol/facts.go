package protocol

import "github.com/headgate/headgate/pkg/policy"

// Describer is a [Protocol] whose operations have facts for the conditions of a
// policy, in Operation.Facts.
type Describer interface {
	Protocol
	// Facts returns the variable that conditions have for them, and its fields. It
	// is the same at all times, and the caller must not change it.
	Facts() policy.FactType
}

// Reader is a [Protocol] that can tell what a text would do, without a target: for
// tests of policies, and for people who ask.
type Reader interface {
	Protocol
	// Read returns the operations that a session would ask about if an agent sent
	// the text as one message: one for each part that is carried out on its own, in
	// their order, and at least one. What can't be understood is an operation with
	// the effect policy.Unknown. An error means that texts can't be read at all. What
	// only a target can tell is not known of them; the protocol says what it takes
	// for given.
	Read(text string) ([]policy.Operation, error)
}
