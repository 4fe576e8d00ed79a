package postgres

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/protocol"
)

// drainPatience bounds how long what an agent left behind is looked after, and
// maxDrains how much of it at the same time. What is beyond is not seen any more.
const (
	drainPatience = 10 * time.Minute
	maxDrains     = 64
)

// hangUp ends the connection to the target, of which nobody reads or writes any
// more. A target that may still commit a definition is waited for in the
// background: only it can tell when that is done. handed tells that the connection
// is not the session's any more.
func (x *exchange) hangUp() (handed bool) {
	x.pending.mu.Lock()
	left, ended := departure{x.database, x.changing != 0, x.storing, x.leading}, x.ended
	x.changing, x.storing = 0, false
	x.pending.mu.Unlock()
	if (left.changing || left.storing || left.leading) && !ended {
		x.postgres.look(x.target, left, x.session.Log)
		return true
	}
	left.seen()
	if err := x.target.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		x.session.Log.Debug().Err(err).Msg("upstream connection was gone before it was closed")
	}
	return false
}

// departure is what a session has told the others that it does, when it is gone.
type departure struct {
	database                   *database
	changing, storing, leading bool
}

// seen takes it back: the target was seen to have done it.
func (d departure) seen() {
	if d.changing {
		d.database.closed()
	}
	if d.storing {
		d.database.stored()
	}
	if d.leading {
		d.database.added()
	}
}

// unseen is for a target that may still do it, until hardAge is over.
func (d departure) unseen(now time.Time) {
	if d.changing {
		d.database.lost(now.Add(hardAge))
	}
	if d.storing {
		time.AfterFunc(hardAge, d.database.stored)
	}
}

// look waits in the background until the target has ended the connection: it has
// done all that it was sent then. It takes over conn, and the session's part in
// the database.
func (p *Postgres) look(conn net.Conn, left departure, log zerolog.Logger) {
	select {
	case p.drains <- struct{}{}:
	default:
		left.unseen(p.known.now())
		_ = conn.Close() // nothing of it is of use any more
		return
	}
	left.database.enterAgain()
	go func() {
		defer func() { <-p.drains }()
		defer left.database.leave()
		err := protocol.Guard(func() error { return drain(conn) })
		if err != nil {
			log.Warn().Err(err).Msg("target was not seen to end a session that may define or store something: masks are at their strictest for a while")
			left.unseen(p.known.now())
		} else {
			left.seen()
		}
		_ = conn.Close() // the target has ended it, or nothing of it is of use any more
	}()
}

func drain(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(drainPatience)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return fmt.Errorf("end session: %w", err)
		}
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("await end of session: %w", err)
	}
	return nil
}
