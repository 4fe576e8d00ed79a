package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Definitions are the facts behind [Statement.Redefines] and
// [Statement.MayRedefine]. The lists are sorted.
type Definitions struct {
	// Tables are relations, as named, whose make-up changes, and those that the
	// SQL body of a function that is created reads or writes.
	Tables []string
	// Heirs are relations, as named, whose defaults, constraints or triggers hold for
	// another relation or under another name behind the statement: LIKE, INHERITS,
	// PARTITION OF, ATTACH, RENAME, SET SCHEMA, the query of a view. So do those of which
	// EXPLAIN plans a write.
	Heirs []string
	// Schemas are those that get another name or owner.
	Schemas []string
	// Hidden tells that code is stored which the upstream may run later without
	// being told, and which cannot be looked into: the body of a function that is
	// not in SQL, a cast, an event trigger.
	Hidden bool
	// Elsewhere tells that relations may change that are not named: the tables of
	// a type, everything that a role owns, the system's own catalog.
	Elsewhere bool
	// Runs tells that a query is stored that names code of users: a view or a policy
	// runs it later.
	Runs bool
}

// Redefines returns the relations, as named, and the schemas of which the
// statement changes the name, the columns' names, types or expressions, the
// inheritance or partitions, the rules, triggers, row security or owner: what
// was known of them, and what masks say of them by name, may not hold behind
// it. A function with a body in SQL counts for the relations in its body.
//
// It names nothing for what the catalog shows by itself once it has happened: a
// view, a materialized view, a table that is created as a child or a partition
// of another, a column that is added. Nor for a relation that is dropped, since
// its data is gone, nor for indexes and statistics. Where
// [Statement.MayRedefine] is true the lists are not all.
func (s *Statement) Redefines() (tables, schemas []string) {
	if s == nil {
		return nil, nil
	}
	return s.Definitions.Tables, s.Definitions.Schemas
}

// MayRedefine reports whether the statement may redefine relations that
// [Statement.Redefines] does not name, or store code that runs unseen later.
// False only where that is certain, but for functions of users: what those do
// is a matter of their definition.
func (s *Statement) MayRedefine() bool {
	if s == nil || s.Does(Unknown) || s.Does(Do) || s.Does(Call) || s.Does(Execute) {
		return true
	}
	return s.Definitions.Hidden || s.Definitions.Elsewhere || s.Does(Opaque) && !s.Does(UserFunction)
}

// maxBodies bounds the function bodies of one text that are parsed: each takes
// the parser once more. Beyond it they are hidden.
const maxBodies = 64

// definitions collects Definitions.
type definitions struct {
	tables, heirs, schemas map[string]bool
	// bodies is how many more bodies may be parsed for the whole text; nil for
	// none.
	bodies *int
	Definitions
}

func (d *definitions) table(rel *pg.RangeVar) { d.named(relationName(rel)) }

func (d *definitions) named(name string) {
	if name == "" {
		return
	}
	if d.tables == nil {
		d.tables = map[string]bool{}
	}
	d.tables[name] = true
}

func (d *definitions) heir(rel *pg.RangeVar) {
	if name := relationName(rel); name != "" {
		d.heirNamed(name)
	}
}

func (d *definitions) heirNamed(name string) {
	if d.heirs == nil {
		d.heirs = map[string]bool{}
	}
	d.heirs[name] = true
}

func (d *definitions) schema(name string) {
	if d.schemas == nil {
		d.schemas = map[string]bool{}
	}
	d.schemas[name] = true
}

// absorb takes what a statement inside defines.
func (d *definitions) absorb(inner *Definitions) {
	for _, name := range inner.Tables {
		d.named(name)
	}
	for _, name := range inner.Heirs {
		d.heirNamed(name)
	}
	for _, name := range inner.Schemas {
		d.schema(name)
	}
	d.Hidden, d.Elsewhere, d.Runs = d.Hidden || inner.Hidden, d.Elsewhere || inner.Elsewhere, d.Runs || inner.Runs
}

func (d *definitions) finish() Definitions {
	d.Tables, d.Heirs, d.Schemas = sorted(d.tables), sorted(d.heirs), sorted(d.schemas)
	return d.Definitions
}

// note looks at one message of the syntax tree.
func (d *definitions) note(m proto.Message) {
	switch n := m.(type) {
	case *pg.AlterTableStmt:
		d.alter(n)
	case *pg.CreateStmt:
		if slices.ContainsFunc(n.GetTableElts(), generated) {
			d.table(n.GetRelation())
		}
		for _, parent := range n.GetInhRelations() {
			d.heir(parent.GetRangeVar())
		}
	case *pg.TableLikeClause:
		d.heir(n.GetRelation())
	case *pg.ViewStmt: // what is written to the view goes to its relation
		inspect(n.GetQuery(), func(m proto.Message) bool {
			if rel, ok := m.(*pg.RangeVar); ok {
				d.heir(rel)
			}
			return true
		})
	case *pg.RenameStmt:
		d.rename(n)
		if slices.Contains(relationTypes, n.GetRenameType()) {
			d.heir(n.GetRelation())
		}
	case *pg.AlterObjectSchemaStmt:
		d.table(n.GetRelation())
		d.heir(n.GetRelation())
	case *pg.AlterOwnerStmt:
		if n.GetObjectType() == pg.ObjectType_OBJECT_SCHEMA {
			d.schema(n.GetObject().GetString_().GetSval())
		}
	case *pg.RuleStmt:
		d.table(n.GetRelation())
	case *pg.CreateTrigStmt:
		d.table(n.GetRelation())
		d.table(n.GetConstrrel())
	case *pg.CreatePolicyStmt:
		d.table(n.GetTable())
	case *pg.AlterPolicyStmt:
		d.table(n.GetTable())
	case *pg.DropStmt:
		d.drop(n)
	case *pg.CreateFunctionStmt:
		d.function(n)
	case *pg.CreateCastStmt, *pg.CreateEventTrigStmt, *pg.AlterEventTrigStmt, *pg.CreateExtensionStmt,
		*pg.AlterExtensionStmt, *pg.CreateConversionStmt, *pg.CreateOpClassStmt, *pg.AlterOpFamilyStmt:
		d.Hidden = true
	case *pg.CreatePublicationStmt:
		d.Elsewhere = d.Elsewhere || n.GetForAllTables()
	case *pg.PublicationObjSpec: // all tables of a schema, whatever its name
		d.Elsewhere = d.Elsewhere || n.GetPubtable() == nil
	case *pg.DefineStmt:
		d.Hidden = d.Hidden || wrapsCode(n.GetKind())
	case *pg.AlterTypeStmt, *pg.DropOwnedStmt, *pg.ReassignOwnedStmt:
		d.Elsewhere = true
	}
}

// wrapsCode reports whether CREATE of that kind gives a function another name.
func wrapsCode(kind pg.ObjectType) bool {
	return kind == pg.ObjectType_OBJECT_AGGREGATE || kind == pg.ObjectType_OBJECT_OPERATOR || kind == pg.ObjectType_OBJECT_TYPE
}

// followed are the kinds of ALTER TABLE that change nothing that anybody else
// has to know of, or only what the catalog shows. Constraints, defaults and
// added columns are looked into.
var followed = []pg.AlterTableType{
	pg.AlterTableType_AT_AddColumn,
	pg.AlterTableType_AT_ColumnDefault,
	pg.AlterTableType_AT_DropNotNull,
	pg.AlterTableType_AT_SetNotNull,
	pg.AlterTableType_AT_SetStatistics,
	pg.AlterTableType_AT_SetOptions,
	pg.AlterTableType_AT_ResetOptions,
	pg.AlterTableType_AT_SetStorage,
	pg.AlterTableType_AT_SetCompression,
	pg.AlterTableType_AT_DropColumn,
	pg.AlterTableType_AT_AddConstraint,
	pg.AlterTableType_AT_AlterConstraint,
	pg.AlterTableType_AT_ValidateConstraint,
	pg.AlterTableType_AT_AddIndexConstraint,
	pg.AlterTableType_AT_DropConstraint,
	pg.AlterTableType_AT_ClusterOn,
	pg.AlterTableType_AT_DropCluster,
	pg.AlterTableType_AT_SetLogged,
	pg.AlterTableType_AT_SetUnLogged,
	pg.AlterTableType_AT_SetAccessMethod,
	pg.AlterTableType_AT_SetTableSpace,
	pg.AlterTableType_AT_SetRelOptions,
	pg.AlterTableType_AT_ResetRelOptions,
	pg.AlterTableType_AT_AddIdentity,
	pg.AlterTableType_AT_SetIdentity,
	pg.AlterTableType_AT_DropIdentity,
}

func (d *definitions) alter(n *pg.AlterTableStmt) {
	switch n.GetObjtype() {
	case pg.ObjectType_OBJECT_INDEX, pg.ObjectType_OBJECT_SEQUENCE:
		return
	case pg.ObjectType_OBJECT_TYPE: // the columns of every table OF that type
		d.Elsewhere = true
	case pg.ObjectType_OBJECT_VIEW, pg.ObjectType_OBJECT_MATVIEW:
		d.table(n.GetRelation())
	}
	for _, c := range n.GetCmds() {
		cmd := c.GetAlterTableCmd()
		if slices.Contains(followed, cmd.GetSubtype()) && !generated(cmd.GetDef()) && !acts(cmd.GetDef()) {
			continue
		}
		d.table(n.GetRelation())
		d.table(cmd.GetDef().GetRangeVar())
		d.table(cmd.GetDef().GetPartitionCmd().GetName())
		switch cmd.GetSubtype() {
		case pg.AlterTableType_AT_AddInherit:
			d.heir(n.GetRelation())
		case pg.AlterTableType_AT_AttachPartition:
			d.heir(n.GetRelation())
			d.heir(cmd.GetDef().GetPartitionCmd().GetName())
		}
	}
}

// generated reports whether a column is computed from others.
func generated(n *pg.Node) bool {
	return slices.ContainsFunc(n.GetColumnDef().GetConstraints(), func(c *pg.Node) bool {
		return c.GetConstraint().GetContype() == pg.ConstrType_CONSTR_GENERATED
	})
}

// acts reports whether an expression calls a function that does more than
// compute: in a constraint or a default it would run unseen.
func acts(n *pg.Node) bool {
	found := false
	inspect(n, func(m proto.Message) bool {
		if call, ok := m.(*pg.FuncCall); ok {
			parts := stringsOf(call.GetFuncname())
			found = found || last(parts) == "set_config" || !isBuiltin(parts) ||
				last(parts) != "nextval" && len(functionEffects(last(parts))) > 0
		}
		return !found
	})
	return found
}

// rename notes a relation or schema that gets another name, or one of its
// columns. Indexes, constraints and the like may be called anything.
func (d *definitions) rename(n *pg.RenameStmt) {
	switch n.GetRenameType() {
	case pg.ObjectType_OBJECT_SCHEMA:
		d.schema(n.GetSubname())
	case pg.ObjectType_OBJECT_ATTRIBUTE:
		d.Elsewhere = true
	case pg.ObjectType_OBJECT_INDEX, pg.ObjectType_OBJECT_SEQUENCE, pg.ObjectType_OBJECT_TABCONSTRAINT,
		pg.ObjectType_OBJECT_TRIGGER, pg.ObjectType_OBJECT_RULE, pg.ObjectType_OBJECT_POLICY:
		// ALTER INDEX takes the name of a table too.
		if n.GetRenameType() != pg.ObjectType_OBJECT_TABCONSTRAINT {
			d.table(n.GetRelation())
		}
	case pg.ObjectType_OBJECT_FUNCTION, pg.ObjectType_OBJECT_PROCEDURE, pg.ObjectType_OBJECT_ROUTINE,
		pg.ObjectType_OBJECT_AGGREGATE:
		d.Hidden = true // it may take the name of a function that others call
	default:
		d.table(n.GetRelation())
	}
}

// drop notes the relation that a rule, a trigger or a policy is taken from.
func (d *definitions) drop(n *pg.DropStmt) {
	switch n.GetRemoveType() {
	case pg.ObjectType_OBJECT_RULE, pg.ObjectType_OBJECT_TRIGGER, pg.ObjectType_OBJECT_POLICY:
		for _, o := range n.GetObjects() {
			if parts := stringsOf(o.GetList().GetItems()); len(parts) > 1 {
				d.named(qualified(parts[:len(parts)-1]...))
			}
		}
	}
}

// function notes what the body of a function reads and writes.
func (d *definitions) function(n *pg.CreateFunctionStmt) {
	inSQL := n.GetSqlBody() != nil
	var body string
	for _, o := range n.GetOptions() {
		switch e := o.GetDefElem(); e.GetDefname() {
		case "language":
			inSQL = inSQL || strings.EqualFold(e.GetArg().GetString_().GetSval(), "sql")
		case "as":
			if list := stringsOf(e.GetArg().GetList().GetItems()); len(list) == 1 {
				body = list[0]
			}
		}
	}
	if !inSQL {
		d.Hidden = true
		return
	}
	if n.GetSqlBody() != nil {
		d.code(n.GetSqlBody())
		return
	}
	d.text(body)
}

// code notes the relations in a piece of a function's body.
func (d *definitions) code(node *pg.Node) {
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.RangeVar:
			d.table(n) // the names of WITH queries too: one too many does not matter
		case *pg.FuncCall:
			parts := stringsOf(n.GetFuncname())
			d.Hidden = d.Hidden || !isBuiltin(parts) || slices.Contains(functionEffects(last(parts)), Opaque)
		case *pg.CreateFunctionStmt, *pg.DoStmt, *pg.CallStmt, *pg.ExecuteStmt:
			d.Hidden = true
		default:
			d.note(m)
		}
		return true
	})
}

// text notes the relations in a body that is a string.
func (d *definitions) text(body string) {
	if d.bodies == nil || *d.bodies <= 0 {
		d.Hidden = true
		return
	}
	*d.bodies--
	sh := scan(body)
	if len(body) > DefaultMaxText || sh.depth > maxDepth || sh.tokens > maxTokens {
		d.Hidden = true
		return
	}
	tree, err := parseTree(body, sh)
	if err != nil {
		d.Hidden = true
		return
	}
	for _, raw := range tree.GetStmts() {
		d.code(raw.GetStmt())
	}
}
