package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// visitDefinition handles what definitions change, by the object's name.
func (w *walker) visitDefinition(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.DropStmt:
		w.drop(n)
		return true
	case *pg.DropdbStmt:
		w.object("database", n.GetDbname(), true)
	case *pg.CreatedbStmt:
		w.object("database", n.GetDbname(), true)
	case *pg.AlterDatabaseStmt:
		w.object("database", n.GetDbname(), true)
	case *pg.AlterDatabaseSetStmt:
		w.object("database", n.GetDbname(), true)
	case *pg.CreateRoleStmt:
		w.object("role", n.GetRole(), true)
	case *pg.RoleSpec:
		w.object("role", n.GetRolename(), false)
	case *pg.CreateSchemaStmt:
		w.object("schema", n.GetSchemaname(), true)
	case *pg.CreateExtensionStmt:
		w.object("extension", n.GetExtname(), true)
	case *pg.AlterDomainStmt:
		if n.GetSubtype() == "V" { // runs what the constraint says
			w.object("type", qualified(stringsOf(n.GetTypeName())...), true)
		}
	case *pg.RenameStmt:
		w.rename(n)
	case *pg.AlterTableCmd:
		w.alterTable(n)
	case *pg.CreateFunctionStmt:
		w.createFunction(n)
	case *pg.GrantStmt:
		w.grant(n)
		return false
	case *pg.DefineStmt:
		if wrapsCode(n.GetKind()) {
			w.add(Code)
		}
	case *pg.CreateSeqStmt:
		w.defines(n.GetSequence())
		return w.rest(n, "sequence")
	case *pg.AlterSeqStmt:
		w.defines(n.GetSequence())
		return w.rest(n, "sequence")
	case *pg.ViewStmt:
		w.defines(n.GetView())
		return w.rest(n, "view")
	}
	return w.changed(m)
}

// changed notes the relation that a definition changes.
func (w *walker) changed(m proto.Message) bool {
	related, ok := m.(interface{ GetRelation() *pg.RangeVar })
	if !ok || related.GetRelation() == nil {
		return false
	}
	if k, isStatement := kindOf(string(m.ProtoReflect().Descriptor().Name())); !isStatement || k.verb != DDL {
		return false
	}
	w.defines(related.GetRelation())
	return w.rest(m, "relation")
}

// defines notes a relation that a statement defines or alters, even where what
// is inside the statement is only stored.
func (w *walker) defines(rel *pg.RangeVar) {
	stored := w.stored
	w.stored = false
	w.target(rel)
	w.stored = stored
}

// grant notes the relations whose privileges change.
func (w *walker) grant(n *pg.GrantStmt) {
	for _, o := range n.GetObjects() {
		if rel := o.GetRangeVar(); rel != nil {
			w.target(rel)
		}
	}
}

// relationTypes are the kinds of DROP whose objects are relations.
var relationTypes = []pg.ObjectType{
	pg.ObjectType_OBJECT_FOREIGN_TABLE,
	pg.ObjectType_OBJECT_INDEX,
	pg.ObjectType_OBJECT_MATVIEW,
	pg.ObjectType_OBJECT_SEQUENCE,
	pg.ObjectType_OBJECT_TABLE,
	pg.ObjectType_OBJECT_VIEW,
}

func (w *walker) drop(n *pg.DropStmt) {
	kind := strings.ToLower(strings.TrimPrefix(n.GetRemoveType().String(), "OBJECT_"))
	switch {
	case slices.Contains(relationTypes, n.GetRemoveType()):
		kind = "table"
	case n.GetRemoveType() == pg.ObjectType_OBJECT_POLICY:
		w.add(DCL)
	case n.GetRemoveType() == pg.ObjectType_OBJECT_FDW, n.GetRemoveType() == pg.ObjectType_OBJECT_FOREIGN_SERVER:
		w.add(System)
	}
	for _, o := range n.GetObjects() {
		w.object(kind, objectName(o), true)
	}
}

// objectName renders the name in any of the forms that a DROP has.
func objectName(n *pg.Node) string {
	switch {
	case n.GetString_() != nil:
		return qualified(n.GetString_().GetSval())
	case n.GetList() != nil:
		return qualified(stringsOf(n.GetList().GetItems())...)
	case n.GetObjectWithArgs() != nil:
		return qualified(stringsOf(n.GetObjectWithArgs().GetObjname())...)
	case n.GetTypeName() != nil:
		return qualified(stringsOf(n.GetTypeName().GetNames())...)
	}
	return ""
}

func (w *walker) rename(n *pg.RenameStmt) {
	switch n.GetRenameType() {
	case pg.ObjectType_OBJECT_ROLE:
		w.add(DCL)
		w.object("role", n.GetSubname(), true)
	case pg.ObjectType_OBJECT_DATABASE:
		w.object("database", n.GetSubname(), true)
	case pg.ObjectType_OBJECT_SCHEMA:
		w.object("schema", n.GetSubname(), true)
	case pg.ObjectType_OBJECT_AGGREGATE, pg.ObjectType_OBJECT_FUNCTION, pg.ObjectType_OBJECT_PROCEDURE,
		pg.ObjectType_OBJECT_ROUTINE:
		w.add(Code)
	}
}

func (w *walker) alterTable(n *pg.AlterTableCmd) {
	switch n.GetSubtype() {
	case pg.AlterTableType_AT_DropColumn:
		w.add(Drop)
	case pg.AlterTableType_AT_ChangeOwner,
		pg.AlterTableType_AT_EnableRowSecurity, pg.AlterTableType_AT_DisableRowSecurity,
		pg.AlterTableType_AT_ForceRowSecurity, pg.AlterTableType_AT_NoForceRowSecurity:
		w.add(DCL)
	case pg.AlterTableType_AT_EnableTrig, pg.AlterTableType_AT_EnableAlwaysTrig, pg.AlterTableType_AT_EnableReplicaTrig,
		pg.AlterTableType_AT_EnableTrigAll, pg.AlterTableType_AT_EnableTrigUser,
		pg.AlterTableType_AT_EnableRule, pg.AlterTableType_AT_EnableAlwaysRule, pg.AlterTableType_AT_EnableReplicaRule:
		w.add(Opaque, UserFunction) // it runs from now on
	}
}

// createFunction notes native code, which the server would load.
func (w *walker) createFunction(n *pg.CreateFunctionStmt) {
	w.stored = false
	defer func() { w.stored = true }()
	w.object("function", qualified(stringsOf(n.GetFuncname())...), true)
	for _, o := range n.GetOptions() {
		d := o.GetDefElem()
		if d.GetDefname() != "language" {
			continue
		}
		if lang := strings.ToLower(d.GetArg().GetString_().GetSval()); lang == "c" || lang == "internal" {
			w.add(System)
		}
	}
}

// systemRows notes a write to the rows of the system's catalog: it defines, gives
// rights and changes what the server knows, without the command for it. Only a
// superuser may do it.
func (w *walker) systemRows(m proto.Message) {
	var target *pg.RangeVar
	switch n := m.(type) {
	case *pg.CopyStmt:
		if n.GetIsFrom() {
			target = n.GetRelation()
		}
	case *pg.InsertStmt:
		target = n.GetRelation()
	case *pg.UpdateStmt:
		target = n.GetRelation()
	case *pg.DeleteStmt:
		target = n.GetRelation()
	case *pg.MergeStmt:
		target = n.GetRelation()
	}
	switch schema := target.GetSchemaname(); {
	case target.GetRelname() == "pg_settings": // unknown
	case schema == "pg_catalog", schema == "pg_toast", schema == "" && strings.HasPrefix(target.GetRelname(), "pg_"):
		w.add(DDL, DCL, System)
		w.defined.Elsewhere = true
	}
}
