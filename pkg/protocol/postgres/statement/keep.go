package statement

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// keeps reports whether a definition leaves every relation that it does not drop
// as it was, and defines nothing that shows another one's data.
func keeps(node *pg.Node) bool {
	switch {
	case node.GetCreateStmt() != nil, node.GetIndexStmt() != nil, node.GetCreateSeqStmt() != nil,
		node.GetAlterSeqStmt() != nil, node.GetCommentStmt() != nil:
		return true
	case node.GetCreateTableAsStmt() != nil:
		return node.GetCreateTableAsStmt().GetObjtype() == pg.ObjectType_OBJECT_TABLE
	case node.GetSelectStmt() != nil:
		return node.GetSelectStmt().GetIntoClause() != nil
	case node.GetDropStmt() != nil:
		return slices.Contains(relationTypes, node.GetDropStmt().GetRemoveType())
	}
	return false
}
