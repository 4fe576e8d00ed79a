package statement

import (
	"maps"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Output is what one output of a query depends on, beside what is true of the
// whole statement. Its fields mean what those of [Mentions] do.
type Output struct {
	Computed         []string
	WholeRow, Quotes bool
}

// maxShared bounds the names that are kept for each output although all depend on
// them. A statement with more is looked at as a whole.
const maxShared = 1 << 14

// Only returns the statement as if it had no other output than the one of that
// number, counted from 0, of as many as the upstream describes. It returns the
// statement itself where its outputs can't be told apart: behind a "*", in a set
// operation and in RETURNING.
func (s *Statement) Only(output, outputs int) *Statement {
	if s == nil || len(s.Mentions.Outputs) != outputs || output < 0 || output >= outputs {
		return s
	}
	one, o := *s, &s.Mentions.Outputs[output]
	one.Mentions.Computed, one.Mentions.WholeRow, one.Mentions.Quotes = o.Computed, o.WholeRow, o.Quotes
	return &one
}

// each follows the outputs of the outermost query one by one. What all depend on,
// from WITH and FROM, is known by now. Where a function keeps a value, another may
// give it back.
func (o *outputs) each(n *pg.SelectStmt) {
	targets := n.GetTargetList()
	if len(targets) < 2 || expands(targets) || o.m.Leaves || len(targets)*(1+len(o.computed)+len(o.aliased)) > maxShared {
		o.list(targets, outermost)
		return
	}
	all, wholeRow := o.computed, o.m.WholeRow
	common, anyRow := maps.Clone(all), wholeRow
	elsewhere := calls(&pg.Node{Node: &pg.Node_SelectStmt{SelectStmt: n}})
	for _, t := range targets {
		elsewhere -= calls(t)
	}
	found := make([]Output, len(targets))
	o.apart = make([]map[string]bool, len(targets))
	for i, t := range targets {
		o.computed, o.m.WholeRow = maps.Clone(common), wholeRow
		o.list(targets[i:i+1], outermost)
		found[i] = Output{WholeRow: o.m.WholeRow, Quotes: elsewhere > 0 || calls(t) > 0}
		o.apart[i] = o.computed
		maps.Copy(all, o.computed)
		anyRow = anyRow || o.m.WholeRow
	}
	o.computed, o.m.WholeRow, o.m.Outputs = all, anyRow, found
}

// expands reports whether one of the targets may stand for more or fewer columns
// than one.
func expands(targets []*pg.Node) bool {
	found := false
	for _, t := range targets {
		val := t.GetResTarget().GetVal()
		found = found || isStar(val)
		for _, i := range val.GetAIndirection().GetIndirection() {
			found = found || i.GetAStar() != nil
		}
	}
	return found
}

// calls counts the calls of functions that show definitions.
func calls(n *pg.Node) (count int) {
	inspect(n, func(m proto.Message) bool {
		if call, ok := m.(*pg.FuncCall); ok && quotes(call) {
			count++
		}
		return true
	})
	return count
}

// finish gives each output the names that an inner query hands on under others.
func (o *outputs) finish() {
	for i, computed := range o.apart {
		if len(computed) > 0 {
			for _, name := range o.aliased {
				computed[name] = true
			}
		}
		o.m.Outputs[i].Computed = sorted(computed)
	}
}
