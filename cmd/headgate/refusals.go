package main

import (
	"context"
	"hash/fnv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

const (
	// refusalWindow is how long equal refusals are counted in one event.
	refusalWindow = time.Second
	// refusalRoom bounds the events of one tree in a window, and refusalTrees the
	// trees; what is beyond is counted for all together.
	refusalRoom  = 20
	refusalTrees = 256
)

// refusals writes down what the kernel side refused. An agent may cause any
// number of refusals: equal ones in a window are one event, and a tree has only
// so many events in it.
type refusals struct {
	d     *daemon
	rules ruleNames
	trees map[process.ID]*refusedTree
	rest  uint64
}

type refusedTree struct {
	agent  string
	events map[refusalKey]*audit.EscapeAttempt
	rest   uint64
}

type refusalKey struct {
	kind, target, rule string
	observed           bool
	process            process.ID
}

// ruleNames knows rules by their numbers in the kernel, also those of policies
// before: what they refused may still be on its way. The zero ruleNames knows
// none.
type ruleNames struct {
	names map[uint64]string
	of    *policy.Engine // the latest policy that was read
}

// name returns the name of the rule with a number; empty where there is none, or
// none that came into force yet.
func (n *ruleNames) name(number uint64, engine *policy.Engine) string {
	if number == 0 {
		return ""
	}
	if n.of != engine || n.names == nil {
		n.of = engine
		n.read(engine)
	}
	return n.names[number]
}

func (n *ruleNames) read(engine *policy.Engine) {
	if n.names == nil {
		n.names = map[uint64]string{}
	}
	for _, d := range engine.Destinations() {
		n.names[ruleNumber(d.Rule)] = d.Rule
	}
	for _, s := range engine.UnixSockets() {
		n.names[ruleNumber(s.Rule)] = s.Rule
	}
}

// ruleNumber numbers a rule for the kernel; zero stands for none. The number is
// in maps that outlive the daemon, so it depends on nothing but the name.
func ruleNumber(rule string) uint64 {
	if rule == "" {
		return 0
	}
	h := fnv.New64a()
	// Writing to a hash never fails.
	_, _ = h.Write([]byte(rule))
	return max(1, h.Sum64())
}

// watch reads refusals until ctx ends.
func (r *refusals) watch(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	heard := make(chan kernel.Refusal, 256)
	ended := make(chan error, 1)
	go func() {
		ended <- r.d.kernel.Refusals(ctx, func(k kernel.Refusal) error {
			select {
			case heard <- k:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	window := time.NewTimer(0) // runs while something is counted
	window.Stop()
	defer window.Stop()
	for {
		select {
		case k := <-heard:
			begun := r.counting()
			if r.take(k); !begun && r.counting() {
				window.Reset(refusalWindow)
			}
		case <-window.C:
			r.flush()
		case err := <-ended:
			r.flush()
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// counting reports whether there is anything that flush would end.
func (r *refusals) counting() bool { return r.trees != nil || r.rest > 0 }

// take writes the first of equal refusals at once, and counts the others.
func (r *refusals) take(k kernel.Refusal) {
	if k.Reason == "denied_no_listener" && k.Netns != 0 {
		r.d.proxies.seen(k.Netns, k.Process)
	}
	if k.Enrolment == enrolmentOf(canaryAgent) {
		return
	}
	if r.trees == nil {
		r.trees = map[process.ID]*refusedTree{}
	}
	tree := r.trees[k.Root]
	if tree == nil {
		if len(r.trees) >= refusalTrees {
			r.rest++
			return
		}
		agent, _ := r.d.policies.Agent(k.Enrolment)
		tree = &refusedTree{agent: agent, events: map[refusalKey]*audit.EscapeAttempt{}}
		r.trees[k.Root] = tree
	}
	event := escapeOf(k)
	event.Rule = r.rules.name(k.Rule, r.d.policies.Engine())
	key := refusalKey{event.Kind, event.Target, event.Rule, event.Observed, event.Process}
	if seen := tree.events[key]; seen != nil {
		seen.Count++
		return
	}
	if len(tree.events) >= refusalRoom {
		tree.rest++
		return
	}
	event.Agent = tree.agent
	if k.Target.IsValid() {
		event.NameSource = audit.NameSourceNone
		if event.Names = r.d.names.Of(k.Root, k.Target.Addr(), time.Now()); len(event.Names) > 0 {
			event.NameSource = audit.NameSourceDNS
		}
	}
	if p := r.d.tree.Guess(k.Process); p != nil {
		event.Lineage, _ = audit.Lineage(p)
	}
	r.write(event)
	event.Count = 0
	tree.events[key] = &event
}

func escapeOf(k kernel.Refusal) audit.EscapeAttempt {
	e := audit.EscapeAttempt{
		Kind: escapeKind(k.Reason), Observed: k.Observed, Root: k.Root, Process: k.Process, UID: k.UID,
		Target: k.Path, Family: k.Family, Type: k.Type, Protocol: k.Protocol, Count: 1,
	}
	if k.Target.Port() != 0 || k.Target.IsValid() {
		e.Target = k.Target.String()
	}
	return e
}

// escapeKind is a reason of the kernel side as events and metrics have it.
func escapeKind(reason string) string { return strings.TrimPrefix(reason, "denied_") }

// flush writes what was counted, and begins a new window.
func (r *refusals) flush() {
	for root, tree := range r.trees {
		for _, event := range tree.events {
			if event.Count > 0 {
				r.write(*event)
			}
		}
		if tree.rest > 0 {
			r.write(audit.EscapeAttempt{Agent: tree.agent, Root: root, Count: tree.rest})
		}
	}
	if r.rest > 0 {
		r.write(audit.EscapeAttempt{Count: r.rest})
	}
	r.trees, r.rest = nil, 0
}

// write records an event. What was refused stays refused if that fails; the
// record's own health is what denies everything then.
func (r *refusals) write(event audit.EscapeAttempt) {
	if err := r.d.audit.Append(audit.KindEscape, event); err != nil {
		r.d.log.Error().Err(err).Str("kind", event.Kind).Msg("refusal not recorded")
		return
	}
	r.d.log.Info().Str("kind", event.Kind).Uint32("pid", event.Process.PID).Str("target", event.Target).
		Str("rule", event.Rule).Bool("observed", event.Observed).Uint64("count", event.Count).Msg("refused in the kernel")
}
