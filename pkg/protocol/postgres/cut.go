package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// cutPatience bounds how long a target may take to cancel what has reached a
// limit; its rows are read and dropped until then.
const cutPatience = 20 * time.Second

// cut is a result that has reached a limit. Nothing more of it reaches the agent.
// The target is asked to cancel the statement, because only an error of its own
// keeps the transaction what the agent takes it for: aborted, with its
// savepoints. Nothing is sent to the target until both the CancelRequest is
// through and the statement has ended, so that the request can hit nothing else.
// Its fields but request and denial are guarded by pending.mu.
type cut struct {
	request *request
	denial  *protocol.Denial
	clock   *time.Timer // ends the session
	// requested: the target has taken the CancelRequest. ended: it has answered
	// the statement with an error.
	requested, ended bool
}

// spend charges a part of the result of s, a step of r. If it returns false, that
// part must not reach the agent, and was dropped.
func (x *exchange) spend(ctx context.Context, r *request, s *step, length int) (bool, error) {
	if !s.cut {
		given := protocol.Volume{Rows: r.given.Rows + s.tally.rows, Bytes: r.given.Bytes + s.tally.bytes}
		denial := s.ruling.Spend(given, protocol.Volume{Rows: 1, Bytes: uint64(length)})
		if denial == nil {
			return true, nil
		}
		s.cut = true
		if err := x.cutOff(ctx, r, denial); err != nil {
			return false, err
		}
	}
	if err := x.fromTarget.Discard(); err != nil {
		return false, fromUpstream(err)
	}
	return false, nil
}

// spendCall charges the value of a function that was called by its OID. It has
// run to its end, so that only the end of the session is left as a refusal.
func (x *exchange) spendCall(length int) error {
	x.pending.mu.Lock()
	r, err := x.pending.head(wire.FunctionCallResponse)
	x.pending.mu.Unlock()
	if err != nil {
		return fromUpstream(err)
	}
	s := r.step()
	if s.ruling.Spend == nil {
		return nil
	}
	denial := s.ruling.Spend(protocol.Volume{}, protocol.Volume{Rows: 1, Bytes: uint64(length)})
	if denial == nil {
		return nil
	}
	return x.tooLate(r, denial)
}

// cutOff ends the result of r, the first request. An error ends the session.
func (x *exchange) cutOff(ctx context.Context, r *request, denial *protocol.Denial) error {
	x.pending.mu.Lock()
	certain := x.pending.lastWord() && x.canceller != nil && denial.Reason == protocol.ReasonLimit
	if certain {
		x.pending.hold()
	}
	x.pending.mu.Unlock()
	if !certain {
		return x.tooLate(r, denial)
	}
	if err := x.finish(r, "", codeLimit, denial.Summary()); err != nil {
		return err
	}
	r.step().op = "" // its end is in the record
	c := &cut{request: r, denial: denial}
	c.clock = time.AfterFunc(cutPatience, func() {
		x.end(fmt.Errorf("cancel statement: no answer in %s: %w", cutPatience, denial))
	})
	x.pending.mu.Lock()
	x.cut = c
	x.pending.mu.Unlock()
	x.helpers.Go(func() {
		err := protocol.Guard(func() error { return x.canceller.send(ctx) })
		if err != nil {
			x.end(fmt.Errorf("%w: %w", denial, err))
			return
		}
		x.pending.mu.Lock()
		defer x.pending.mu.Unlock()
		c.requested = true
		x.release(c)
	})
	return nil
}

// tooLate ends the session for a denial: what the statement has done can't be
// undone any more, or what would be hit by a CancelRequest is not certain.
func (x *exchange) tooLate(r *request, denial *protocol.Denial) error {
	if err := x.finish(r, "", refusalOf(denial).code, denial.Summary()); err != nil {
		return err
	}
	return fmt.Errorf("end result: %w", denial)
}

// release lets the downstream direction go on when nothing of c is left to
// happen. pending.mu is held.
func (x *exchange) release(c *cut) {
	if c.requested && c.ended {
		c.clock.Stop()
		x.cut = nil
		x.pending.release()
	}
}

// cutOf returns the cut that an answer to r belongs to, or nil. pending.mu is
// held.
func (x *exchange) cutOf(r *request) *cut {
	if r == nil || x.cut == nil || x.cut.request != r || x.cut.ended {
		return nil
	}
	return x.cut
}

// behindCut takes what answers a statement whose result was cut, but for an
// error. The end of the data of a COPY is a part of the result. Anything else
// means that the target has done all that was asked before it was told to stop:
// to call that an error would be a lie about the transaction.
func (c *cut) behindCut(typ byte) error {
	if typ == wire.CopyDone {
		return nil
	}
	return fmt.Errorf("end result: the statement was completed before it was cancelled: %w", c.denial)
}

// send has the target cancel what runs in the session, on a connection of its
// own. The target closes that when it has done so.
func (s *cancelable) send(ctx context.Context) error {
	conn, err := s.session.Dial(ctx)
	if err != nil {
		return fmt.Errorf("dial for cancel request: %w", err)
	}
	plain := conn
	defer context.AfterFunc(ctx, func() { expire(plain) })()
	if s.encrypted {
		if conn, err = login.Secure(ctx, conn, s.session.Secure); err != nil {
			return fmt.Errorf("secure cancel request: %w", err)
		}
	}
	defer func() {
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.session.Log.Debug().Err(err).Msg("connection of a cancel request was gone before it was closed")
		}
	}()
	if _, err := conn.Write(wire.AppendCancel(nil, s.targetPID, s.targetKey)); err != nil {
		return fmt.Errorf("send cancel request: %w", err)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(conn, 1<<10)); err != nil {
		return fmt.Errorf("await cancel: %w", err)
	}
	return nil
}
