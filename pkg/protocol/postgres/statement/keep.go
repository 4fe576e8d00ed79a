package statement

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// keeps reports whether a definition leaves every relation that it does not drop
// as it was but for new columns, and defines nothing that shows another one's
// data; adds whether there is something new behind it.
func keeps(node *pg.Node) (keeps, adds bool) {
	switch {
	case node.GetCreateStmt() != nil, node.GetCreateSeqStmt() != nil:
		return true, true
	case node.GetCreateTableAsStmt() != nil:
		table := node.GetCreateTableAsStmt().GetObjtype() == pg.ObjectType_OBJECT_TABLE
		return table, table
	case node.GetSelectStmt() != nil:
		into := node.GetSelectStmt().GetIntoClause() != nil
		return into, into
	case node.GetAlterTableStmt() != nil:
		table := keepsTable(node.GetAlterTableStmt())
		return table, table
	case node.GetIndexStmt() != nil, node.GetAlterSeqStmt() != nil, node.GetCommentStmt() != nil,
		node.GetReindexStmt() != nil, node.GetRefreshMatViewStmt() != nil:
		return true, false
	case node.GetDropStmt() != nil:
		return slices.Contains(relationTypes, node.GetDropStmt().GetRemoveType()), false
	}
	return false, false
}

// keptTypes are the changes of a table that leave its columns, and all other relations,
// what they are. Behind DROP COLUMN the name may be that of a function of the row.
var keptTypes = []pg.AlterTableType{
	pg.AlterTableType_AT_AddConstraint, pg.AlterTableType_AT_DropConstraint,
	pg.AlterTableType_AT_DropNotNull, pg.AlterTableType_AT_SetNotNull, pg.AlterTableType_AT_SetStatistics,
	pg.AlterTableType_AT_SetStorage, pg.AlterTableType_AT_ValidateConstraint,
}

func keepsTable(n *pg.AlterTableStmt) bool {
	return n.GetObjtype() == pg.ObjectType_OBJECT_TABLE && !slices.ContainsFunc(n.GetCmds(), func(node *pg.Node) bool {
		c := node.GetAlterTableCmd()
		if c.GetSubtype() == pg.AlterTableType_AT_AddColumn {
			return !plainColumn(c.GetDef().GetColumnDef())
		}
		return !slices.Contains(keptTypes, c.GetSubtype())
	})
}

// plainColumn reports whether a column is not computed from others.
func plainColumn(n *pg.ColumnDef) bool {
	return n != nil && !slices.ContainsFunc(n.GetConstraints(), func(c *pg.Node) bool {
		return c.GetConstraint() == nil || c.GetConstraint().GetContype() == pg.ConstrType_CONSTR_GENERATED
	})
}

// names returns the names that a statement gives itself, to outputs, rows and
// functions: what a column of that name is depends on nothing that it reads.
func names(node *pg.Node) []string {
	found := map[string]bool{}
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.SelectStmt:
			for _, t := range n.GetTargetList() {
				found[t.GetResTarget().GetName()] = true
				found[last(stringsOf(t.GetResTarget().GetVal().GetFuncCall().GetFuncname()))] = true
			}
		case *pg.Alias:
			found[n.GetAliasname()] = true
			for _, name := range stringsOf(n.GetColnames()) {
				found[name] = true
			}
		case *pg.CommonTableExpr:
			for _, name := range stringsOf(n.GetAliascolnames()) {
				found[name] = true
			}
		case *pg.RangeVar:
			found[n.GetRelname()] = true
		}
		return true
	})
	delete(found, "")
	return sorted(found)
}
