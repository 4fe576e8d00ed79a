package main

import (
	"sync"

	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
)

// directRules names the rules for which the kernel side counts what never
// reaches the proxy. Names are known for as long as the daemon runs: a
// connection may end long after its rule. What an earlier daemon's rules have
// counted, which no policy of this one has, is counted as [metrics.Other], and
// stays there should the rule come back: no counter may fall. The zero value is
// ready, and safe for concurrent use.
type directRules struct {
	mu      sync.Mutex
	names   map[uint64]string
	unnamed map[uint64]metrics.DirectFlows // what was counted as other
}

// learn takes in the names of a policy's rules. It must come before the kernel
// is told of them.
func (r *directRules) learn(engine *policy.Engine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		r.names = map[uint64]string{0: policy.DefaultRule}
	}
	for _, d := range engine.Destinations() {
		if number := ruleNumber(d.Rule); number != 0 {
			r.names[number] = d.Rule
		}
	}
}

// name sums up by rule. Before the first policy there is nothing to tell: rules
// that have names would be counted as other.
func (r *directRules) name(counted map[uint64]kernel.DirectFlows) map[string]metrics.DirectFlows {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		return nil
	}
	if r.unnamed == nil {
		r.unnamed = map[uint64]metrics.DirectFlows{}
	}
	named := make(map[string]metrics.DirectFlows)
	for number, k := range counted {
		flows := metrics.DirectFlows(k)
		name, known := r.names[number]
		if !known {
			// Of two scrapes at a time, the one that read first may come last.
			r.unnamed[number] = r.unnamed[number].Max(flows)
		} else {
			named[name] = named[name].Plus(flows.Minus(r.unnamed[number]))
		}
	}
	for _, flows := range r.unnamed {
		named[metrics.Other] = named[metrics.Other].Plus(flows)
	}
	return named
}
