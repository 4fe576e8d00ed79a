package postgres

import (
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// maxOwnCode bounds the names in an [ownCode].
const maxOwnCode = 1024

// ownCode is the code of users that a session has defined since its catalog was
// read: a statement may run it in the same Query or transaction.
type ownCode struct {
	functions map[string]bool // by their names without a schema
	// anywhere: something runs code wherever it is used, as a trigger or a view does.
	anywhere bool
	// shapes: relations may have other columns, or names other relations.
	shapes bool
	// leads: relations may lead to others that they did not lead to before.
	leads bool
}

// note takes what a statement defines, whether it is carried out or not.
func (c *ownCode) note(fact *statement.Statement) {
	if fact == nil {
		return
	}
	c.shapes = c.shapes || redefines(fact)
	c.leads = c.leads || fact.Reach.Leads
	if fact.Transaction == "commit_prepared" { // whatever was defined in it
		c.anywhere = true
		return
	}
	if !fact.Does(statement.Code) && !fact.Definitions.Runs {
		return
	}
	named := false
	for _, o := range fact.Objects {
		if o.Kind != "function" || !o.Write {
			continue
		}
		if c.functions == nil {
			c.functions = make(map[string]bool)
		}
		if named = len(c.functions) < maxOwnCode; named {
			c.functions[unqualified(o.Name)] = true
		}
	}
	c.anywhere = c.anywhere || !named
}

// runs reports whether a statement may run any of it.
func (c *ownCode) runs(fact *statement.Statement) bool {
	if c.anywhere && catalog.Computes(fact) && !definesOnly(fact) {
		return true
	}
	return len(c.functions) > 0 && (slices.ContainsFunc(fact.Objects, func(o statement.Object) bool {
		return o.Kind == "function" && !o.Write && c.functions[unqualified(o.Name)]
	}) || slices.ContainsFunc(fact.Mentions.Attributes, func(a statement.Attribute) bool { return c.functions[a.Name] }))
}

// definesOnly reports whether the statement is sure to go through no rows: CREATE of a
// table, an index, a view, a function, a trigger, and ALTER of a name.
func definesOnly(fact *statement.Statement) bool {
	for _, effect := range fact.Effects {
		if !slices.Contains([]string{statement.Code, statement.DCL, statement.DDL, statement.Drop}, effect) {
			return false
		}
	}
	return fact.Keeps || fact.Does(statement.Code) || fact.Definitions.Runs || len(fact.Definitions.Heirs) > 0
}

// unqualified returns a name without its schema, if no part of it is quoted.
func unqualified(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
