package statement

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// MayInfer reports whether the rows that the statement selects, their order or
// number, its effects or its errors may depend on a column that protected
// names, other than by handing the column out as an output of its own, which a
// mask covers: WHERE, JOIN, GROUP BY, HAVING, ORDER BY, DISTINCT, set operations,
// windows, expressions of every kind, and the conditions of writes. False only
// where that is certain.
//
// Not covered: what a written value tells by the error that it causes, see
// [Statement.MayCollide], views, triggers and defaults, the time that it takes,
// the order of rows that it leaves to the planner, the tableoid of a table that
// is partitioned by the column, and Attributes that are functions. EXECUTE and FETCH may infer anything: ask
// the statement that they name.
func (s *Statement) MayInfer(protected func(column string) bool) bool {
	if s == nil || protected == nil || s.Does(Unknown) || s.Does(Opaque) || s.Does(Execute) || s.Fetches != "" {
		return true
	}
	switch {
	case len(s.Tables()) == 0:
		return false
	case s.Does(Explain):
		return s.Mentions.Statistics || s.touches(protected)
	}
	m := &s.Mentions
	return m.Statistics || m.WeighsRows || slices.ContainsFunc(m.Weighed, protected)
}

// MayCollide reports whether the statement writes values into a column that
// protected names. Whether the upstream takes them may tell what is there
// already: a unique index refuses a value that is known, a foreign key one that
// is not. False only where that is certain.
func (s *Statement) MayCollide(protected func(column string) bool) bool {
	if s == nil || protected == nil || s.Does(Unknown) || s.Does(Opaque) || s.Does(Execute) || s.Fetches != "" {
		return true
	}
	return s.Mentions.WritesRows || slices.ContainsFunc(s.Mentions.Written, protected)
}

// weigh fills the Mentions behind MayInfer.
func weigh(s *Statement, node *pg.Node) {
	f := newFlow(s, node)
	f.condition = f.use
	f.assign = func(_ string, value *pg.Node, _ []string) { f.use(value) }
	f.output = f.weighOutput
	switch {
	case node.GetViewStmt() != nil:
		f.named(node.GetViewStmt().GetQuery(), stringsOf(node.GetViewStmt().GetAliases()))
	case node.GetCreateTableAsStmt().GetObjtype() == pg.ObjectType_OBJECT_MATVIEW:
		f.statement(node.GetCreateTableAsStmt().GetQuery(), toQuery)
	case node.GetCreateTableAsStmt() != nil:
		f.statement(node.GetCreateTableAsStmt().GetQuery(), toValues)
	case node.GetCopyStmt() != nil:
		f.statement(node.GetCopyStmt().GetQuery(), toAgent)
		f.condition(node.GetCopyStmt().GetWhereClause())
	case isQuery(node):
		f.statement(node, toAgent)
	case node.GetCreateFunctionStmt() != nil: // calling it is what tells
	default:
		f.use(node)
	}
	written(s, f, node)
	s.Mentions.Weighed, s.Mentions.WeighsRows = f.finish(&s.Mentions)
	s.Mentions.WeighsQuoted = f.quoted
}

// isQuery reports whether flow.statement walks the node.
func isQuery(node *pg.Node) bool {
	switch node.GetNode().(type) {
	case *pg.Node_SelectStmt, *pg.Node_InsertStmt, *pg.Node_UpdateStmt, *pg.Node_DeleteStmt, *pg.Node_MergeStmt:
		return true
	}
	return false
}

// weighOutput lets plain columns pass and takes everything else.
func (f *flow) weighOutput(t *pg.ResTarget, as place) {
	ref := t.GetVal().GetColumnRef()
	switch {
	case ref == nil || as == toValues:
		f.use(t.GetVal())
	case as != toNobody && !isStar(t.GetVal()):
		names := stringsOf(ref.GetFields())
		f.row(names)
		f.rename(t.GetName(), last(names))
	}
}

// written notes the columns that get values, and those by which ON CONFLICT
// decides.
func written(s *Statement, f *flow, node *pg.Node) {
	columns := map[string]bool{}
	take := func(list []*pg.Node) {
		for _, n := range list {
			columns[n.GetResTarget().GetName()] = true
		}
	}
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.InsertStmt:
			take(n.GetCols())
			take(n.GetOnConflictClause().GetTargetList())
			all := len(n.GetCols()) == 0 && n.GetSelectStmt() != nil
			s.Mentions.WritesRows = s.Mentions.WritesRows || all
			f.conflict(n, all)
		case *pg.UpdateStmt:
			take(n.GetTargetList())
		case *pg.MergeWhenClause:
			take(n.GetTargetList())
			if n.GetCommandType() == pg.CmdType_CMD_INSERT && len(n.GetTargetList()) == 0 && len(n.GetValues()) > 0 {
				s.Mentions.WritesRows = true
			}
		case *pg.CopyStmt:
			for _, name := range stringsOf(n.GetAttlist()) {
				columns[name] = columns[name] || n.GetIsFrom()
			}
			s.Mentions.WritesRows = s.Mentions.WritesRows || n.GetIsFrom() && len(n.GetAttlist()) == 0
		}
		return true
	})
	delete(columns, "")
	for name, is := range columns {
		if !is {
			delete(columns, name)
		}
	}
	s.Mentions.Written = sorted(columns)
}

// conflict takes the columns whose values decide what ON CONFLICT does, where it
// does not name them: all that are inserted.
func (f *flow) conflict(n *pg.InsertStmt, all bool) {
	c := n.GetOnConflictClause()
	if c == nil || len(c.GetInfer().GetIndexElems()) > 0 {
		return
	}
	if c.GetInfer().GetConname() != "" {
		all = true
	}
	f.rows = f.rows || all
	for _, col := range n.GetCols() {
		f.take(col.GetResTarget().GetName())
	}
}
