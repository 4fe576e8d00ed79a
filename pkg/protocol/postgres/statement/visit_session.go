package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// visitSession handles what works on the session: names, settings,
// transactions.
func (w *walker) visitSession(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.PrepareStmt:
		w.s.Prepares = n.GetName()
		return w.inner(n.GetQuery(), everything)
	case *pg.DeclareCursorStmt:
		w.s.Declares = n.GetPortalname()
		return w.inner(n.GetQuery(), everything)
	case *pg.ExplainStmt:
		return w.explain(n)
	case *pg.ExecuteStmt:
		w.s.Executes = n.GetName()
		w.add(Execute)
	case *pg.DeallocateStmt:
		w.s.Deallocates, w.s.DeallocatesAll = n.GetName(), n.GetName() == ""
	case *pg.FetchStmt:
		w.s.Fetches = n.GetPortalname()
	case *pg.ClosePortalStmt:
		w.s.Closes, w.s.ClosesAll = n.GetPortalname(), n.GetPortalname() == ""
	case *pg.DiscardStmt:
		all := n.GetTarget() == pg.DiscardMode_DISCARD_ALL
		w.s.DeallocatesAll, w.s.ClosesAll = all, all
	case *pg.TransactionStmt:
		w.transaction(n)
	case *pg.VariableSetStmt:
		return w.set(n)
	case *pg.VariableShowStmt:
		w.object("setting", strings.ToLower(n.GetName()), false)
	case *pg.CallStmt:
		w.object("function", qualified(stringsOf(n.GetFunccall().GetFuncname())...), false)
		return w.rest(n.GetFunccall())
	}
	return false
}

func everything(string) bool { return true }

// inner takes the facts of the statement inside this one.
func (w *walker) inner(query *pg.Node, keep func(string) bool) bool {
	inner := analyze(query)
	w.absorb(&inner, keep)
	return true
}

// plannedEffects are those that EXPLAIN has without ANALYZE too: the planner
// may call functions, and an EXECUTE is not known here.
var plannedEffects = []string{Execute, Notify, Lock, Opaque, Sequence, Set, SetRole, SetUnsafe, System, Unknown, UserFunction}

func (w *walker) explain(n *pg.ExplainStmt) bool {
	if analyzes(n.GetOptions()) {
		return w.inner(n.GetQuery(), everything)
	}
	w.stored = true // tables are only read for statistics
	inner := analyze(n.GetQuery())
	w.absorb(&inner, func(string) bool { return false })
	w.stored = false
	for _, o := range inner.Objects {
		if o.Kind == "table" && o.Write && computesDefaults(n.GetQuery()) {
			w.defined.heirNamed(o.Name)
		}
	}
	for _, e := range inner.Effects {
		if slices.Contains(plannedEffects, e) {
			w.add(e)
		}
	}
	return true
}

// computesDefaults reports whether the plan of a statement holds defaults of what it
// writes to: the planner computes those that are immutable.
func computesDefaults(n *pg.Node) bool {
	found := false
	inspect(n, func(m proto.Message) bool {
		switch m.(type) {
		case *pg.InsertStmt, *pg.MergeStmt, *pg.SetToDefault:
			found = true
		}
		return !found
	})
	return found
}

// analyzes reports whether EXPLAIN runs the statement. A value that is not
// plainly false counts as true.
func analyzes(options []*pg.Node) bool {
	for _, n := range options {
		o := n.GetDefElem()
		if strings.EqualFold(o.GetDefname(), "analyze") && !isFalse(o.GetArg()) {
			return true
		}
	}
	return false
}

func isFalse(arg *pg.Node) bool {
	switch {
	case arg.GetInteger() != nil:
		return arg.GetInteger().GetIval() == 0
	case arg.GetBoolean() != nil:
		return !arg.GetBoolean().GetBoolval()
	case arg.GetString_() != nil:
		v := strings.ToLower(arg.GetString_().GetSval())
		return v == "off" || v == "false"
	}
	return false
}

// transactionNames are the values of Statement.Transaction.
var transactionNames = map[pg.TransactionStmtKind]string{
	pg.TransactionStmtKind_TRANS_STMT_BEGIN:             "begin",
	pg.TransactionStmtKind_TRANS_STMT_START:             "begin",
	pg.TransactionStmtKind_TRANS_STMT_COMMIT:            "commit",
	pg.TransactionStmtKind_TRANS_STMT_ROLLBACK:          "rollback",
	pg.TransactionStmtKind_TRANS_STMT_SAVEPOINT:         "savepoint",
	pg.TransactionStmtKind_TRANS_STMT_RELEASE:           "release",
	pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:       "rollback_to",
	pg.TransactionStmtKind_TRANS_STMT_PREPARE:           "prepare",
	pg.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:   "commit_prepared",
	pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED: "rollback_prepared",
}

func (w *walker) transaction(n *pg.TransactionStmt) {
	name, ok := transactionNames[n.GetKind()]
	if !ok {
		w.unknown("transaction command of unknown kind")
	}
	w.s.Transaction = name
}

// set handles SET and RESET, also inside ALTER ROLE, DATABASE and SYSTEM.
func (w *walker) set(n *pg.VariableSetStmt) bool {
	name := strings.ToLower(n.GetName())
	switch n.GetKind() {
	case pg.VariableSetKind_VAR_RESET_ALL:
		w.add(Set)
	case pg.VariableSetKind_VAR_SET_MULTI:
		w.setMulti(name)
	case pg.VariableSetKind_VAR_SET_DEFAULT, pg.VariableSetKind_VAR_RESET, pg.VariableSetKind_VAR_SET_CURRENT:
		w.setting(name, nil)
	case pg.VariableSetKind_VAR_SET_VALUE:
		values, ok := constants(n.GetArgs())
		if !ok {
			values = []string{notConstant}
		}
		w.setting(name, values)
	default:
		w.unknown("SET of unknown kind")
	}
	return w.rest(n)
}

// setMulti handles the forms of SET that are no setting by name.
func (w *walker) setMulti(name string) {
	switch name {
	case "transaction", "session characteristics", "transaction snapshot":
		if w.s.Verb == Set {
			w.s.Verb = Transaction
		}
		w.add(Transaction)
	default:
		w.unknown("SET of unknown kind")
	}
}

// setting notes a change of the named setting to values, nil for its default.
func (w *walker) setting(name string, values []string) {
	effect, reason := Setting(name, values...)
	w.object("setting", name, true)
	w.newValue(name, values)
	w.add(effect)
	if effect == Unknown {
		w.unknown(reason)
	}
}

// constants returns the values of a list of constants, as text.
func constants(list []*pg.Node) ([]string, bool) {
	values := make([]string, 0, len(list))
	for _, n := range list {
		v, ok := constant(n)
		if !ok {
			return nil, false
		}
		values = append(values, v)
	}
	return values, true
}

// constant returns the value of a literal, with or without a cast to text.
func constant(n *pg.Node) (string, bool) {
	if c := n.GetTypeCast(); c != nil {
		return constant(c.GetArg())
	}
	c := n.GetAConst()
	switch {
	case c == nil || c.GetIsnull():
		return "", false
	case c.GetSval() != nil:
		return c.GetSval().GetSval(), true
	case c.GetBoolval() != nil:
		if c.GetBoolval().GetBoolval() {
			return "on", true
		}
		return "off", true
	case c.GetFval() != nil:
		return c.GetFval().GetFval(), true
	case c.GetIval() != nil:
		return itoa(c.GetIval().GetIval()), true
	}
	return "", false
}
