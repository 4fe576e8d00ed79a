package statement

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// visit notes what a node does beyond its kind. It reports whether it walked
// the node's children; false leaves that to the caller.
func (w *walker) visit(m proto.Message) bool {
	return w.visitQuery(m) || w.visitSession(m) || w.visitDefinition(m) || w.visitExpression(m)
}

// visitQuery handles what reads and writes rows.
func (w *walker) visitQuery(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.SelectStmt:
		outer := w.pinned
		w.pinned = pinned(n)
		defer func() { w.pinned = outer }()
		return w.query(n, n.GetWithClause(), "with_clause")
	case *pg.InsertStmt:
		return w.insert(n)
	case *pg.UpdateStmt:
		w.target(n.GetRelation())
		w.bound(n.GetWhereClause())
		w.reads(n.GetReturningList(), n.GetFromClause())
		w.viewOfSettings(n.GetRelation())
		return w.query(n, n.GetWithClause(), "with_clause", "relation")
	case *pg.DeleteStmt:
		w.target(n.GetRelation())
		w.bound(n.GetWhereClause())
		w.reads(n.GetReturningList(), n.GetUsingClause())
		return w.query(n, n.GetWithClause(), "with_clause", "relation")
	case *pg.MergeStmt:
		w.target(n.GetRelation())
		w.viewOfSettings(n.GetRelation())
		return w.query(n, n.GetWithClause(), "with_clause", "relation")
	case *pg.MergeWhenClause:
		w.mergeBranch(n.GetCommandType())
	case *pg.OnConflictClause:
		if n.GetAction() != pg.OnConflictAction_ONCONFLICT_NOTHING {
			w.add(Update)
		}
	case *pg.IntoClause:
		w.add(DDL)
		w.target(n.GetRel())
		return w.rest(n, "rel")
	case *pg.LockingClause:
		w.add(Lock)
		return true // its relations are aliases of tables in FROM
	case *pg.RangeVar:
		w.relation(n)
		return true
	case *pg.CopyStmt:
		return w.copyRows(n)
	case *pg.TruncateStmt:
		w.targets(n.GetRelations())
		return true
	case *pg.LockStmt:
		w.nodes(n.GetRelations())
		return true
	}
	return false
}

// query walks a statement with its WITH queries in scope. A WITH query sees
// those before it, and itself and all others only if the clause is RECURSIVE.
func (w *walker) query(m proto.Message, with *pg.WithClause, except ...fieldName) bool {
	outer := len(w.ctes)
	if with.GetRecursive() {
		for _, n := range with.GetCtes() {
			w.ctes = append(w.ctes, n.GetCommonTableExpr().GetCtename())
		}
	}
	for _, n := range with.GetCtes() {
		w.walk(n.ProtoReflect())
		if !with.GetRecursive() {
			w.ctes = append(w.ctes, n.GetCommonTableExpr().GetCtename())
		}
	}
	w.rest(m, except...)
	w.ctes = w.ctes[:outer]
	return true
}

func (w *walker) insert(n *pg.InsertStmt) bool {
	w.target(n.GetRelation())
	w.reads(n.GetReturningList())
	source := n.GetSelectStmt().GetSelectStmt()
	if len(source.GetValuesLists()) == 0 {
		return w.query(n, n.GetWithClause(), "with_clause", "relation")
	}
	// Rows written out in place are no SELECT.
	w.query(n, n.GetWithClause(), "with_clause", "relation", "select_stmt")
	outer := len(w.ctes)
	for _, c := range n.GetWithClause().GetCtes() {
		w.ctes = append(w.ctes, c.GetCommonTableExpr().GetCtename())
	}
	w.query(source, source.GetWithClause(), "with_clause")
	w.ctes = w.ctes[:outer]
	return true
}

// reads adds Select if one of the lists holds anything.
func (w *walker) reads(lists ...[]*pg.Node) {
	for _, l := range lists {
		if len(l) > 0 {
			w.add(Select)
		}
	}
}

func (w *walker) mergeBranch(c pg.CmdType) {
	switch c {
	case pg.CmdType_CMD_INSERT:
		w.add(Insert)
	case pg.CmdType_CMD_UPDATE:
		w.add(Update)
	case pg.CmdType_CMD_DELETE:
		w.add(Delete)
	case pg.CmdType_CMD_NOTHING:
	default:
		w.unknown("branch of MERGE of unknown kind")
	}
}

// viewOfSettings catches an UPDATE of pg_settings: a rule of that view turns
// it into set_config with a name that is data.
func (w *walker) viewOfSettings(rel *pg.RangeVar) {
	if rel.GetRelname() == "pg_settings" {
		w.unknown("update of pg_settings")
	}
}

// bound counts an UPDATE or DELETE and its WHERE.
func (w *walker) bound(where *pg.Node) {
	w.writes++
	if !bounded(where) {
		w.unbounded++
	}
}

// copyRows handles COPY, whose other side is the wire, a file or a program.
func (w *walker) copyRows(n *pg.CopyStmt) bool {
	other := CopyOut
	switch {
	case n.GetIsProgram():
		other = CopyProgram
	case n.GetFilename() != "":
		other = CopyFile
	case n.GetIsFrom():
		other = CopyIn
	}
	w.s.Verb = other
	w.s.Copy = newCopy(n)
	w.add(other)
	switch {
	case n.GetQuery() != nil:
	case n.GetIsFrom():
		w.add(Insert)
		w.target(n.GetRelation())
	default:
		w.add(Select)
		w.relation(n.GetRelation())
	}
	for _, c := range stringsOf(n.GetAttlist()) {
		w.columns[c] = true
	}
	return w.rest(n, "relation")
}

func (w *walker) targets(list []*pg.Node) {
	for _, n := range list {
		w.target(n.GetRangeVar())
	}
}
