package policy

import (
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
)

// Asks reports whether a rule that concerns the request's principal, agent and
// target has a condition that looks at one of the facts, by their names in the
// protocol's [FactType]; rules that only observe count, too. It is for protocols that
// have to find something out before they can tell a fact.
func (e *Engine) Asks(req *Request, facts []string) bool {
	if e == nil || !e.compiled || req == nil {
		return false
	}
	g := e.group(req)
	if g == nil {
		return false
	}
	v := e.view(g, req)
	asks := func(c candidate) bool {
		condition, ok := c.condition.(*celCondition)
		return ok && condition.looksAt(facts)
	}
	return slices.ContainsFunc(v.resources, func(r resourceView) bool {
		for _, list := range r.effects {
			if slices.ContainsFunc(list, asks) {
				return true
			}
		}
		return slices.ContainsFunc(r.others, asks)
	})
}

// Cause says why the condition of the rule that decided could not be evaluated; it
// is empty where that was not the reason.
func (e *Engine) Cause(req *Request, d *Decision) string {
	if e == nil || !e.compiled || req == nil || d.Reason != ReasonError {
		return ""
	}
	for _, r := range e.concerned(req) {
		for _, one := range r.rules {
			if one.condition == nil || one.name != d.Rule && one.name != d.WouldHaveRule {
				continue
			}
			if _, err := one.condition.Eval(req, &r.Resource); err != nil {
				return err.Error()
			}
		}
	}
	return ""
}

// looksAt reports whether the condition looks at one of the facts.
func (c *celCondition) looksAt(facts []string) bool {
	return c.asksFacts && (c.facts == nil || slices.ContainsFunc(facts, func(name string) bool { return c.facts[name] }))
}

// factsIn returns the names of the facts that an expression looks at; nil stands for
// all of them, where a variable is not only there for its fields.
func factsIn(expression *cel.Ast, variables map[string]FactType) map[string]bool {
	names, selected, mentioned := map[string]bool{}, 0, 0
	isVariable := func(e ast.Expr) bool {
		if e.Kind() != ast.IdentKind {
			return false
		}
		_, ok := variables[e.AsIdent()]
		return ok
	}
	ast.PostOrderVisit(expression.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch {
		case isVariable(e):
			mentioned++
		case e.Kind() == ast.SelectKind && isVariable(e.AsSelect().Operand()):
			names[e.AsSelect().FieldName()] = true
			selected++
		}
	}))
	if mentioned != selected {
		return nil
	}
	return names
}
