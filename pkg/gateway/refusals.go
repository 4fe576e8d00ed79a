package gateway

import (
	"errors"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// Agents can have connections refused as fast as they can make them. What is
// written down of that per period has these bounds.
const (
	refusalPeriod     = time.Second
	refusalsPerTree   = 5  // sessions in the record
	refusalsPerPeriod = 50 // the same, of all trees
	refusalTrees      = 64 // trees with a summary of their own
)

// errLimit is the end of a connection above the limits of sessions.
var errLimit = errors.New("accept: as many sessions are open as may be")

// refusals keeps account of the connections that were refused at the limit of
// sessions. The first ones of a period are sessions in the record, and what is
// above the bounds is one event per tree. A period begins with its first
// refusal.
type refusals struct {
	mu       sync.Mutex
	trees    map[process.ID]*refusedTree // nil outside of a period
	recorded int
	period   *time.Timer
}

type refusedTree struct {
	recorded int
	more     audit.Refused // those that were not recorded one by one
}

// add accounts for one connection. It writes to the audit log.
func (r *refusals) add(g *Gateway, c *transparent.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trees == nil {
		r.trees = map[process.ID]*refusedTree{}
		r.period = time.AfterFunc(refusalPeriod, func() { r.flush(g) })
	}
	tree := r.treeOf(g, &c.Origin)
	if tree.recorded >= refusalsPerTree || r.recorded >= refusalsPerPeriod {
		tree.more.Count++
		return
	}
	tree.recorded++
	r.recorded++
	g.recordRefusal(c)
}

func (r *refusals) treeOf(g *Gateway, o *transparent.Origin) *refusedTree {
	root := o.Root
	if r.trees[root] == nil && len(r.trees) >= refusalTrees {
		root = process.ID{}
	}
	tree := r.trees[root]
	if tree == nil {
		tree = &refusedTree{more: audit.Refused{Root: root, Reason: endLimit}}
		if !root.IsZero() {
			tree.more.Agent, _ = g.Agent(o.Enrolment)
		}
		r.trees[root] = tree
	}
	return tree
}

// flush ends the period and writes down what was not recorded one by one.
func (r *refusals) flush(g *Gateway) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trees == nil {
		return
	}
	r.period.Stop()
	for _, tree := range r.trees {
		if tree.more.Count == 0 {
			continue
		}
		g.Log.Warn().Uint32("root", tree.more.Root.PID).Uint64("count", tree.more.Count).
			Msg("more connections refused at the limit of sessions")
		if err := g.Audit.Append(audit.KindRefused, tree.more); err != nil {
			g.unrecorded.Add(tree.more.Count)
			g.Log.Error().Err(err).Msg("refusals not recorded")
		}
	}
	r.trees, r.recorded = nil, 0
}

// recordRefusal makes a session in the record of a connection that never became
// one. What takes time is left out: nobody waits for the process to be known.
func (g *Gateway) recordRefusal(c *transparent.Conn) {
	s := g.open(c, nil)
	s.Log.Warn().Uint32("root", c.Origin.Root.PID).Msg("connection refused at the limit of sessions")
	err := protocol.Guard(func() error {
		s.stage = metrics.StageAccept
		s.agent, _ = g.Agent(c.Origin.Enrolment)
		s.Principal = g.Principals.Of(c.Origin.Root)
		return s.recordEnd(endLimit, errLimit)
	})
	if err != nil {
		s.Log.Error().Err(err).Msg("refusal not recorded")
	}
	if !s.ended {
		g.unrecorded.Add(1)
	}
}
