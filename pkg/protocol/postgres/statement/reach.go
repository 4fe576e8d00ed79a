package statement

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Reach tells how far the objects of a statement are all that it touches. The zero
// Reach tells nothing.
type Reach struct {
	// Whole tells that Objects has every relation that the statement reads or
	// changes by its own words, or from which the catalog leads to the others: views,
	// partitions, foreign keys. It is false for CASCADE, for all tables of a schema, and
	// for whatever is not listed below. Code that the statement runs is no part of
	// it.
	Whole bool
	// Creates is the relation, as Objects has it, that the statement creates, and
	// Temporary tells that it is created in the schema of the session.
	Creates   string
	Temporary bool
	// Again tells that the same name stands in it once more: what is read by it is
	// another relation, which is there already.
	Again bool
	// Leads tells that what it adds leads from one relation to another: a child, a
	// partition, a foreign key.
	Leads bool
}

// reachOf returns the reach of a statement.
func reachOf(node *pg.Node) Reach {
	switch {
	case node.GetPrepareStmt() != nil:
		return reachOf(node.GetPrepareStmt().GetQuery())
	case node.GetDeclareCursorStmt() != nil:
		return reachOf(node.GetDeclareCursorStmt().GetQuery())
	case node.GetExplainStmt() != nil:
		return reachOf(node.GetExplainStmt().GetQuery())
	}
	r := Reach{Whole: whole(node), Leads: leads(node)}
	if rel := created(node); rel != nil {
		r.Creates, r.Temporary = relationName(rel), rel.GetRelpersistence() == "t" || rel.GetSchemaname() == "pg_temp"
		r.Again = again(node, rel)
	}
	return r
}

// again is the fact behind [Reach.Again]. A WITH query of that name counts, too: it
// may be out of scope.
func again(node *pg.Node, created *pg.RangeVar) bool {
	found := false
	inspect(node, func(m proto.Message) bool {
		n, ok := m.(*pg.RangeVar)
		found = found || ok && n != created && relationName(n) == relationName(created)
		return !found
	})
	return found
}

// created returns the relation that a statement creates; nil if it creates none.
func created(node *pg.Node) *pg.RangeVar {
	switch {
	case node.GetCreateStmt() != nil:
		return node.GetCreateStmt().GetRelation()
	case node.GetCreateForeignTableStmt() != nil:
		return node.GetCreateForeignTableStmt().GetBaseStmt().GetRelation()
	case node.GetCreateTableAsStmt() != nil:
		return node.GetCreateTableAsStmt().GetInto().GetRel()
	case node.GetSelectStmt() != nil:
		return node.GetSelectStmt().GetIntoClause().GetRel()
	case node.GetViewStmt() != nil:
		return node.GetViewStmt().GetView()
	case node.GetCreateSeqStmt() != nil:
		return node.GetCreateSeqStmt().GetSequence()
	}
	return nil
}

// wholeKinds are the statements whose relations all stand in them, or that touch
// none, by the names of the syntax tree.
var wholeKinds = []string{
	"AlterDatabaseSetStmt", "AlterDatabaseStmt", "AlterEnumStmt", "AlterPolicyStmt", "AlterRoleSetStmt", "AlterRoleStmt",
	"CallStmt", "CheckPointStmt", "ClosePortalStmt", "CompositeTypeStmt", "ConstraintsSetStmt", "CopyStmt",
	"CreateDomainStmt", "CreateEnumStmt", "CreateForeignTableStmt", "CreateFunctionStmt", "CreatePolicyStmt",
	"CreateRangeStmt", "CreateRoleStmt", "CreateStatsStmt", "CreateStmt", "CreateTableAsStmt",
	"CreateTrigStmt", "CreatedbStmt", "DeallocateStmt", "DeleteStmt", "DiscardStmt", "ExecuteStmt", "FetchStmt",
	"GrantRoleStmt", "IndexStmt", "InsertStmt", "ListenStmt", "LockStmt", "MergeStmt", "NotifyStmt", "RefreshMatViewStmt",
	"RuleStmt", "SelectStmt", "TransactionStmt", "TruncateStmt", "UnlistenStmt", "UpdateStmt", "VariableSetStmt",
	"VariableShowStmt", "ViewStmt",
}

// whole is the fact behind [Reach.Whole].
func whole(node *pg.Node) bool {
	switch {
	case node.GetAlterTableStmt() != nil:
		return wholeAlter(node.GetAlterTableStmt())
	case node.GetDropStmt() != nil:
		n := node.GetDropStmt()
		return slices.Contains(relationTypes, n.GetRemoveType()) && n.GetBehavior() != pg.DropBehavior_DROP_CASCADE
	case node.GetRenameStmt() != nil:
		return slices.Contains(renamedInPlace, node.GetRenameStmt().GetRenameType()) && node.GetRenameStmt().GetRelation() != nil
	case node.GetAlterObjectSchemaStmt() != nil:
		return node.GetAlterObjectSchemaStmt().GetRelation() != nil
	case node.GetCreateSchemaStmt() != nil:
		return len(node.GetCreateSchemaStmt().GetSchemaElts()) == 0
	case node.GetGrantStmt() != nil:
		return node.GetGrantStmt().GetTargtype() == pg.GrantTargetType_ACL_TARGET_OBJECT
	case node.GetVacuumStmt() != nil:
		return len(node.GetVacuumStmt().GetRels()) > 0
	case node.GetClusterStmt() != nil:
		return node.GetClusterStmt().GetRelation() != nil
	case node.GetReindexStmt() != nil:
		return node.GetReindexStmt().GetRelation() != nil
	case node.GetCreateSeqStmt() != nil:
		return !owned(node.GetCreateSeqStmt().GetOptions())
	case node.GetAlterSeqStmt() != nil:
		return !owned(node.GetAlterSeqStmt().GetOptions())
	}
	m, ok := content(node)
	if !ok {
		return false
	}
	_, ok = slices.BinarySearch(wholeKinds, string(m.Descriptor().Name()))
	return ok
}

// renamedInPlace are the kinds of RENAME that are about the relation that they name.
var renamedInPlace = append(slices.Clone(relationTypes),
	pg.ObjectType_OBJECT_COLUMN, pg.ObjectType_OBJECT_POLICY, pg.ObjectType_OBJECT_RULE,
	pg.ObjectType_OBJECT_TABCONSTRAINT, pg.ObjectType_OBJECT_TRIGGER)

func wholeAlter(n *pg.AlterTableStmt) bool {
	return slices.Contains(relationTypes, n.GetObjtype()) && !slices.ContainsFunc(n.GetCmds(), func(c *pg.Node) bool {
		return c.GetAlterTableCmd() == nil || c.GetAlterTableCmd().GetBehavior() == pg.DropBehavior_DROP_CASCADE
	})
}

// owned reports whether a sequence is given to a column, of a table that is named by
// text only.
func owned(options []*pg.Node) bool {
	return slices.ContainsFunc(options, func(o *pg.Node) bool { return o.GetDefElem().GetDefname() == "owned_by" })
}

// leads is the fact behind [Reach.Leads].
func leads(node *pg.Node) bool {
	found := false
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.CreateStmt:
			found = found || len(n.GetInhRelations()) > 0 || n.GetPartbound() != nil
		case *pg.Constraint:
			found = found || n.GetContype() == pg.ConstrType_CONSTR_FOREIGN
		}
		return !found
	})
	return found
}
