package policy

import (
	"fmt"
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// The variables of conditions, beside those of protocols.
const (
	varPrincipal = "principal"
	varProcess   = "process"
	varLineage   = "lineage"
	varAgent     = "agent"
	varResource  = "resource"
	varTarget    = "target"
	varOperation = "op"
	varTime      = "time"
)

// activation gives a condition its variables.
type activation struct {
	req *Request
	at  *Resource
}

// ResolveName returns the value of a variable. What is not known is an error, by
// which the condition fails if it needs the value. Any other name is that of the
// operation's protocol: compiling saw to it that the rule is for no other.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case varPrincipal:
		return &a.req.Principal, true
	case varProcess:
		return a.req.Process, true
	case varLineage:
		return a.lineage(), true
	case varAgent:
		return a.req.Agent, true
	case varResource:
		return a.at, true
	case varTarget:
		return a.req, true
	case varOperation:
		return &a.req.Operation, true
	case varTime:
		if a.req.Time.IsZero() {
			return missing(varTime), true
		}
		return a.req.Time, true
	}
	if a.req.Operation.Facts == nil {
		return missing(name), true
	}
	return a.req.Operation.Facts, true
}

// lineage is that of the process, which counts only where all of it is certain.
func (a *activation) lineage() any {
	if a.req.Process == nil {
		return missing(varLineage)
	}
	lineage := a.req.Process.Lineage()
	for _, p := range lineage {
		if p.Partial {
			return missing(varLineage)
		}
	}
	return lineage
}

func missing(name string) ref.Val { return types.WrapErr(fmt.Errorf("%s: %w", name, ErrUnknownFact)) }

// Parent returns nil: there are no other variables.
func (a *activation) Parent() cel.Activation { return nil }

// objectValue is a thing with fields as CEL sees it. Conditions look at its fields,
// and nothing else.
type objectValue struct {
	kind *types.Type
	of   any
}

// ConvertToNative returns the thing itself.
func (o *objectValue) ConvertToNative(t reflect.Type) (any, error) {
	if reflect.TypeOf(o.of).AssignableTo(t) {
		return o.of, nil
	}
	return nil, fmt.Errorf("convert %s to %s: %w", o.kind, t, errNoConversion)
}

// ConvertToType returns the type, if that is asked for.
func (o *objectValue) ConvertToType(t ref.Type) ref.Val {
	switch t.TypeName() {
	case o.kind.TypeName():
		return o
	case types.TypeType.TypeName():
		return o.kind
	}
	return types.NewErr("%s is no %s", o.kind, t.TypeName())
}

// Equal reports whether the other is the same thing.
func (o *objectValue) Equal(other ref.Val) ref.Val {
	p, ok := other.(*objectValue)
	return types.Bool(ok && reflect.DeepEqual(o.of, p.of))
}

// Type returns the type.
func (o *objectValue) Type() ref.Type { return o.kind }

// Value returns the thing.
func (o *objectValue) Value() any { return o.of }
