package policy

import "errors"

// ErrUnknownFact is wrapped by errors about facts that are not known for the
// operation at hand. A condition that asks for one cannot be evaluated.
var ErrUnknownFact = errors.New("not known")

// FactKind is the type of a fact.
type FactKind uint8

// The kinds of facts, and the Go types of their values. The zero FactKind is none.
const (
	FactBool    FactKind = iota + 1 // bool
	FactInt                         // int64
	FactString                      // string
	FactStrings                     // []string
)

// FactField is one fact that a protocol tells of an operation.
type FactField struct {
	Name string
	Kind FactKind
	// Doc is one sentence for people who write conditions.
	Doc string
}

// FactType is the variable that holds a protocol's facts in conditions.
type FactType struct {
	// Variable is its name, as in "sql".
	Variable string
	Fields   []FactField
}

// Facts are what a protocol knows of one operation beyond [Operation]'s own
// fields, for conditions. They must not change while a request is decided, and be
// safe for concurrent use.
type Facts interface {
	// Fact returns the value of a field of the protocol's [FactType], in the Go type
	// of its kind. An error says that it is not known, and denies.
	Fact(name string) (any, error)
}
