package statement

import (
	"cmp"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxTreeDepth bounds the recursion over the syntax tree. The text's shape was
// bounded before, so this is never reached unless that bound is wrong.
const maxTreeDepth = 9000

// maxObjects bounds what one statement may name: a decision looks at each.
const maxObjects = 4096

// walker collects the facts of one statement. It visits every message of the
// syntax tree by reflection, so that no place where a statement, a function or
// a table can stand is missed; what it has no words for is unknown.
type walker struct {
	s       *Statement
	effects map[string]bool
	objects map[Object]bool // without Write; the value is Write
	columns map[string]bool
	fields  map[string]bool
	// operators are the names of those that the system has.
	operators map[string]bool
	defined   definitions
	// ctes are the names of the WITH queries in scope, innermost last.
	ctes []string
	// pinned is the only setting of which a query of pg_settings tells.
	pinned string
	// stored is set inside a definition's query, which does not run now.
	stored bool
	depth  int
	// writes counts UPDATEs and DELETEs; unbounded those without a WHERE.
	writes, unbounded int
}

// analyze returns the facts of one statement. A node that is nil, or of a kind
// that the tables don't hold, is unknown.
func analyze(node *pg.Node) Statement {
	bodies := maxBodies
	return analyzeWith(node, &bodies)
}

// analyzeWith is analyze for one statement of several: bodies is how many bodies
// of functions may still be parsed.
func analyzeWith(node *pg.Node, bodies *int) Statement {
	s := Statement{Verb: Unknown}
	w := walker{
		s:       &s,
		effects: map[string]bool{},
		objects: map[Object]bool{},
		columns: map[string]bool{},
		fields:  map[string]bool{},

		operators: map[string]bool{},
		defined:   definitions{bodies: bodies},
	}
	m, ok := content(node)
	if !ok {
		w.unknown("statement without content")
		w.finish()
		return s
	}
	k, ok := kindOf(string(m.Descriptor().Name()))
	if !ok || k.part {
		w.unknown("statement of unknown kind " + string(m.Descriptor().Name()))
	} else {
		s.Verb = k.verb
	}
	if q := node.GetSelectStmt(); q != nil {
		s.HasWhere = bounded(q.GetWhereClause())
	}
	w.walk(m)
	w.finish()
	s.Keeps, s.Adds = keeps(node)
	s.Reach = reachOf(node)
	reveal(&s, node)
	return s
}

// content returns the message inside a node.
func content(node *pg.Node) (protoreflect.Message, bool) {
	if node.GetNode() == nil {
		return nil, false
	}
	m := node.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if fd == nil || fd.Message() == nil {
		return nil, false
	}
	return m.Get(fd).Message(), true
}

func (w *walker) walk(m protoreflect.Message) {
	if w.depth >= maxTreeDepth {
		w.unknown(reasonNesting)
		return
	}
	w.depth++
	defer func() { w.depth-- }()
	if node, ok := m.Interface().(*pg.Node); ok {
		if m, ok = content(node); !ok {
			return // an empty place in a list: nothing to run
		}
	}
	name := string(m.Descriptor().Name())
	k, known := kindOf(name)
	if !known && strings.HasSuffix(name, "Stmt") {
		w.unknown("statement of unknown kind " + name)
	}
	w.add(k.effects...)
	if k.stored && !w.stored {
		w.stored = true
		defer func() { w.stored = false }()
	}
	w.defined.note(m.Interface())
	w.systemRows(m.Interface())
	w.name(m.Interface())
	if !w.visit(m.Interface()) {
		w.children(m)
	}
}

// fieldName is the name of a field in the syntax tree's own notation.
type fieldName = protoreflect.Name

// children walks every message inside m but those in the named fields, in the
// order of the field numbers: the facts must not depend on chance.
func (w *walker) children(m protoreflect.Message, except ...fieldName) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || !m.Has(fd) || slices.Contains(except, fd.Name()) {
			continue
		}
		switch v := m.Get(fd); {
		case fd.IsList():
			for j := range v.List().Len() {
				w.walk(v.List().Get(j).Message())
			}
		case fd.IsMap():
			w.unknown("map in syntax tree")
		default:
			w.walk(v.Message())
		}
	}
}

// rest walks what a visitor did not handle itself.
func (w *walker) rest(m proto.Message, except ...fieldName) bool {
	w.children(m.ProtoReflect(), except...)
	return true
}

func (w *walker) nodes(lists ...[]*pg.Node) {
	for _, list := range lists {
		for _, n := range list {
			w.walk(n.ProtoReflect())
		}
	}
}

// add notes effects. A stored query has none but unknown ones.
func (w *walker) add(effects ...string) {
	for _, e := range effects {
		if !w.stored || e == Unknown {
			w.effects[e] = true
		} else if e == UserFunction {
			w.defined.Runs = true
		}
	}
}

func (w *walker) unknown(reason string) {
	w.add(Unknown)
	if w.s.Reason == "" {
		w.s.Reason = reason
	}
}

func (w *walker) object(kind, name string, write bool) {
	if name == "" {
		return
	}
	o := Object{Kind: kind, Name: name}
	w.objects[o] = w.objects[o] || write && !w.stored
}

// relation notes a table that rel names, unless a WITH query has that name.
func (w *walker) relation(rel *pg.RangeVar) {
	if rel.GetSchemaname() == "" && rel.GetCatalogname() == "" && slices.Contains(w.ctes, rel.GetRelname()) {
		return
	}
	w.object("table", relationName(rel), false)
}

// target notes a table that is written. No WITH query can stand there.
func (w *walker) target(rel *pg.RangeVar) {
	w.object("table", relationName(rel), true)
}

// absorb adds the facts of a statement inside this one; keep tells which of
// its effects happen.
func (w *walker) absorb(inner *Statement, keep func(effect string) bool) {
	for _, e := range inner.Effects {
		if keep(e) {
			w.add(e)
		}
	}
	if inner.Reason != "" && w.s.Reason == "" {
		w.s.Reason = inner.Reason
	}
	for _, o := range inner.Objects {
		w.object(o.Kind, o.Name, o.Write)
	}
	for _, c := range inner.Mentions.Columns {
		w.columns[c] = true
	}
	for _, f := range inner.Mentions.Fields {
		w.fields[f] = true
	}
	w.means(inner.Mentions.Operators...)
	w.defined.absorb(&inner.Definitions)
	w.s.Inner = inner
	w.s.Executes = inner.Executes
	w.s.HasWhere = inner.HasWhere
}

// finish writes what was collected into the Statement.
func (w *walker) finish() {
	s := w.s
	if len(w.effects) == 0 {
		w.unknown("statement without effects")
	}
	s.Effects = sorted(w.effects)
	for o, write := range w.objects {
		o.Write = write
		s.Objects = append(s.Objects, o)
	}
	slices.SortFunc(s.Objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	s.Objects = slices.Clip(s.Objects)
	if len(s.Objects) > maxObjects {
		s.Objects, s.Effects, s.Reason = nil, []string{Unknown}, reasonObjects
	}
	s.Definitions = w.defined.finish()
	s.Mentions.Columns = sorted(w.columns)
	s.Mentions.Fields = sorted(w.fields)
	s.Mentions.Operators = sorted(w.operators)
	if w.writes > 0 {
		s.HasWhere = w.unbounded == 0
	}
}

func sorted(set map[string]bool) []string {
	if len(set) == 0 {
		return nil
	}
	list := make([]string, 0, len(set))
	for v := range set {
		list = append(list, v)
	}
	slices.Sort(list)
	return list
}

// relationName renders a table's name as far as it is qualified.
func relationName(rel *pg.RangeVar) string {
	return qualified(rel.GetCatalogname(), rel.GetSchemaname(), rel.GetRelname())
}

// qualified joins the parts of a name that are not empty.
func qualified(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		if p == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		if strings.ContainsAny(p, `."`) {
			p = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
		}
		b.WriteString(p)
	}
	return b.String()
}

// stringsOf returns the strings of a list of names; other nodes are left out.
func stringsOf(list []*pg.Node) []string {
	parts := make([]string, 0, len(list))
	for _, n := range list {
		if s := n.GetString_(); s != nil {
			parts = append(parts, s.GetSval())
		}
	}
	return parts
}

func last(parts []string) string {
	if len(parts) == 0 {
		return ""
	}
	return parts[len(parts)-1]
}
