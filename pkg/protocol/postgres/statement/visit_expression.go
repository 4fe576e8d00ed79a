package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// visitExpression handles functions, operators and columns.
func (w *walker) visitExpression(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.FuncCall:
		w.function(n)
	case *pg.JsonScalarExpr, *pg.JsonParseExpr, *pg.JsonSerializeExpr, *pg.JsonFuncExpr, *pg.JsonObjectConstructor,
		*pg.JsonArrayConstructor, *pg.JsonArrayQueryConstructor, *pg.JsonObjectAgg, *pg.JsonArrayAgg, *pg.MergeSupportFunc:
		// Syntax since version 16. To a server before, json_scalar(x) is a call
		// of whatever has that name.
		w.add(UserFunction, Opaque)
	case *pg.A_Expr:
		if n.GetKind() < pg.A_Expr_Kind_AEXPR_BETWEEN { // BETWEEN has no operator's name
			w.operator(n.GetName())
		} else {
			w.means("<", "<=", ">", ">=")
		}
	case *pg.CaseExpr:
		if n.GetArg() != nil {
			w.means("=")
		}
	case *pg.SubLink:
		w.operator(n.GetOperName())
		if n.GetTestexpr() != nil && len(n.GetOperName()) == 0 {
			w.means("=") // IN
		}
	case *pg.SortBy:
		w.operator(n.GetUseOp())
	case *pg.RangeTableSample:
		if method := last(stringsOf(n.GetMethod())); method != "bernoulli" && method != "system" {
			w.add(UserFunction, Opaque)
		}
	case *pg.ColumnRef:
		names := stringsOf(n.GetFields())
		w.column(names, len(n.GetFields()) > 1)
	case *pg.A_Indirection:
		for _, name := range stringsOf(n.GetIndirection()) {
			w.column([]string{name}, true)
		}
	case *pg.JoinExpr:
		if n.GetIsNatural() || len(n.GetUsingClause()) > 0 {
			w.means("=")
		}
		for _, name := range stringsOf(n.GetUsingClause()) {
			w.columns[name] = true
		}
	}
	return false
}

// column notes the last of names. Behind a dot it may also be a function of
// the whole row: t.f means f(t) where t has no column f. Only the catalog can
// tell; see Mentions.Fields.
func (w *walker) column(names []string, dotted bool) {
	name := last(names)
	if name == "" {
		return
	}
	w.columns[name] = true
	if dotted {
		w.fields[name] = true
	}
}

// function notes a call of a function and what a function of that name does.
func (w *walker) function(n *pg.FuncCall) {
	parts := stringsOf(n.GetFuncname())
	w.object("function", qualified(parts...), false)
	name := last(parts)
	if name == "set_config" {
		w.setConfig(n.GetArgs())
	}
	w.add(functionEffects(name)...)
	if !isBuiltin(parts) {
		w.add(UserFunction, Opaque)
	}
}

// setConfig treats set_config as the SET that it is. A name or value that is
// no literal is unknown.
func (w *walker) setConfig(args []*pg.Node) {
	if len(args) != 3 {
		w.unknown("set_config with unexpected arguments")
		return
	}
	name, ok := constant(args[0])
	if !ok && w.pinned != "" && isColumn(args[0], "name") {
		name, ok = w.pinned, true
	}
	if !ok {
		w.unknown("set_config of a name that is not constant")
		return
	}
	value, ok := constant(args[1])
	if !ok {
		value = notConstant
	}
	w.setting(strings.ToLower(name), []string{value})
}

// pinned returns the name of the setting in SELECT ... FROM pg_settings WHERE
// name = '...', if the query is nothing more. It is how pg_dump sets what older
// servers do not know.
func pinned(n *pg.SelectStmt) string {
	where := n.GetWhereClause().GetAExpr()
	if len(n.GetFromClause()) != 1 || n.GetWithClause() != nil || where.GetKind() != pg.A_Expr_Kind_AEXPR_OP {
		return ""
	}
	from := n.GetFromClause()[0].GetRangeVar()
	operator := stringsOf(where.GetName())
	if from.GetRelname() != "pg_settings" || from.GetSchemaname() != "" && from.GetSchemaname() != "pg_catalog" ||
		from.GetAlias() != nil || len(operator) != 1 || operator[0] != "=" || !isColumn(where.GetLexpr(), "name") {
		return ""
	}
	name, _ := constant(where.GetRexpr())
	return name
}

func isColumn(n *pg.Node, name string) bool {
	fields := n.GetColumnRef().GetFields()
	return len(fields) == 1 && fields[0].GetString_().GetSval() == name
}

// operator notes an operator that is not built in: it is a function.
func (w *walker) operator(name []*pg.Node) {
	parts := stringsOf(name)
	switch {
	case len(parts) == 0:
	case len(parts) > 1 && parts[0] != "pg_catalog":
		w.add(UserFunction, Opaque)
	case !isOperator(last(parts)):
		w.add(UserFunction, Opaque)
	default: // one of users in the system's schema fits better, maybe
		w.means(strings.Join(parts, "."))
	}
}

// means notes operators that the server looks for by name.
func (w *walker) means(names ...string) {
	for _, name := range names {
		w.operators[name] = true
	}
}

// inspect calls visit for node and, where it returns true, for every message
// inside.
func inspect(node *pg.Node, visit func(proto.Message) bool) {
	if m, ok := content(node); ok {
		inspectMessage(m, visit)
	}
}

func inspectMessage(m protoreflect.Message, visit func(proto.Message) bool) {
	if node, ok := m.Interface().(*pg.Node); ok {
		if m, ok = content(node); !ok {
			return
		}
	}
	if !visit(m.Interface()) {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			inspectMessage(m.Get(fd).Message(), visit)
			continue
		}
		for j, list := 0, m.Get(fd).List(); j < list.Len(); j++ {
			inspectMessage(list.Get(j).Message(), visit)
		}
	}
}

// isBuiltin reports whether a function is one of PostgreSQL's own. A name
// without a schema is taken for the built-in one: pg_catalog is searched first
// unless search_path says otherwise, and that is unknown here.
func isBuiltin(parts []string) bool {
	name := last(parts)
	if len(parts) == 2 && parts[0] == "information_schema" {
		return slices.Contains(informationFunctions, name)
	}
	if len(parts) > 2 || len(parts) == 2 && parts[0] != "pg_catalog" {
		return false
	}
	_, computes := slices.BinarySearch(builtinFunctions, name)
	_, acts := slices.BinarySearch(actingFunctions, name)
	return computes || acts || name == "set_config"
}

func isOperator(name string) bool {
	_, ok := slices.BinarySearch(builtinOperators, name)
	return ok
}
