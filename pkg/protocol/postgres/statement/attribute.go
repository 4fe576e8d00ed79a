package statement

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Attribute is a name behind a dot that may be a function of a row.
type Attribute struct {
	// Table is the relation, as named, whose row is meant; empty where the text does
	// not tell.
	Table, Name string
	// Row: the qualifier can mean nothing but a row. What a function in FROM returns, a
	// parameter and an expression may be a plain value, which any function takes.
	Row bool
}

// ranges knows what stands in FROM under which name.
type ranges struct {
	count map[string]int // how often a name is given, anywhere
	// outputs are the columns of the subqueries and functions of a name.
	outputs map[string][]string
	withs   map[string][]string // the same of WITH queries
	twice   map[string]bool     // names of more than one WITH query
	reads   map[string]string   // relations and WITH queries by their alias
	// relations are all that a name stands for, as named; "" is something else.
	relations map[string][]string
	// plain are the names of what may be no row; nameless: so may be any other name.
	plain    map[string]bool
	nameless bool
}

// attributes returns the names behind a dot that may be functions of a row. A
// name is cleared only where its qualifier can mean nothing but one subquery
// that has an output of that name.
func attributes(s *Statement, node *pg.Node) []Attribute {
	if len(s.Mentions.Fields) == 0 {
		return nil
	}
	r := ranges{
		count: map[string]int{}, outputs: map[string][]string{}, withs: map[string][]string{},
		twice: map[string]bool{}, reads: map[string]string{}, relations: map[string][]string{}, plain: map[string]bool{},
	}
	inspect(node, r.survey)
	for _, table := range s.Tables() { // a table may be meant where a WITH query is out of scope
		r.twice[table[strings.LastIndexByte(table, '.')+1:]] = true
	}
	found := map[Attribute]bool{}
	inspect(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.ColumnRef:
			names := stringsOf(n.GetFields())
			if len(n.GetFields()) > 1 && len(names) == len(n.GetFields()) && !(len(names) == 2 && r.has(names[0], names[1])) {
				row := len(names) == 2 && r.row(names[0])
				for _, table := range r.tables(names[:len(names)-1]) {
					found[Attribute{table, last(names), row}] = true
				}
			}
		case *pg.A_Indirection:
			for _, name := range stringsOf(n.GetIndirection()) {
				found[Attribute{Name: name}] = true
			}
		}
		return true
	})
	return slices.SortedFunc(maps.Keys(found), func(a, b Attribute) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Table, b.Table))
	})
}

// tables returns the relations that a qualifier may stand for; "" is one that the
// text does not tell.
func (r *ranges) tables(qualifier []string) []string {
	if len(qualifier) > 1 {
		return []string{qualified(qualifier...)}
	}
	var tables []string
	for _, name := range r.relations[qualifier[0]] {
		if _, with := r.withs[name]; with {
			name = ""
		}
		tables = append(tables, name)
	}
	if len(tables) == 0 || r.nameless {
		tables = append(tables, "")
	}
	return tables
}

// row reports whether a qualifier stands for rows of relations, queries and joins in
// all of the text: not where a function in FROM may have that name.
func (r *ranges) row(qualifier string) bool {
	return len(r.relations[qualifier]) > 0 && !r.plain[qualifier] && !r.nameless
}

func (r *ranges) has(qualifier, name string) bool {
	if r.count[qualifier] != 1 {
		return false
	}
	if with, ok := r.reads[qualifier]; ok {
		return !r.twice[with] && slices.Contains(r.withs[with], name)
	}
	return slices.Contains(r.outputs[qualifier], name)
}

func (r *ranges) survey(m proto.Message) bool {
	switch n := m.(type) {
	case *pg.RangeVar:
		name := n.GetRelname()
		if alias := n.GetAlias().GetAliasname(); alias != "" {
			name = alias
		}
		if len(n.GetAlias().GetColnames()) > 0 { // its columns have no names of their own any more
			r.name(n.GetAlias(), nil)
			return true
		}
		r.count[name]++
		r.reads[name] = n.GetRelname()
		r.relations[name] = append(r.relations[name], relationName(n))
	case *pg.InsertStmt:
		if n.GetOnConflictClause() != nil {
			r.relations["excluded"] = append(r.relations["excluded"], relationName(n.GetRelation()))
		}
	case *pg.RangeSubselect:
		r.name(n.GetAlias(), outputNames(n.GetSubquery()))
	case *pg.RangeFunction:
		r.function(n)
	case *pg.CreateFunctionStmt, *pg.DoStmt: // its parameters have names
		r.nameless = true
	case *pg.JoinExpr:
		r.name(n.GetAlias(), nil)
		r.name(n.GetJoinUsingAlias(), nil)
	case *pg.CommonTableExpr:
		_, known := r.withs[n.GetCtename()]
		r.twice[n.GetCtename()] = known
		r.withs[n.GetCtename()] = renamed(outputNames(n.GetCtequery()), n.GetAliascolnames())
	}
	return true
}

// function notes a function in FROM, which may return plain values. Without an alias
// it has its own name (FigureColname in parser/parse_target.c), or that of the first.
func (r *ranges) function(n *pg.RangeFunction) {
	alias := n.GetAlias()
	if alias == nil && len(n.GetFunctions()) > 0 {
		if items := n.GetFunctions()[0].GetList().GetItems(); len(items) > 0 {
			alias = &pg.Alias{Aliasname: last(stringsOf(items[0].GetFuncCall().GetFuncname()))}
		}
	}
	r.nameless = r.nameless || alias.GetAliasname() == ""
	r.plain[alias.GetAliasname()] = true
	r.name(alias, nil)
}

func (r *ranges) name(a *pg.Alias, outputs []string) {
	if a == nil {
		return
	}
	r.count[a.GetAliasname()]++
	r.relations[a.GetAliasname()] = append(r.relations[a.GetAliasname()], "")
	r.outputs[a.GetAliasname()] = renamed(outputs, a.GetColnames())
}

// renamed returns the names of columns that may have been given others. Of fewer names
// than columns it can't be told which of the old ones are left: "*" is many of them.
func renamed(outputs []string, names []*pg.Node) []string {
	if len(names) > 0 {
		return stringsOf(names)
	}
	return outputs
}

// outputNames returns the names of a query's columns, as far as it spells them
// out.
func outputNames(node *pg.Node) []string {
	var targets []*pg.Node
	switch {
	case node.GetSelectStmt() != nil:
		n := node.GetSelectStmt()
		for n.GetLarg() != nil {
			n = n.GetLarg()
		}
		targets = n.GetTargetList()
	case node.GetInsertStmt() != nil:
		targets = node.GetInsertStmt().GetReturningList()
	case node.GetUpdateStmt() != nil:
		targets = node.GetUpdateStmt().GetReturningList()
	case node.GetDeleteStmt() != nil:
		targets = node.GetDeleteStmt().GetReturningList()
	case node.GetMergeStmt() != nil:
		targets = node.GetMergeStmt().GetReturningList()
	}
	var names []string
	for _, n := range targets {
		t := n.GetResTarget()
		switch {
		case t.GetName() != "":
			names = append(names, t.GetName())
		case t.GetVal().GetColumnRef() != nil:
			names = append(names, last(stringsOf(t.GetVal().GetColumnRef().GetFields())))
		case t.GetVal().GetFuncCall() != nil:
			names = append(names, last(stringsOf(t.GetVal().GetFuncCall().GetFuncname())))
		}
	}
	return names
}
