package statement

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MayCopy reports whether the statement may put data of a column that protected
// names where no mask follows it: into another column or table, a file, a
// program, a setting, a message, the keys of a lock. False only where that is
// certain.
//
// A column that is written onto itself stays where it is: SET ssn = trim(ssn),
// and SET ssn = excluded.ssn. Literals and parameters are the agent's own. A
// condition does not copy, see [Statement.MayInfer]. Views and materialized
// views are no copies, because the catalog shows what they are made of. EXECUTE
// may copy anything: ask the statement that it names.
func (s *Statement) MayCopy(protected func(column string) bool) bool {
	if s == nil || protected == nil || s.Does(Unknown) || s.Does(Opaque) || s.Does(Execute) {
		return true
	}
	m := &s.Mentions
	return m.StoresRows || slices.ContainsFunc(m.Stored, protected)
}

// store fills the Mentions behind MayCopy.
func store(s *Statement, node *pg.Node) {
	if !stores(node) {
		return
	}
	f := newFlow(s, node)
	f.leaving = map[*pg.Node]bool{}
	if s.Mentions.Leaves {
		f.markLeaving(node.ProtoReflect())
	}
	f.condition = f.storeCondition
	f.assign = f.storeAssignment
	f.output = f.storeOutput
	f.followed = true
	switch {
	case node.GetViewStmt() != nil:
		f.statement(node.GetViewStmt().GetQuery(), toAgent)
	case node.GetCreateTableAsStmt() != nil:
		as := toValues
		if node.GetCreateTableAsStmt().GetObjtype() == pg.ObjectType_OBJECT_MATVIEW {
			as = toAgent
		}
		f.statement(node.GetCreateTableAsStmt().GetQuery(), as)
	case node.GetCopyStmt() != nil:
		f.storeFile(node.GetCopyStmt())
	case isQuery(node):
		f.statement(node, toAgent)
	default:
		f.storeDefinition(node)
	}
	columns, rows := f.finish(&s.Mentions)
	s.Mentions.Stored, s.Mentions.StoresRows = columns, rows || s.Mentions.Statistics
	s.Mentions.StoresQuoted = f.quoted
}

// stores reports whether anything in the statement keeps values.
func stores(node *pg.Node) bool {
	found := false
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.InsertStmt, *pg.UpdateStmt, *pg.MergeStmt, *pg.AlterTableStmt, *pg.CreatePublicationStmt, *pg.AlterPublicationStmt:
			found = true
		case *pg.IntoClause:
			found = true
		case *pg.CopyStmt:
			found = found || !n.GetIsFrom() && (n.GetIsProgram() || n.GetFilename() != "")
		case *pg.FuncCall:
			found = found || leaves(n)
		}
		return !found
	})
	return found
}

// storeCondition ignores conditions, unless a function in one keeps values.
func (f *flow) storeCondition(nodes ...*pg.Node) {
	for _, n := range nodes {
		if f.leaving[n] {
			f.use(n)
		}
	}
}

// markLeaving notes the nodes that hold a call of a function that keeps values.
func (f *flow) markLeaving(m protoreflect.Message) (found bool) {
	if node, ok := m.Interface().(*pg.Node); ok {
		if m, ok = content(node); !ok {
			return false
		}
		defer func() {
			if found {
				f.leaving[node] = true
			}
		}()
	}
	if call, ok := m.Interface().(*pg.FuncCall); ok && leaves(call) {
		found = true
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.Message() == nil || !m.Has(fd):
		case !fd.IsList():
			found = f.markLeaving(m.Get(fd).Message()) || found
		default:
			for j, list := 0, m.Get(fd).List(); j < list.Len(); j++ {
				found = f.markLeaving(list.Get(j).Message()) || found
			}
		}
	}
	return found
}

// storeAssignment takes a value, but for the column that it is written to.
func (f *flow) storeAssignment(column string, value *pg.Node, own []string) {
	inspect(value, func(m proto.Message) bool {
		ref, ok := m.(*pg.ColumnRef)
		if !ok {
			return f.depends(m)
		}
		names := stringsOf(ref.GetFields())
		itself := last(names) == column && (len(names) == 1 || len(names) == 2 && slices.Contains(own, names[0]))
		if !itself {
			f.column(ref)
		}
		return false
	})
}

// storeOutput takes what goes on to another query or into a table. What goes to
// the agent is masked; only functions that keep values matter there.
func (f *flow) storeOutput(t *pg.ResTarget, as place) {
	if as == toQuery || as == toValues {
		f.use(t.GetVal())
		return
	}
	if !f.leaving[t.GetVal()] {
		return
	}
	inspect(t.GetVal(), func(m proto.Message) bool {
		if call, ok := m.(*pg.FuncCall); ok && leaves(call) {
			f.use(call.GetArgs()...)
		}
		return true
	})
}

// storeFile takes what COPY writes to a file or a program.
func (f *flow) storeFile(n *pg.CopyStmt) {
	as := toAgent
	if n.GetIsProgram() || n.GetFilename() != "" {
		as = toValues
	}
	f.statement(n.GetQuery(), as)
	f.condition(n.GetWhereClause())
	if as == toAgent || n.GetIsFrom() || n.GetRelation() == nil {
		return
	}
	f.rows = f.rows || len(n.GetAttlist()) == 0
	for _, name := range stringsOf(n.GetAttlist()) {
		f.take(name)
	}
}

// storeDefinition takes what a definition computes from columns now, and what
// the actions of a rule will.
func (f *flow) storeDefinition(node *pg.Node) {
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.AlterTableCmd:
			if n.GetSubtype() == pg.AlterTableType_AT_AlterColumnType {
				f.assign(n.GetName(), n.GetDef().GetColumnDef().GetRawDefault(), nil)
			}
		case *pg.Constraint:
			if n.GetContype() == pg.ConstrType_CONSTR_GENERATED {
				f.use(n.GetRawExpr())
			}
		case *pg.PublicationObjSpec:
			f.published(n)
		case *pg.CreatePublicationStmt:
			f.rows = f.rows || n.GetForAllTables()
		case *pg.RuleStmt:
			f.condition(n.GetWhereClause())
			for _, action := range n.GetActions() {
				f.statement(action, toAgent)
			}
			return false
		case *pg.FuncCall:
			if leaves(n) {
				f.use(n.GetArgs()...)
			}
		}
		return true
	})
}

// published takes what a publication sends to subscribers.
func (f *flow) published(n *pg.PublicationObjSpec) {
	columns := stringsOf(n.GetPubtable().GetColumns())
	f.rows = f.rows || len(columns) == 0
	for _, name := range columns {
		f.take(name)
	}
}
