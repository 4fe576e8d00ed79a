package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
)

// maxStrays bounds the answers on one upstream connection that nobody waits
// for: late ones, and the guesses of a forger.
const maxStrays = 128

var (
	// errLost is returned where the upstream connection ended.
	errLost = errors.New("upstream connection is lost")
	// errSilent is returned where no answer came in time.
	errSilent = errors.New("upstream did not answer in time")
)

// waiter is a query that waits for its answer.
type waiter struct {
	q *query
	// take is called for each answer by the connection's reader. It is called
	// once, but for transfers.
	take func(message []byte) error
	// done is closed once take has returned, with its error in err.
	done chan struct{}
	err  error
	// more is sent to after each message of a transfer.
	more chan struct{}
	id   uint16
	seen bool
}

func newWaiter(q *query, take func([]byte) error) *waiter {
	return &waiter{q: q, take: take, done: make(chan struct{}), more: make(chan struct{}, 1)}
}

// upstream is one connection to the origin. It is safe for concurrent use.
type upstream struct {
	conn    net.Conn
	writing sync.Mutex
	// lost is closed when no more answers will come.
	lost chan struct{}

	mu       sync.Mutex
	waiting  map[uint16]*waiter
	answered bool
	strays   int
}

func newUpstream(conn net.Conn) *upstream {
	return &upstream{conn: conn, lost: make(chan struct{}), waiting: make(map[uint16]*waiter)}
}

// read hands out answers until the connection ends. It closes it.
func (u *upstream) read() (err error) {
	defer close(u.lost)
	// Nothing is said on the connection any more; whoever waits learns of it.
	defer func() { _ = u.conn.Close() }()
	in := frames{from: u.conn}
	for {
		message, err := in.next()
		if err != nil {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		if !u.deliver(message) {
			return fmt.Errorf("%w: it gave %d answers that nobody waits for", errLost, maxStrays)
		}
	}
}

// deliver hands a message to who waits for it. It reports whether there may be
// more of them.
func (u *upstream) deliver(message []byte) bool {
	w, strays := u.find(message)
	if w == nil {
		return strays < maxStrays
	}
	if !w.q.transfer() {
		defer close(w.done)
		w.err = w.take(message)
		return true
	}
	if err := w.take(message); err != nil {
		w.err = err
		u.forget(w)
		close(w.done)
		return true
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
	return true
}

// find returns who waits for a message, and takes it off the list unless there
// may be more messages for it. Where it is nobody it returns how often that was
// so.
func (u *upstream) find(message []byte) (w *waiter, strays int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(message) >= headerSize {
		w = u.waiting[readHeader(message).id]
		if w != nil && w.q.answeredBy(message, !w.seen) {
			u.answered, w.seen = true, true
			if !w.q.transfer() {
				delete(u.waiting, w.id)
			}
			return w, 0
		}
	}
	u.strays++
	return nil, u.strays
}

// forget takes w off the list. It reports whether it was on it: if not, its
// answer is there or being passed on.
func (u *upstream) forget(w *waiter) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.waiting[w.id] != w {
		return false
	}
	delete(u.waiting, w.id)
	return true
}

// expect puts w on the list under an id that nobody else there has.
func (u *upstream) expect(w *waiter, random func() uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	w.id = random()
	for u.waiting[w.id] != nil {
		w.id++ // far fewer wait than there are ids
	}
	u.waiting[w.id] = w
}

// send sends w's query under its id.
func (u *upstream) send(w *waiter, patience time.Duration) error {
	u.writing.Lock()
	defer u.writing.Unlock()
	if err := u.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("%w: set deadline: %w", errLost, err)
	}
	if _, err := u.conn.Write(framed(withID(w.q.message, w.id))); err != nil {
		// A message that is cut would make nonsense of the next one. The reader
		// notices, and says so to all who wait.
		_ = u.conn.Close()
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return nil
}

// stale reports whether the connection had served before it was lost: a server
// may close one that it takes for idle, at the moment at which it is used.
func (u *upstream) stale() bool {
	select {
	case <-u.lost:
	default:
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.answered
}

// origin is the session's way to its upstream: none, or one connection at a time.
type origin struct {
	dial func(ctx context.Context) (net.Conn, error)
	// turn holds a token; who has it may change current.
	turn    chan struct{}
	current *upstream
	readers sync.WaitGroup
	// lost is told why a connection ended.
	lost func(error)
}

func newOrigin(dial func(context.Context) (net.Conn, error), lost func(error)) *origin {
	o := &origin{dial: dial, lost: lost, turn: make(chan struct{}, 1)}
	o.turn <- struct{}{}
	return o
}

// connect returns the connection, and dials where there is none that lives.
func (o *origin) connect(ctx context.Context) (*upstream, error) {
	select {
	case <-o.turn:
		defer func() { o.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if o.current != nil {
		select {
		case <-o.current.lost:
		default:
			return o.current, nil
		}
	}
	conn, err := o.dial(ctx)
	if err != nil {
		return nil, err
	}
	u := newUpstream(conn)
	o.current = u
	o.readers.Go(func() { o.lost(protocol.Guard(u.read)) })
	return u, nil
}

// close ends the connection and waits for its reader. Nobody may be waiting, or
// begin to.
func (o *origin) close() {
	if o.current != nil {
		// It may have been lost by now.
		_ = o.current.conn.Close()
	}
	o.readers.Wait()
}
