package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

const (
	// headStart is how long a query is waited for before the next one is looked
	// at: queries are decided and sent in their order unless one is held up, by
	// a person who has to be asked or an upstream that is slow to be reached.
	headStart = 250 * time.Millisecond
	// writePatience is how long an agent may take to take in an answer.
	writePatience = 10 * time.Second
)

// errIdle is how a session ends that nobody uses.
var errIdle = errors.New("session is idle")

// exchange is one session.
type exchange struct {
	*DNS
	s         *protocol.Session
	transport transparent.Transport
	idle      time.Duration
	origin    *origin
	// end ends the session with a cause.
	end context.CancelCauseFunc
	// slots holds a token for each query in flight, and one for the next.
	slots   chan struct{}
	queries sync.WaitGroup
	writing sync.Mutex

	mu       sync.Mutex
	inFlight int
	last     time.Time // when something last happened
}

// Serve answers queries until the agent ends its direction or says nothing for
// a while, and all that it asked is answered. Denials do not end it.
func (d *DNS) Serve(ctx context.Context, s *protocol.Session) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	x := &exchange{
		DNS: d, s: s, end: end, transport: s.Downstream.Origin.Transport, idle: d.options.IdleTCP,
		slots: make(chan struct{}, d.options.InFlight), last: time.Now(),
	}
	if x.transport == transparent.UDP {
		x.idle = d.options.IdleUDP
	}
	x.origin = newOrigin(s.Dial, x.lost)
	err := x.read(ctx)
	if err != nil && !errors.Is(err, errInside) {
		end(err)
	}
	x.queries.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx) // it may have ended while the last ones were answered
	}
	x.origin.close()
	return err
}

// lost is told why an upstream connection ended. It ends the session only where
// that was our own fault.
func (x *exchange) lost(err error) {
	var broken *protocol.Panic
	if errors.As(err, &broken) {
		x.end(err)
		return
	}
	x.s.Log.Debug().Err(err).Msg("upstream connection ended")
}

// read takes in queries and starts them, each once there is room for it.
func (x *exchange) read(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		// A connection that can't be given a deadline is closed.
		_ = x.s.Downstream.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	in := &frames{from: x.s.Downstream}
	for {
		select {
		case x.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		message, err := x.next(ctx, in)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, errIdle):
			return nil
		case err != nil:
			return err
		}
		x.start(ctx, parseQuery(message))
	}
}

// next reads a message. It waits as long as answers are on their way, and
// x.idle after the last.
func (x *exchange) next(ctx context.Context, in *frames) ([]byte, error) {
	for {
		limit := x.deadline()
		if err := x.s.Downstream.SetReadDeadline(limit); err != nil {
			return nil, fmt.Errorf("set read deadline: %w", err)
		}
		// Only now: the end of ctx sets a deadline too, and only once.
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		message, err := in.next()
		switch {
		case err == nil:
			return message, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case x.deadline().After(limit):
			continue
		case len(in.buf) > 0:
			return nil, errInside
		default:
			return nil, errIdle
		}
	}
}

func (x *exchange) deadline() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inFlight > 0 {
		return time.Now().Add(x.idle)
	}
	return x.last.Add(x.idle)
}

func (x *exchange) count(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.inFlight += n
	x.last = time.Now()
}

// start begins to answer q, and returns once q was sent or answered, or has had
// its head start.
func (x *exchange) start(ctx context.Context, q *query) {
	sent := make(chan struct{})
	under := sync.OnceFunc(func() { close(sent) })
	x.count(1)
	x.queries.Go(func() {
		defer func() {
			under()
			x.count(-1)
			<-x.slots
		}()
		if err := protocol.Guard(func() error { return x.answer(ctx, q, under) }); err != nil {
			x.end(err)
		}
	})
	head := time.NewTimer(headStart)
	defer head.Stop()
	select {
	case <-sent:
	case <-head.C:
	case <-ctx.Done():
	}
}
