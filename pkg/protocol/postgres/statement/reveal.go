package statement

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Mentions are the facts about names that masking needs. Names are folded as
// PostgreSQL folds them. All lists are sorted.
//
// PostgreSQL's RowDescription gives table and attribute number for a column
// that is handed through plainly, be it under another name, through subqueries,
// WITH queries, lateral joins or a cursor, and zero for everything computed.
type Mentions struct {
	// Columns are all column names that the statement refers to, anywhere.
	Columns []string
	// Computed are the column names that a computed output may depend on. An
	// output is computed if it is no plain column: an expression, an arm of a
	// set operation, a merged column of a join.
	Computed []string
	// Outputs are the outputs of a SELECT one by one, if there are more than one
	// and each is one column of the result; see [Statement.Only].
	Outputs []Output
	// Given are the names that the statement itself gives: to outputs, to what is
	// in FROM and to its columns. It is empty if Computed is.
	Given []string
	// Fields are the names behind a dot. One that is no column of its table is
	// a function of the whole row, t.f for f(t), and its definition decides
	// what it does; whoever knows the catalog can tell.
	Fields []string
	// Attributes are those of Fields that the statement itself does not show to
	// be columns, as it does for the outputs of its subqueries. Where the named
	// tables have no such column either, each is a function of a whole row.
	Attributes []Attribute
	// Operators are the names of operators without a schema or in pg_catalog, as
	// named, and of those that the grammar stands for: BETWEEN, IN, LIKE, CASE with an operand, USING.
	Operators []string
	// Star tells that a "*" selects columns without their names.
	Star bool
	// WholeRow tells that a computed output may hold whole rows.
	WholeRow bool
	// RowNamed tells that one of Columns is also the name of a table, a subquery
	// or a WITH query, and so may stand for whole rows.
	RowNamed bool
	// Renamed tells that an alias renames the columns of a table, so that
	// Computed may hold a new name for an old column.
	Renamed bool
	// Statistics tells that a catalog relation is read that keeps samples of
	// column values, such as pg_stats. Its plain columns show them.
	Statistics bool
	// Weighed are the column names that decide on more than their own output, and
	// WeighsRows tells that all columns of something do; see [Statement.MayInfer].
	Weighed    []string
	WeighsRows bool
	// Stored are the column names that values depend on which are stored or sent,
	// and StoresRows tells that whole rows are; see [Statement.MayCopy].
	Stored     []string
	StoresRows bool
	// Written are the columns that get values, and WritesRows tells that all
	// columns of a table do; see [Statement.MayCollide].
	Written    []string
	WritesRows bool
	// Leaves tells that a function gets an argument that is no literal and no
	// parameter, and keeps or sends it where no mask follows: set_config, the
	// keys of advisory locks, pg_notify, large objects, the seed of random.
	Leaves bool
	// Quotes tells that a function is called that shows the text of a definition;
	// see [QuotingFunctions]. WeighsQuoted tells that such a text decides on more
	// than its own output, StoresQuoted that it is stored or sent.
	Quotes, WeighsQuoted, StoresQuoted bool
}

// MayReveal reports whether an output that RowDescription gives no table for
// may carry data of a column that protected names. It is false only where that
// is certain. protected takes a folded column name without its table: call it
// with the protected columns of the tables that the statement can reach.
//
// Not covered: what a statement tells by the rows that it selects (WHERE on a
// protected column), views, which have columns of their own, and Attributes
// that are functions. EXECUTE and FETCH may reveal anything: ask the statement that
// they name. COPY TO has no RowDescription, so each of its columns counts.
func (s *Statement) MayReveal(protected func(column string) bool) bool {
	if s == nil || protected == nil || s.Does(Unknown) || s.Mentions.Statistics {
		return true
	}
	switch {
	case s.Does(Opaque), s.Does(Execute), s.Fetches != "":
		return true
	case s.Does(CopyOut), s.Does(CopyFile), s.Does(CopyProgram), s.Does(Explain):
		return s.touches(protected)
	case len(s.Tables()) == 0:
		return false
	case s.Mentions.WholeRow, s.Mentions.Renamed && len(s.Mentions.Computed) > 0:
		return true
	}
	return slices.ContainsFunc(s.Mentions.Computed, protected)
}

// MayTouch reports whether the statement may look at data of a column that
// protected names, in its outputs or anywhere else. False only where that is
// certain, and as far as the statement itself goes: not for what triggers,
// defaults and views look at.
func (s *Statement) MayTouch(protected func(column string) bool) bool {
	if s == nil || protected == nil || s.Does(Unknown) || s.Does(Opaque) || s.Does(Execute) || s.Fetches != "" {
		return true
	}
	return len(s.Tables()) > 0 && (s.Mentions.Statistics || s.touches(protected))
}

// touches reports whether the statement can look at a protected column.
func (s *Statement) touches(protected func(string) bool) bool {
	m := &s.Mentions
	return m.Star || m.WholeRow || m.RowNamed || m.Renamed || slices.ContainsFunc(m.Columns, protected)
}

// statisticsRelations hold values of other tables' columns. Sorted.
var statisticsRelations = []string{"pg_statistic", "pg_statistic_ext_data", "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"}

// outputs finds which columns reach a computed output.
type outputs struct {
	m        *Mentions
	ranges   map[string]bool // names of tables, subqueries and WITH queries
	computed map[string]bool
	// aliased are columns that an inner query hands on under another name.
	// Where anything is computed, it may be from that name.
	aliased []string
	// apart are computed for each output of the outermost query.
	apart []map[string]bool
}

// arm tells how a query's columns go on: by their origin, or as values.
type arm int

const (
	outermost arm = iota // to the agent, by origin
	nested               // to an outer query, by origin and under a name
	merged               // as values: into a set operation
)

// reveal fills the Mentions that depend on where a column stands.
func reveal(s *Statement, node *pg.Node) {
	if s.Inner != nil {
		names := s.Mentions
		s.Mentions = s.Inner.Mentions
		s.Mentions.Columns, s.Mentions.Fields = names.Columns, names.Fields
		return
	}
	o := outputs{m: &s.Mentions, ranges: map[string]bool{}, computed: map[string]bool{}}
	inspect(node, o.survey)
	s.Mentions.Attributes = attributes(s, node)
	o.statement(node, outermost)
	if len(o.computed) > 0 {
		for _, name := range o.aliased {
			o.computed[name] = true
		}
	}
	s.Mentions.Computed = sorted(o.computed)
	o.finish()
	if len(o.computed) > 0 {
		s.Mentions.Given = names(node)
	}
	s.Mentions.RowNamed = slices.ContainsFunc(s.Mentions.Columns, func(c string) bool { return o.ranges[c] }) ||
		slices.ContainsFunc(s.Mentions.Fields, isRowFunction)
	weigh(s, node)
	store(s, node)
}

// survey notes what counts wherever it stands.
func (o *outputs) survey(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.RangeVar:
		o.ranges[n.GetRelname()] = true
		o.alias(n.GetAlias(), true)
		if slices.Contains(statisticsRelations, n.GetRelname()) {
			o.m.Statistics = true
		}
	case *pg.RangeSubselect:
		o.alias(n.GetAlias(), false)
	case *pg.JoinExpr:
		o.alias(n.GetAlias(), true)
		o.alias(n.GetJoinUsingAlias(), false)
	case *pg.CommonTableExpr:
		o.ranges[n.GetCtename()] = true
	case *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
		o.ranges["old"], o.ranges["new"] = true, true // rows in RETURNING, since version 18
	case *pg.SubLink:
		if n.GetSubLinkType() == pg.SubLinkType_EXISTS_SUBLINK {
			o.existence(n.GetSubselect())
			return false
		}
	case *pg.CopyStmt:
		o.m.Star = o.m.Star || !n.GetIsFrom() && n.GetRelation() != nil && len(n.GetAttlist()) == 0
	case *pg.A_Star:
		o.m.Star = true
	case *pg.FuncCall:
		o.m.Leaves = o.m.Leaves || leaves(n)
		o.m.Quotes = o.m.Quotes || quotes(n)
	}
	return true
}

// leaves reports whether a function that does more than compute gets an argument
// that the text does not spell out.
func leaves(n *pg.FuncCall) bool {
	name := last(stringsOf(n.GetFuncname()))
	return (name == "set_config" || name == "setseed" || len(functionEffects(name)) > 0) &&
		slices.ContainsFunc(n.GetArgs(), func(arg *pg.Node) bool { return !given(arg) })
}

// given reports whether an expression is a literal or a parameter, with or
// without a cast or a sign.
func given(n *pg.Node) bool {
	switch {
	case n.GetTypeCast() != nil:
		return given(n.GetTypeCast().GetArg())
	case n.GetNamedArgExpr() != nil:
		return given(n.GetNamedArgExpr().GetArg())
	case n.GetAExpr() != nil && n.GetAExpr().GetLexpr() == nil:
		return given(n.GetAExpr().GetRexpr())
	}
	return n.GetAConst() != nil || n.GetParamRef() != nil
}

// existence surveys the query of an EXISTS, whose output list shows nothing.
func (o *outputs) existence(node *pg.Node) {
	star := o.m.Star
	inspect(node, o.survey)
	o.m.Star = star
}

func (o *outputs) alias(a *pg.Alias, renames bool) {
	if a == nil {
		return
	}
	o.ranges[a.GetAliasname()] = true
	if renames && len(a.GetColnames()) > 0 {
		o.m.Renamed = true
	}
}

// statement follows the outputs of a query. Statements without outputs have
// none to follow.
func (o *outputs) statement(node *pg.Node, as arm) {
	switch {
	case node.GetSelectStmt() != nil:
		o.query(node.GetSelectStmt(), as)
	case node.GetInsertStmt() != nil:
		n := node.GetInsertStmt()
		o.with(n.GetWithClause())
		o.list(n.GetReturningList(), as)
	case node.GetUpdateStmt() != nil:
		n := node.GetUpdateStmt()
		o.with(n.GetWithClause())
		o.from(n.GetFromClause())
		o.list(n.GetReturningList(), as)
	case node.GetDeleteStmt() != nil:
		n := node.GetDeleteStmt()
		o.with(n.GetWithClause())
		o.from(n.GetUsingClause())
		o.list(n.GetReturningList(), as)
	case node.GetMergeStmt() != nil:
		n := node.GetMergeStmt()
		o.with(n.GetWithClause())
		o.from([]*pg.Node{n.GetSourceRelation()})
		o.list(n.GetReturningList(), as)
	}
}

func (o *outputs) query(n *pg.SelectStmt, as arm) {
	if n == nil {
		return
	}
	o.with(n.GetWithClause())
	if n.GetOp() != pg.SetOperation_SETOP_NONE && n.GetOp() != pg.SetOperation_SET_OPERATION_UNDEFINED {
		o.query(n.GetLarg(), merged)
		o.query(n.GetRarg(), merged)
		return
	}
	o.values(n.GetValuesLists()...)
	o.values(n.GetWindowClause()...)
	o.from(n.GetFromClause())
	if as == outermost {
		o.each(n)
		return
	}
	o.list(n.GetTargetList(), as)
}

// with follows WITH queries. Their columns may get other names, by position.
func (o *outputs) with(clause *pg.WithClause) {
	for _, n := range clause.GetCtes() {
		c := n.GetCommonTableExpr()
		o.statement(c.GetCtequery(), o.renaming(len(c.GetAliascolnames()) > 0))
	}
}

// renaming returns the arm of a query whose columns are renamed by position:
// they count as computed, because their own names are lost.
func (o *outputs) renaming(renamed bool) arm {
	if renamed {
		return merged
	}
	return nested
}

func (o *outputs) from(items []*pg.Node) {
	for _, n := range items {
		switch {
		case n.GetRangeVar() != nil:
		case n.GetRangeSubselect() != nil:
			s := n.GetRangeSubselect()
			o.statement(s.GetSubquery(), o.renaming(len(s.GetAlias().GetColnames()) > 0))
		case n.GetJoinExpr() != nil:
			o.join(n.GetJoinExpr())
		case n.GetRangeTableSample() != nil:
			o.from([]*pg.Node{n.GetRangeTableSample().GetRelation()})
		default:
			o.values(n) // functions and the like
		}
	}
}

// join follows both sides. A column that the join merges is computed in a FULL
// JOIN, and where the two sides differ in type.
func (o *outputs) join(n *pg.JoinExpr) {
	for _, name := range stringsOf(n.GetUsingClause()) {
		o.computed[name] = true
	}
	if n.GetIsNatural() {
		o.m.WholeRow = true
	}
	o.from([]*pg.Node{n.GetLarg(), n.GetRarg()})
}

// list follows an output list.
func (o *outputs) list(targets []*pg.Node, as arm) {
	for _, n := range targets {
		t := n.GetResTarget()
		ref := t.GetVal().GetColumnRef()
		if ref == nil || as == merged {
			o.values(t.GetVal())
			continue
		}
		names := stringsOf(ref.GetFields())
		if star := len(names) < len(ref.GetFields()); star {
			continue
		}
		o.row(names)
		if as == nested && t.GetName() != "" && t.GetName() != last(names) {
			o.aliased = append(o.aliased, last(names))
		}
	}
}

// row notes a plain reference that may in truth be a whole row, or a function
// of one.
func (o *outputs) row(names []string) {
	name := last(names)
	if o.ranges[name] || len(names) > 1 && isRowFunction(name) {
		o.m.WholeRow = true
	}
}

func isRowFunction(name string) bool {
	_, ok := slices.BinarySearch(rowFunctions, name)
	return ok
}

// values notes every column that an expression depends on.
func (o *outputs) values(nodes ...*pg.Node) {
	for _, n := range nodes {
		inspect(n, o.dependency)
	}
}

func (o *outputs) dependency(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.ColumnRef:
		names := stringsOf(n.GetFields())
		if len(names) < len(n.GetFields()) {
			o.m.WholeRow = true
			return false
		}
		o.computed[last(names)] = true
		o.row(names)
	case *pg.A_Indirection:
		for _, name := range stringsOf(n.GetIndirection()) {
			o.computed[name] = true
			o.row([]string{"", name})
		}
	case *pg.SubLink:
		if n.GetSubLinkType() == pg.SubLinkType_EXISTS_SUBLINK {
			return false // tells whether, not what
		}
	case *pg.JoinExpr:
		o.join(n)
	}
	return true
}
