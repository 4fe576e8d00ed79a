package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/transparent"
)

// Accepter yields redirected connections. *[transparent.Listener] and
// *[transparent.Datagrams] are.
type Accepter interface {
	Accept() (*transparent.Conn, error)
	// SetDeadline makes Accept fail from t on; the zero time means never.
	SetDeadline(t time.Time) error
}

// Serve mediates what l accepts until ctx ends. Then it accepts nothing more,
// and gives the sessions that it began Limits.Drain to come to their end before
// it ends them. It does not close l: what is not accepted yet waits there for the
// next Serve, in this process or another, and whoever owns l closes it. One
// Gateway may serve many at the same time, but each of them once.
//
// It returns nil after the end of ctx, or the error of l if l was closed before.
func (g *Gateway) Serve(ctx context.Context, l Accepter) error {
	if err := l.SetDeadline(time.Time{}); err != nil {
		return err
	}
	sessionsCtx, endSessions := context.WithCancel(context.WithoutCancel(ctx))
	defer endSessions()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		if err := l.SetDeadline(time.Unix(1, 0)); err != nil && !errors.Is(err, net.ErrClosed) {
			g.Log.Warn().Err(err).Msg("listener not interrupted")
		}
	})
	var running sync.WaitGroup
	err := g.acceptLoop(ctx, l, func(c *transparent.Conn) { g.start(sessionsCtx, &running, c) })
	if !stop() {
		// A late interruption would hit the next one who serves l.
		<-interrupted
	}
	g.drain(&running, endSessions)
	g.refusals.flush(g)
	return err
}

// acceptLoop begins everything that l accepts, also what it accepts while ctx
// ends.
func (g *Gateway) acceptLoop(ctx context.Context, l Accepter, begin func(*transparent.Conn)) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			g.accepted.Add(1)
			begin(c)
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

func (g *Gateway) start(ctx context.Context, running *sync.WaitGroup, c *transparent.Conn) {
	if !g.take(&c.Origin) {
		g.Metrics.Error(metrics.StageAccept)
		g.refusals.add(g, c)
		// The agent sees a reset either way.
		_ = c.Reset()
		return
	}
	running.Go(func() {
		_ = g.serve(ctx, c) // it has said how that ended
		g.giveBack(&c.Origin)
	})
}

// drain gives running sessions time to come to their end, then ends them. It
// does not wait for ever for one that does not end: the process is about to.
func (g *Gateway) drain(running *sync.WaitGroup, endSessions context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		running.Wait()
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
