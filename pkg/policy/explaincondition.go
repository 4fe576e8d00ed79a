package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
	"cel.dev/cel-go/parser"

	"github.com/headgate/headgate/pkg/process"
)

// The bounds of what is shown of a condition's values.
const (
	maxShownValue  = 120 // bytes of one
	maxShownValues = 8
)

// explainCondition evaluates a condition once more and finds what made it come out
// as it did.
func explainCondition(c Condition, req *Request, at *Resource) *ConditionExplanation {
	holds, err := c.Eval(req, at)
	x := &ConditionExplanation{Result: strconv.FormatBool(holds)}
	if err != nil {
		x.Result, x.Error = "error", err.Error()
	}
	compiled, ok := c.(*celCondition)
	if !ok {
		return x
	}
	x.Expression = compiled.expression
	state := compiled.trace(req, at)
	if state == nil {
		return x
	}
	part := decisive(compiled.ast.NativeRep().Expr(), state)
	info := compiled.ast.NativeRep().SourceInfo()
	if text, err := parser.Unparse(part, info); err == nil {
		x.Part = text
	}
	x.Values = shownValues(part, info, state)
	return x
}

// trace evaluates the condition and returns the value of each of its parts, nil if
// there are none.
func (c *celCondition) trace(req *Request, at *Resource) interpreter.EvalState {
	program, err := c.env.Program(c.ast, cel.EvalOptions(cel.OptTrackState), cel.CostLimit(maxConditionCost))
	if err != nil {
		return nil
	}
	// The outcome is known already, and an error is one of them.
	_, details, _ := program.Eval(&activation{req: req, at: at})
	if details == nil {
		return nil
	}
	return details.State()
}

// decisive goes down from an expression to the part of it that made it what it is:
// the operand that made an && false or an || true.
func decisive(e ast.Expr, state interpreter.EvalState) ast.Expr {
	if e.Kind() != ast.CallKind {
		return e
	}
	call := e.AsCall()
	switch call.FunctionName() {
	case operators.LogicalNot:
		return decisive(call.Args()[0], state)
	case operators.LogicalAnd, operators.LogicalOr:
		whole, known := boolOf(state, e)
		for _, arg := range call.Args() {
			value, ok := boolOf(state, arg)
			if ok == known && value == whole && (!known || whole == (call.FunctionName() == operators.LogicalOr)) {
				return decisive(arg, state)
			}
		}
	}
	return e
}

// boolOf returns the value of a part, and whether it is a bool at all: what failed
// or was never evaluated is none.
func boolOf(state interpreter.EvalState, e ast.Expr) (value, ok bool) {
	v, found := state.Value(e.ID())
	if !found {
		return false, false
	}
	value, ok = v.Value().(bool)
	return value, ok
}

// shownValues lists the variables and fields in a part with their values, the
// longest paths only: of process.exe not process, too.
func shownValues(part ast.Expr, info *ast.SourceInfo, state interpreter.EvalState) []string {
	var shown []string
	var visit func(ast.Expr)
	visit = func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind, ast.IdentKind:
			show(&shown, e, info, state)
		case ast.CallKind:
			if target := e.AsCall().Target(); e.AsCall().IsMemberFunction() {
				visit(target)
			}
			for _, arg := range e.AsCall().Args() {
				visit(arg)
			}
		case ast.ListKind:
			for _, element := range e.AsList().Elements() {
				visit(element)
			}
		case ast.ComprehensionKind:
			visit(e.AsComprehension().IterRange())
		case ast.LiteralKind, ast.MapKind, ast.StructKind, ast.UnspecifiedExprKind: // say what they are
		}
	}
	visit(part)
	return shown
}

func show(shown *[]string, e ast.Expr, info *ast.SourceInfo, state interpreter.EvalState) {
	value, ok := state.Value(e.ID())
	text, err := parser.Unparse(e, info)
	if !ok || err != nil || len(*shown) == maxShownValues {
		return
	}
	if line := text + " = " + render(value); !slices.Contains(*shown, line) {
		*shown = append(*shown, line)
	}
}

// render writes a value for people, cut to a length.
func render(v ref.Val) string {
	var text string
	switch v := v.(type) {
	case traits.Lister:
		text = "["
		for i := 0; i < 20 && len(text) < maxShownValue && v.Size() != types.Int(i); i++ {
			if i > 0 {
				text += ", "
			}
			text += render(v.Get(types.Int(i)))
		}
		text += "]"
	case *objectValue:
		text = v.kind.TypeName()
		if p, ok := v.of.(*process.Process); ok && p.Image != nil {
			text = strconv.Quote(p.Image.Exe)
		}
	default:
		if s, ok := v.Value().(string); ok {
			text = strconv.Quote(s)
		} else {
			text = fmt.Sprint(v.Value())
		}
	}
	if len(text) > maxShownValue {
		text = strings.ToValidUTF8(text[:maxShownValue], "") + "…"
	}
	return text
}
