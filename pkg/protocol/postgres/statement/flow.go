package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// flow walks the queries of a statement and sorts what it finds by the place
// where it stands: conditions, outputs, values that are stored. What to do with
// each is up to its user.
type flow struct {
	// ranges are the names of tables, subqueries and WITH queries: a column of
	// that name may be a whole row.
	ranges map[string]bool
	// derived are the names of subqueries and functions in FROM that are no
	// table's name too.
	derived map[string]bool
	names   map[string]bool // columns that were used
	rows    bool            // all columns of something were used
	base    bool            // a "*" would mean columns of a table
	// unmapped tells that outputs get names, and nobody knows which.
	unmapped bool
	// followed tells that the outputs of derived queries are used where they
	// stand, so that a reference to them adds nothing.
	followed bool
	// renames are the names that outputs get, with the columns behind them.
	renames map[string][]string

	// compared is set inside the arms of a set operation that is compared as a
	// whole, seen holds the queries that were walked: without both, the time
	// would grow with the depth.
	compared bool
	seen     map[visit]bool

	// quoted tells that the text of a definition was used.
	quoted bool

	// leaving are the nodes with a call of a function that keeps values.
	leaving map[*pg.Node]bool

	// condition takes what decides on rows, their order or their number.
	condition func(nodes ...*pg.Node)
	// output takes one output of a query.
	output func(t *pg.ResTarget, as place)
	// assign takes a value for a column of the target; own are the names that
	// the target's row has.
	assign func(column string, value *pg.Node, own []string)
}

// place tells where the outputs of a query go.
type place int

const (
	toAgent  place = iota // as they are
	toQuery               // to an outer query, by name
	toValues              // into an expression or a table
	toNobody              // EXISTS
)

// visit is a query that was walked, and where its outputs went.
type visit struct {
	query *pg.SelectStmt
	as    place
}

func newFlow(s *Statement, node *pg.Node) *flow {
	f := &flow{base: true, ranges: map[string]bool{}, derived: map[string]bool{}, names: map[string]bool{}, renames: map[string][]string{},
		seen: map[visit]bool{}}
	tables := map[string]bool{}
	for _, table := range s.Tables() {
		tables[table[strings.LastIndexByte(table, '.')+1:]] = true
	}
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.RangeVar:
			f.ranges[n.GetRelname()] = true
			f.ranges[n.GetAlias().GetAliasname()] = true
			tables[n.GetAlias().GetAliasname()] = true
		case *pg.RangeSubselect:
			f.ranges[n.GetAlias().GetAliasname()] = true
			f.derived[n.GetAlias().GetAliasname()] = true
		case *pg.RangeFunction:
			f.derived[n.GetAlias().GetAliasname()] = true
		case *pg.CommonTableExpr:
			f.ranges[n.GetCtename()] = true
			f.derived[n.GetCtename()] = true
		case *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
			f.ranges["old"], f.ranges["new"] = true, true // rows in RETURNING, since version 18
		case *pg.Alias:
			f.ranges[n.GetAliasname()] = true
		}
		return true
	})
	delete(f.ranges, "")
	for name := range f.derived {
		if name == "" || tables[name] {
			delete(f.derived, name)
		}
	}
	return f
}

// statement walks a query or a write.
func (f *flow) statement(node *pg.Node, as place) {
	outer := f.compared
	defer func() { f.compared = outer }()
	f.compared = false
	switch {
	case node.GetSelectStmt() != nil:
		f.query(node.GetSelectStmt(), as)
	case node.GetInsertStmt() != nil:
		f.insert(node.GetInsertStmt(), as)
	case node.GetUpdateStmt() != nil:
		n := node.GetUpdateStmt()
		f.with(n.GetWithClause())
		f.from(n.GetFromClause())
		f.condition(n.GetWhereClause())
		f.assignments(n.GetTargetList(), n.GetRelation())
		f.targets(n.GetReturningList(), as)
	case node.GetDeleteStmt() != nil:
		n := node.GetDeleteStmt()
		f.with(n.GetWithClause())
		f.from(n.GetUsingClause())
		f.condition(n.GetWhereClause())
		f.targets(n.GetReturningList(), as)
	case node.GetMergeStmt() != nil:
		f.merge(node.GetMergeStmt(), as)
	}
}

func (f *flow) insert(n *pg.InsertStmt, as place) {
	f.with(n.GetWithClause())
	f.statement(n.GetSelectStmt(), toValues)
	conflict := n.GetOnConflictClause()
	f.condition(conflict.GetInfer().GetIndexElems()...)
	f.condition(conflict.GetInfer().GetWhereClause(), conflict.GetWhereClause())
	f.assignments(conflict.GetTargetList(), n.GetRelation())
	f.targets(n.GetReturningList(), as)
}

func (f *flow) merge(n *pg.MergeStmt, as place) {
	f.with(n.GetWithClause())
	f.from([]*pg.Node{n.GetSourceRelation()})
	f.condition(n.GetJoinCondition())
	for _, c := range n.GetMergeWhenClauses() {
		when := c.GetMergeWhenClause()
		f.condition(when.GetCondition())
		f.assignments(when.GetTargetList(), n.GetRelation())
		for _, v := range when.GetValues() {
			f.assign("", v, nil)
		}
	}
	f.targets(n.GetReturningList(), as)
}

// assignments walks "column = value".
func (f *flow) assignments(list []*pg.Node, rel *pg.RangeVar) {
	own := []string{rel.GetRelname(), "excluded"}
	if alias := rel.GetAlias().GetAliasname(); alias != "" {
		own = []string{alias, "excluded"}
	}
	for _, n := range list {
		t := n.GetResTarget()
		f.use(t.GetIndirection()...)
		if t.GetVal() != nil {
			f.assign(t.GetName(), t.GetVal(), own)
		}
	}
}

func (f *flow) query(n *pg.SelectStmt, as place) {
	if n == nil || f.seen[visit{n, as}] {
		return
	}
	f.seen[visit{n, as}] = true
	f.with(n.GetWithClause())
	f.condition(n.GetLimitOffset(), n.GetLimitCount())
	if intoTable(n) {
		as = toValues
	}
	if n.GetLarg() != nil || n.GetRarg() != nil {
		f.union(n, as)
		return
	}
	f.from(n.GetFromClause())
	outer := f.base
	defer func() { f.base = outer }()
	f.base = slices.ContainsFunc(n.GetFromClause(), f.isTable)
	f.use(n.GetValuesLists()...)
	f.use(n.GetWindowClause()...)
	f.condition(n.GetWhereClause(), n.GetHavingClause())
	f.sorted(n)
	f.targets(n.GetTargetList(), as)
}

// intoTable reports whether it is a SELECT INTO. In a set operation that stands
// in the first arm and means all of them.
func intoTable(n *pg.SelectStmt) bool {
	for n.GetLarg() != nil {
		n = n.GetLarg()
	}
	return n.GetIntoClause() != nil
}

// union walks a set operation. All but UNION ALL compares rows. What an outer
// query gets by position has lost its name, so it counts as compared.
func (f *flow) union(n *pg.SelectStmt, as place) {
	plain := n.GetOp() == pg.SetOperation_SETOP_UNION && n.GetAll()
	if !f.compared && (!plain || as == toQuery || len(n.GetSortClause()) > 0) {
		f.compare(n)
		f.compared = true
	}
	f.condition(n.GetSortClause()...)
	f.query(n.GetLarg(), as)
	f.query(n.GetRarg(), as)
}

// compare takes all outputs of a query, and of the arms of a set operation.
func (f *flow) compare(n *pg.SelectStmt) {
	if n.GetLarg() != nil || n.GetRarg() != nil {
		f.compare(n.GetLarg())
		f.compare(n.GetRarg())
		return
	}
	outer := f.base
	f.base = slices.ContainsFunc(n.GetFromClause(), f.isTable)
	for _, t := range n.GetTargetList() {
		f.condition(t.GetResTarget().GetVal())
	}
	f.base = outer
}

// sorted takes what a query groups, orders and compares by: expressions, and
// outputs by number.
func (f *flow) sorted(n *pg.SelectStmt) {
	lists := slices.Concat(n.GetSortClause(), n.GetGroupClause(), n.GetDistinctClause())
	f.condition(lists...)
	numbers := map[int]bool{}
	for _, item := range lists {
		if item.GetNode() == nil { // DISTINCT of everything
			f.compare(n)
			return
		}
		inspect(item, func(m proto.Message) bool {
			if c, ok := m.(*pg.A_Const); ok && c.GetIval() != nil {
				numbers[int(c.GetIval().GetIval())] = true
			}
			return true
		})
	}
	if len(numbers) > 0 {
		f.numbered(n, numbers)
	}
}

// numbered takes outputs by number: all of them behind a "*".
func (f *flow) numbered(n *pg.SelectStmt, numbers map[int]bool) {
	for i, t := range n.GetTargetList() {
		if isStar(t.GetResTarget().GetVal()) {
			f.compare(n)
			return
		}
		if numbers[i+1] {
			f.condition(t.GetResTarget().GetVal())
		}
	}
}

func isStar(n *pg.Node) bool {
	fields := n.GetColumnRef().GetFields()
	return len(fields) > 0 && fields[len(fields)-1].GetAStar() != nil
}

func (f *flow) with(clause *pg.WithClause) {
	for _, n := range clause.GetCtes() {
		c := n.GetCommonTableExpr()
		f.named(c.GetCtequery(), stringsOf(c.GetAliascolnames()))
		f.fields(c.GetSearchClause().GetSearchColList())
		f.fields(c.GetCycleClause().GetCycleColList())
	}
}

// fields takes columns that stand as bare names where rows are compared.
func (f *flow) fields(list []*pg.Node) {
	for _, name := range stringsOf(list) {
		f.condition(&pg.Node{Node: &pg.Node_ColumnRef{ColumnRef: &pg.ColumnRef{
			Fields: []*pg.Node{{Node: &pg.Node_String_{String_: &pg.String{Sval: name}}}},
		}}})
	}
}

// named walks a query inside another, whose outputs may get names by position.
func (f *flow) named(node *pg.Node, names []string) {
	f.statement(node, toQuery)
	if len(names) == 0 {
		return
	}
	targets, ok := f.outputs(node)
	for i, name := range names {
		if ok && i < len(targets) {
			t := targets[i].GetResTarget()
			f.rename(name, t.GetName())
			f.rename(name, last(stringsOf(t.GetVal().GetColumnRef().GetFields())))
		}
	}
	f.unmapped = f.unmapped || !ok
}

// outputs returns the outputs of a query by position, if they can be told.
func (f *flow) outputs(node *pg.Node) ([]*pg.Node, bool) {
	targets := node.GetSelectStmt().GetTargetList()
	switch {
	case node.GetSelectStmt() == nil:
		return nil, false
	case node.GetSelectStmt().GetLarg() != nil, len(node.GetSelectStmt().GetValuesLists()) > 0:
		return nil, true // a set operation counts as compared, and VALUES as used
	}
	return targets, !slices.ContainsFunc(targets, func(t *pg.Node) bool { return isStar(t.GetResTarget().GetVal()) })
}

func (f *flow) rename(name, column string) {
	if name != "" && column != "" && name != column {
		f.renames[name] = append(f.renames[name], column)
	}
}

func (f *flow) from(items []*pg.Node) {
	for _, n := range items {
		switch {
		case n.GetRangeVar() != nil:
		case n.GetRangeSubselect() != nil:
			f.named(n.GetRangeSubselect().GetSubquery(), stringsOf(n.GetRangeSubselect().GetAlias().GetColnames()))
		case n.GetJoinExpr() != nil:
			f.join(n.GetJoinExpr())
		case n.GetRangeTableSample() != nil:
			f.from([]*pg.Node{n.GetRangeTableSample().GetRelation()})
			f.condition(n.GetRangeTableSample().GetArgs()...)
			f.condition(n.GetRangeTableSample().GetRepeatable())
		default:
			f.use(n) // functions and the like
		}
	}
}

func (f *flow) join(n *pg.JoinExpr) {
	if n.GetIsNatural() {
		f.condition(&pg.Node{Node: &pg.Node_ColumnRef{ColumnRef: &pg.ColumnRef{
			Fields: []*pg.Node{{Node: &pg.Node_AStar{AStar: &pg.A_Star{}}}},
		}}})
	}
	f.fields(n.GetUsingClause())
	f.condition(n.GetQuals())
	f.from([]*pg.Node{n.GetLarg(), n.GetRarg()})
}

// isTable reports whether an item of FROM holds columns that are not looked at
// elsewhere in the statement.
func (f *flow) isTable(n *pg.Node) bool {
	switch {
	case n.GetRangeVar() != nil:
		return n.GetRangeVar().GetSchemaname() != "" || !f.derived[n.GetRangeVar().GetRelname()]
	case n.GetJoinExpr() != nil:
		return f.isTable(n.GetJoinExpr().GetLarg()) || f.isTable(n.GetJoinExpr().GetRarg())
	}
	return n.GetRangeSubselect() == nil && n.GetRangeFunction() == nil
}

func (f *flow) targets(list []*pg.Node, as place) {
	for _, n := range list {
		f.output(n.GetResTarget(), as)
	}
}

// use takes every column that an expression depends on.
func (f *flow) use(nodes ...*pg.Node) {
	for _, n := range nodes {
		inspect(n, f.depends)
	}
}

func (f *flow) depends(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.ColumnRef:
		f.column(n)
	case *pg.FuncCall:
		f.quoted = f.quoted || quotes(n)
	case *pg.A_Indirection:
		for _, name := range stringsOf(n.GetIndirection()) {
			f.names[name] = true
			f.rows = f.rows || isRowFunction(name)
		}
	case *pg.IndexElem:
		f.take(n.GetName())
	case *pg.Constraint:
		f.constraint(n)
	case *pg.PartitionElem:
		f.take(n.GetName())
	case *pg.ClusterStmt: // the rows are in the order of an index then
		f.rows = true
	case *pg.AlterTableCmd:
		f.take(n.GetName())
	case *pg.SubLink:
		f.use(n.GetTestexpr())
		as := toValues
		if n.GetSubLinkType() == pg.SubLinkType_EXISTS_SUBLINK {
			as = toNobody
		}
		f.statement(n.GetSubselect(), as)
		return false
	case *pg.SelectStmt:
		f.query(n, toValues)
		return false
	case *pg.JoinExpr:
		f.join(n)
		return false
	}
	return true
}

// constraint takes the columns by which rows are refused. A foreign key tells of
// each value whether it is in the other table, in its primary key if it does not
// say where.
func (f *flow) constraint(n *pg.Constraint) {
	for _, name := range slices.Concat(stringsOf(n.GetKeys()), stringsOf(n.GetFkAttrs()), stringsOf(n.GetPkAttrs())) {
		f.take(name)
	}
	f.rows = f.rows || n.GetContype() == pg.ConstrType_CONSTR_FOREIGN && len(n.GetPkAttrs()) == 0
}

func (f *flow) take(name string) {
	if name != "" {
		f.names[name] = true
	}
}

func (f *flow) column(n *pg.ColumnRef) {
	names := stringsOf(n.GetFields())
	if isStar(&pg.Node{Node: &pg.Node_ColumnRef{ColumnRef: n}}) {
		switch {
		case !f.followed:
			f.rows = true
		case len(names) == 0:
			f.rows = f.rows || f.base
		default:
			f.rows = f.rows || !f.derived[last(names)]
		}
		return
	}
	if f.followed && len(names) == 2 && f.derived[names[0]] {
		return
	}
	f.take(last(names))
	f.row(names)
}

// row notes a reference that may be a whole row, or a function of one.
func (f *flow) row(names []string) {
	f.rows = f.rows || f.ranges[last(names)] || len(names) > 1 && isRowFunction(last(names))
}

// finish returns the columns that were used, and whether all columns of
// something were.
func (f *flow) finish(m *Mentions) (columns []string, rows bool) {
	todo := sorted(f.names)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		for _, column := range f.renames[name] {
			if !f.names[column] {
				f.names[column] = true
				todo = append(todo, column)
			}
		}
	}
	return sorted(f.names), f.rows || len(f.names) > 0 && (f.unmapped || m.Renamed)
}
