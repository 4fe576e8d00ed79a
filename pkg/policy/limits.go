package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limit is what one rule bounds of the operations that it allows. A zero field
// bounds nothing. It is a value; a [Decision] holds a copy.
type Limit struct {
	// Rule is the name of the rule.
	Rule string
	// Rows and Bytes bound the result of one operation.
	Rows, Bytes uint64
	// PerMinute bounds what all operations of one tree that the rule allows come
	// to in any minute.
	PerMinute Rate
}

// Rate bounds what happens in a minute. A zero field bounds nothing.
type Rate struct{ Operations, Rows, Bytes uint64 }

// Empty reports whether the limit bounds nothing.
func (l *Limit) Empty() bool { return l.Rows == 0 && l.Bytes == 0 && l.PerMinute == Rate{} }

// limitsSyntax bounds what a rule with effect allow or approve allows. What is
// left out is not bounded.
type limitsSyntax struct {
	// Rows bounds the rows in the result of one operation.
	Rows count `yaml:"rows"`
	// Bytes bounds the size of the result of one operation, as in 50MiB.
	Bytes size `yaml:"bytes"`
	// PerMinute bounds what one tree may have by this rule in a minute.
	PerMinute rateSyntax `yaml:"per_minute"`
}

type rateSyntax struct {
	Operations count `yaml:"operations"`
	Rows       count `yaml:"rows"`
	Bytes      size  `yaml:"bytes"`
}

// maxAmount bounds every limit, so that sums do not overflow.
const maxAmount = math.MaxInt64 / 4

// count is a number of things. It is not 0: who may have nothing is denied.
type count uint64

// UnmarshalText reads a decimal number.
func (c *count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return fmt.Errorf("%q is not a number, as in 10000", text)
	}
	*c = count(n)
	return checkAmount(n, 1)
}

// size is a number of bytes.
type size uint64

// sizeUnits are what may stand behind a number of bytes.
var sizeUnits = []struct {
	name  string
	bytes uint64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// UnmarshalText reads what [ParseSize] does.
func (s *size) UnmarshalText(text []byte) error {
	n, err := ParseSize(string(text))
	*s = size(n)
	return err
}

// ParseSize reads a limit as policies have it: a decimal number above 0, with a unit
// of bytes behind it or without.
func ParseSize(text string) (uint64, error) {
	number, unit := text, uint64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSuffix(rest, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of bytes, as in 65536 or 50MiB", text)
	}
	if err := checkAmount(n, unit); err != nil {
		return 0, err
	}
	return n * unit, nil
}

func checkAmount(n, unit uint64) error {
	switch {
	case n == 0:
		return errors.New("want at least 1; where nothing is to be allowed, use effect: deny")
	case n > maxAmount/unit:
		return fmt.Errorf("want at most %d; where everything is to be allowed, leave it out", uint64(maxAmount))
	}
	return nil
}

// limits checks the limits of a rule beyond their form.
func (c *checker) limits(at string, r ruleSyntax) {
	at += ".limits"
	if r.Effect == "deny" {
		c.bad(at, "limits are for rules with effect: allow or approve")
	}
	perMinute := at + ".per_minute"
	if !c.given(at+".rows") && !c.given(at+".bytes") && !c.given(perMinute) {
		c.bad(at, "limits: want rows, bytes, per_minute or several of them")
	}
	if c.given(perMinute) && !c.given(perMinute+".operations") && !c.given(perMinute+".rows") && !c.given(perMinute+".bytes") {
		c.bad(perMinute, "per_minute: want operations, rows, bytes or several of them")
	}
}

func (l limitsSyntax) limit(rule string) Limit {
	return Limit{
		Rule: rule, Rows: uint64(l.Rows), Bytes: uint64(l.Bytes),
		PerMinute: Rate{
			Operations: uint64(l.PerMinute.Operations), Rows: uint64(l.PerMinute.Rows), Bytes: uint64(l.PerMinute.Bytes),
		},
	}
}

// keepsLimits refuses limits where nobody counts: a limit that is not kept is
// worse than none, because somebody relies on it.
func (c *compiler) keepsLimits(f *File, at string, r *rule, res *resource) {
	if r.limit.Empty() {
		return
	}
	if _, concerns := r.candidate(Connect); !concerns {
		return
	}
	counts := res.kind == inspected && res.Protocol != protocolTCP
	if c.Metered != nil {
		counts = counts && slices.Contains(c.Metered, res.Protocol)
	}
	if counts {
		return
	}
	what := res.kind.key()
	if res.kind == inspected {
		what = "protocol: " + res.Protocol
	}
	c.bad(f, at+".limits", "rule %s: nobody counts what comes from resource %s (%s), so that limits can't be kept there; give it a rule without limits",
		r.name, res.Name, what)
}

// limits returns the limits of all enforced rules that let an operation pass at
// the resources of a view. What was not understood may be anything, so that the
// limits of every rule hold for it. Connecting is not counted.
func (v *view) limits(req *Request) []Limit {
	var list []Limit
	for i := range v.resources {
		r := &v.resources[i]
		if len(r.limited) == 0 {
			continue
		}
		all := hasUnknown(&req.Operation)
		for _, one := range r.limited {
			if known := slices.ContainsFunc(list, func(l Limit) bool { return l.Rule == one.name }); known {
				continue
			}
			if all || one.concerns(req, r.at) {
				list = append(list, one.limit)
			}
		}
	}
	slices.SortFunc(list, func(a, b Limit) int { return strings.Compare(a.Rule, b.Rule) })
	return list
}

// concerns reports whether the rule allows one of the operation's effects, be it
// with others.
func (r *rule) concerns(req *Request, at *Resource) bool {
	covered := slices.ContainsFunc(req.Operation.Effects, func(effect string) bool {
		return effect != Connect && effect != Unknown && (r.star || slices.Contains(r.operations, effect))
	})
	if !covered || r.condition == nil {
		return covered
	}
	holds, err := r.condition.Eval(req, at)
	return holds || err != nil // an error has denied the operation already
}
