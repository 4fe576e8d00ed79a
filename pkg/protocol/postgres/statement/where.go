package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// bounded reports whether a WHERE looks at a column in a way that can leave a row
// out, as far as that is plain to see. It is a guard against mistakes: who
// wants to can always write a condition that is true of every row.
func bounded(where *pg.Node) bool { return selective(where, false) }

// selective is bounded for a condition, or for its negation.
func selective(n *pg.Node, negated bool) bool {
	switch {
	case n.GetBoolExpr() != nil:
		return selectiveList(n.GetBoolExpr(), negated)
	case n.GetBooleanTest() != nil:
		switch n.GetBooleanTest().GetBooltesttype() {
		case pg.BoolTestType_IS_TRUE, pg.BoolTestType_IS_NOT_FALSE:
			return selective(n.GetBooleanTest().GetArg(), negated)
		case pg.BoolTestType_IS_FALSE, pg.BoolTestType_IS_NOT_TRUE:
			return selective(n.GetBooleanTest().GetArg(), !negated)
		}
	case n.GetTypeCast() != nil:
		return selective(n.GetTypeCast().GetArg(), negated)
	}
	return looksAtColumn(n) && !trivial(n, negated)
}

// selectiveList judges AND, OR and NOT. An OR is as wide as its widest part, but
// for one that is plainly false; a part without a column may be true.
func selectiveList(n *pg.BoolExpr, negated bool) bool {
	narrows := func(arg *pg.Node) bool { return selective(arg, negated) }
	switch n.GetBoolop() {
	case pg.BoolExprType_NOT_EXPR:
		return len(n.GetArgs()) == 1 && selective(n.GetArgs()[0], !negated)
	case pg.BoolExprType_AND_EXPR:
		if !negated {
			return slices.ContainsFunc(n.GetArgs(), narrows)
		}
	case pg.BoolExprType_OR_EXPR:
		if negated {
			return slices.ContainsFunc(n.GetArgs(), narrows)
		}
	default:
		return false
	}
	some := false
	for _, arg := range n.GetArgs() {
		if value, ok := boolean(arg); ok && value == negated {
			continue // plainly false
		}
		if !narrows(arg) {
			return false
		}
		some = true
	}
	return some
}

// boolean returns the value of a literal.
func boolean(n *pg.Node) (value, ok bool) {
	if c := n.GetTypeCast(); c != nil {
		return boolean(c.GetArg())
	}
	c := n.GetAConst()
	if c == nil || c.GetBoolval() == nil {
		return false, false
	}
	return c.GetBoolval().GetBoolval(), true
}

func looksAtColumn(n *pg.Node) bool {
	found := false
	inspect(n, func(m proto.Message) bool {
		switch m.(type) {
		case *pg.ColumnRef, *pg.CurrentOfExpr:
			found = true
		case *pg.SelectStmt:
			return false // a query of its own
		}
		return !found
	})
	return found
}

// trivial reports whether a comparison holds for every row, or its negation
// does: of something with itself, LIKE '%', of a system column with nothing.
func trivial(n *pg.Node, negated bool) bool {
	if t := n.GetNullTest(); t != nil {
		isNull := t.GetNulltesttype() == pg.NullTestType_IS_NULL
		name := last(stringsOf(t.GetArg().GetColumnRef().GetFields()))
		return isNull == negated && slices.Contains(systemColumns, name)
	}
	e := n.GetAExpr()
	if e == nil {
		return false
	}
	op := last(stringsOf(e.GetName()))
	if text, ok := constant(e.GetRexpr()); ok && !negated && (op == "~~" || op == "~~*") {
		return text != "" && strings.Trim(text, "%") == ""
	}
	others := operands(e.GetRexpr())
	alike := 0
	if e.GetLexpr() == nil {
		return false
	}
	for _, other := range others {
		if same(e.GetLexpr(), other) {
			alike++
		}
	}
	if alike == 0 || strings.HasPrefix(op, "BETWEEN") && alike < len(others) {
		return false
	}
	holds := slices.Contains([]string{"=", "<=", ">=", "~~", "~~*", "BETWEEN", "BETWEEN SYMMETRIC"}, op)
	fails := slices.Contains([]string{"<>", "!=", "<", ">", "!~~", "!~~*"}, op)
	if e.GetKind() == pg.A_Expr_Kind_AEXPR_DISTINCT {
		holds, fails = false, true
	}
	return !negated && holds || negated && fails
}

// operands returns the members of a list, or the one operand that is none.
func operands(n *pg.Node) []*pg.Node {
	if list := n.GetList(); list != nil {
		return list.GetItems()
	}
	return []*pg.Node{n}
}

// systemColumns are in every row and never null.
var systemColumns = []string{"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}

// same reports whether two expressions read alike, wherever they stand.
func same(a, b *pg.Node) bool {
	x, ok := content(a)
	y, okay := content(b)
	return ok == okay && (!ok || sameMessage(x, y))
}

func sameMessage(a, b protoreflect.Message) bool {
	if x, ok := a.Interface().(*pg.Node); ok {
		y, okay := b.Interface().(*pg.Node)
		return okay && same(x, y)
	}
	if a.Descriptor() != b.Descriptor() {
		return false
	}
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Name() == "location" {
			continue
		}
		if a.Has(fd) != b.Has(fd) || a.Has(fd) && !sameField(fd, a.Get(fd), b.Get(fd)) {
			return false
		}
	}
	return true
}

func sameField(fd protoreflect.FieldDescriptor, a, b protoreflect.Value) bool {
	switch {
	case fd.IsList() && fd.Message() != nil:
		x, y := a.List(), b.List()
		if x.Len() != y.Len() {
			return false
		}
		for i := range x.Len() {
			if !sameMessage(x.Get(i).Message(), y.Get(i).Message()) {
				return false
			}
		}
		return true
	case fd.Message() != nil:
		return sameMessage(a.Message(), b.Message())
	}
	return a.Equal(b)
}
