package policy

import "strings"

// rank tells why an outcome is what it is. Of two outcomes with the same
// verdict, the one that says more is kept, so that the reason given does not
// depend on any order.
type rank uint8

const (
	rankUndecided rank = iota
	rankRule
	rankImplied
	rankError
	rankUnknownResource
	rankUnknownOperation
	rankUnmatched
)

func (r rank) reason() string {
	switch r {
	case rankRule:
		return ReasonRule
	case rankImplied:
		return ReasonImplied
	case rankUnknownOperation:
		return ReasonUnknownOperation
	case rankUnmatched:
		return ReasonUnmatched
	case rankUnknownResource:
		return ReasonUnknownResource
	default:
		return ReasonError
	}
}

// outcome is what was found for an effect, or for several.
type outcome struct {
	verdict Verdict
	rank    rank
	rule    *rule
	// observed says that it rests on a default that only observes.
	observed bool
}

// undecided is what nothing was said about: it gives way to everything.
var undecided = outcome{verdict: Deny, rank: rankUndecided}

func (o outcome) name() string {
	if o.rule == nil {
		return DefaultRule
	}
	return o.rule.name
}

// and returns the more restrictive of two outcomes. It is commutative and
// associative.
func (o outcome) and(p outcome) outcome {
	switch {
	case o.rank == rankUndecided:
		return p
	case p.rank == rankUndecided:
		return o
	case o.verdict != p.verdict:
		if p.verdict < o.verdict {
			return p
		}
		return o
	case o.observed != p.observed:
		if p.observed {
			return p
		}
		return o
	case o.rank != p.rank:
		return o.tellingMore(p)
	}
	if strings.Compare(p.name(), o.name()) < 0 {
		return p
	}
	return o
}

// tellingMore chooses between outcomes of the same verdict: of denials the one
// by a rule, of permissions the one by default, because what passed by default
// was not meant by anybody.
func (o outcome) tellingMore(p outcome) outcome {
	if (o.verdict == Deny) == (o.rank < p.rank) {
		return o
	}
	return p
}

// or returns the more permissive of two outcomes: what is left to somebody who
// has several ways. Of the same verdict, what a rule says comes first.
func (o outcome) or(p outcome) outcome {
	switch {
	case o.rank == rankUndecided:
		return p
	case p.rank == rankUndecided:
		return o
	case o.verdict != p.verdict:
		if p.verdict > o.verdict {
			return p
		}
		return o
	case o.observed != p.observed:
		if o.observed {
			return p
		}
		return o
	case p.rank < o.rank, p.rank == o.rank && p.name() < o.name():
		return p
	}
	return o
}

// outcomes are what everything together says, and what the part of it that acts
// says.
type outcomes struct{ full, acting outcome }

func (a outcomes) and(b outcomes) outcomes {
	return outcomes{a.full.and(b.full), a.acting.and(b.acting)}
}

func (a outcomes) or(b outcomes) outcomes {
	return outcomes{a.full.or(b.full), a.acting.or(b.acting)}
}

// settled reports whether or can add nothing but another name.
func (a outcomes) settled() bool {
	return a.full.verdict == Allow && a.acting.verdict == Allow && !a.acting.observed
}

// otherwise takes from b what a leaves undecided.
func (a outcomes) otherwise(b outcomes) outcomes {
	if a.full.rank == rankUndecided {
		a.full = b.full
	}
	if a.acting.rank == rankUndecided {
		a.acting = b.acting
	}
	return a
}

// nothing is what is found where nothing is said.
var nothing = outcomes{undecided, undecided}
