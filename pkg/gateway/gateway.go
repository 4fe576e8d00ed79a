// Package gateway joins the stages of a mediated connection and owns its life:
// accept, attribute, identify, detect, decide, exchange. It knows no concrete
// protocol and no kernel. Start reading at serve.go.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

// Processes finds the process that made a connection; it waits until the event
// of that image has arrived. *[process.Tree] is one.
type Processes interface {
	Wait(ctx context.Context, id process.ID, exec uint64) (*process.Process, error)
}

// Principals tells on whose behalf a tree acts. *[identity.Binder] is one.
type Principals interface {
	Of(root process.ID) identity.Principal
}

// Options is everything that a Gateway needs. All fields are required but for
// those that say otherwise.
type Options struct {
	// Engine returns the policy in force. A nil engine denies.
	Engine func() *policy.Engine
	// Protocols in the order of detection. Opaque is the one that relays bytes
	// it does not look into: what observe mode falls back to.
	Protocols []protocol.Protocol
	Opaque    protocol.Protocol

	Processes Processes
	// Seed finds a process that was there before anybody watched, or whose
	// event was lost. It may be nil: such a process is then denied.
	Seed func(ctx context.Context, origin transparent.Origin) (*process.Process, error)
	// Agent returns the name of the policy's agent for an enrolment number.
	Agent      func(enrolment uint32) (string, bool)
	Principals Principals

	Credentials *credential.Store
	Dialer      upstream.Dialer
	Audit       *audit.Log
	Metrics     *metrics.Set
	Log         zerolog.Logger
	Limits      Limits
}

// Limits bounds what one daemon takes on. The zero value of a field means the
// default in its comment.
type Limits struct {
	Sessions  int           // mediated at the same time (10,000)
	PerTree   int           // of those, by one tree (1,000)
	Attribute time.Duration // until the lineage must be known (2 s)
	Detect    time.Duration // until the first bytes must be understood (3 s)
	Drain     time.Duration // for running sessions after the end was asked for (5 s)
	// RecordBytes bounds what one frame of results adds to a recording (64 KiB).
	// Less than zero keeps no results, only what was asked and decided.
	RecordBytes int
}

func (l *Limits) setDefaults() {
	setDefault(&l.Sessions, 10_000)
	setDefault(&l.PerTree, 1000)
	setDefault(&l.Attribute, 2*time.Second)
	setDefault(&l.Detect, 3*time.Second)
	setDefault(&l.Drain, 5*time.Second)
	setDefault(&l.RecordBytes, 64<<10)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Gateway mediates connections. It is safe for concurrent use.
type Gateway struct {
	Options

	sessions atomic.Int64
	running  sync.WaitGroup

	mu    sync.Mutex
	trees map[process.ID]int    // sessions by the root of their tree
	live  map[*session]struct{} // those that may exchange bytes
}

// New returns a Gateway, or an error that names what is missing: a gateway
// without a policy, an audit log or a process table would have to guess.
func New(o Options) (*Gateway, error) {
	for name, missing := range map[string]bool{
		"Engine": o.Engine == nil, "Protocols": len(o.Protocols) == 0, "Opaque": o.Opaque == nil,
		"Processes": o.Processes == nil, "Agent": o.Agent == nil, "Principals": o.Principals == nil,
		"Audit": o.Audit == nil,
	} {
		if missing {
			return nil, fmt.Errorf("make gateway: %s is missing", name)
		}
	}
	o.Limits.setDefaults()
	return &Gateway{Options: o, trees: map[process.ID]int{}, live: map[*session]struct{}{}}, nil
}

// Accepter yields redirected connections. *[transparent.Listener] is one.
type Accepter interface {
	Accept() (*transparent.Conn, error)
	Close() error
}

// Sessions returns how many connections are being mediated.
func (g *Gateway) Sessions() int { return int(g.sessions.Load()) }

// Serve mediates what l accepts until ctx ends, then closes l and gives the
// running sessions Limits.Drain to come to their end before it ends them.
func (g *Gateway) Serve(ctx context.Context, l Accepter) error {
	sessionsCtx, endSessions := context.WithCancel(context.WithoutCancel(ctx))
	defer endSessions()
	stop := context.AfterFunc(ctx, func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			g.Log.Warn().Err(err).Msg("listener not closed")
		}
	})
	defer stop()
	err := g.acceptLoop(ctx, sessionsCtx, l)
	g.drain(endSessions)
	return err
}

func (g *Gateway) acceptLoop(ctx, sessionsCtx context.Context, l Accepter) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			g.start(sessionsCtx, c)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			// Out of descriptors, most likely. What waits in the backlog is
			// neither let through nor lost while others end.
			g.Metrics.Error(metrics.StageAccept)
			g.Log.Error().Err(err).Msg("connection not accepted")
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func (g *Gateway) start(ctx context.Context, c *transparent.Conn) {
	if !g.take(c.Origin.Root) {
		g.Metrics.Error(metrics.StageAccept)
		g.Log.Warn().Uint32("root", c.Origin.Root.PID).Msg("connection refused at the limit of sessions")
		// The agent sees a reset either way.
		_ = c.Reset()
		return
	}
	g.running.Go(func() {
		defer g.giveBack(c.Origin.Root)
		if err := g.serve(ctx, c); err != nil {
			g.Log.Debug().Err(err).Msg("session ended with an error")
		}
	})
}

// take counts one more session of a tree, unless that or the daemon has as many
// as it may have: one tree must not use up what all share.
func (g *Gateway) take(root process.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions.Load() >= int64(g.Limits.Sessions) || g.trees[root] >= g.Limits.PerTree {
		return false
	}
	g.sessions.Add(1)
	g.trees[root]++
	return true
}

func (g *Gateway) giveBack(root process.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions.Add(-1)
	if g.trees[root]--; g.trees[root] <= 0 {
		delete(g.trees, root)
	}
}

// drain gives running sessions time to come to their end, then ends them. It
// does not wait for ever for one that does not end: the process is about to.
func (g *Gateway) drain(endSessions context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		g.running.Wait()
		close(done)
	}()
	for range 2 {
		select {
		case <-done:
			return
		case <-time.After(g.Limits.Drain):
			endSessions()
		}
	}
	g.Log.Error().Int("sessions", g.Sessions()).Msg("sessions did not end when they were told to")
}
