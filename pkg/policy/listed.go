package policy

// Refuses reports whether a rule that acts, and that concerns the request's
// principal, agent and target, may refuse one of the effects, or leave it to a
// person, where some rule there lists the effect by its name. Conditions are not
// asked. It is for protocols that can find out more about an effect at a cost: a
// rule with "*", and the default for what no rule says, are not worth it.
func (e *Engine) Refuses(req *Request, effects ...string) bool {
	if e == nil || !e.compiled || req == nil {
		return false
	}
	g := e.group(req)
	if g == nil {
		return false
	}
	v := e.view(g, req)
	for i := range v.resources {
		for _, effect := range effects {
			for _, c := range v.resources[i].effects[effect] {
				if c.verdict != Allow && c.rule.mode == Enforce {
					return true
				}
			}
		}
	}
	return false
}
