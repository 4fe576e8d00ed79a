package dns

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// answer is the life of one query. An error ends the session. sent is called
// when it was sent.
func (x *exchange) answer(ctx context.Context, q *query, sent func()) error {
	ruling, err := x.s.Decide(ctx, q.operation())
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && q.mute:
		return nil // a denial, of what has no answer
	case err != nil:
		return x.write(q.answer(dns.RcodeRefused, blocked(protocol.AsDenial(err, x.s.ID), dns.ExtendedErrorCodeBlocked), x.transport))
	case q.mute:
		return x.s.Record(failed(ruling.ID, "", "dropped: "+q.reason))
	}
	err = x.ask(ctx, q, ruling.ID, sent)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var failure *upstreamError
	if !errors.As(err, &failure) {
		return err
	}
	x.s.Log.Warn().Err(failure.err).Str("op", ruling.ID).Msg("query got no answer")
	return x.fail(q, ruling.ID, explanation{dns.ExtendedErrorCodeNetworkError, failure.public()})
}

// upstreamError is a failure that the agent is told of, in place of an answer.
type upstreamError struct{ err error }

func (e *upstreamError) Error() string { return e.err.Error() }
func (e *upstreamError) Unwrap() error { return e.err }

// public says what happened in words without addresses.
func (e *upstreamError) public() string {
	for _, known := range []error{errSilent, errLost} {
		if errors.Is(e.err, known) {
			return known.Error()
		}
	}
	return "upstream could not be reached"
}

// ask sends q and waits until its answer was passed on. It tries again, once,
// on a new connection if the one that it used had gone stale.
func (x *exchange) ask(session context.Context, q *query, op string, sent func()) error {
	ctx, cancel := context.WithTimeoutCause(session, x.options.Patience, errSilent)
	defer cancel()
	for attempt := 0; ; attempt++ {
		u, err := x.origin.connect(ctx)
		if err != nil {
			return &upstreamError{err}
		}
		w := newWaiter(q, func(message []byte) error { return x.pass(q, op, message) })
		u.expect(w, x.options.QueryID)
		if err := u.send(w, x.options.Patience); err != nil {
			<-u.lost
		}
		sent()
		if q.transfer() {
			return x.awaitTransfer(session, u, w)
		}
		err = await(ctx, u, w)
		if attempt > 0 || x.transport != transparent.TCP || !errors.Is(err, errLost) || !u.stale() {
			return err
		}
	}
}

// await waits until w's answer was passed on.
func await(ctx context.Context, u *upstream, w *waiter) error {
	cause := errLost
	select {
	case <-w.done:
		return w.err
	case <-u.lost:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	if u.forget(w) {
		return &upstreamError{cause}
	}
	<-w.done
	return w.err
}

// awaitTransfer waits until no message has come for a while: where a transfer
// ends is for the agent to know, who has all of it by then.
func (x *exchange) awaitTransfer(ctx context.Context, u *upstream, w *waiter) error {
	quiet := time.NewTimer(x.options.Patience)
	defer quiet.Stop()
	cause := errSilent
	for waiting := true; waiting; {
		select {
		case <-w.done:
			return w.err
		case <-w.more:
			quiet.Reset(x.options.Patience)
		case <-u.lost:
			waiting, cause = false, errLost
		case <-quiet.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	if !u.forget(w) {
		<-w.done
		return w.err
	}
	if w.seen {
		return nil
	}
	return &upstreamError{cause}
}

// pass records an answer, learns from it, and gives it to the agent.
func (x *exchange) pass(q *query, op string, message []byte) error {
	strip := stripKeys
	if x.s.Observe {
		strip = nil
	}
	f, err := readAnswer(q, message, strip)
	if err != nil && !x.s.Observe {
		if !f.truncated || q.question == nil {
			return x.fail(q, op, explanation{dns.ExtendedErrorCodeInvalidData, err.Error()})
		}
		// Some servers cut their answers anywhere. The agent asks again by TCP.
		message = headOf(message, q)
		f = facts{rcode: f.rcode, truncated: true}
	}
	if err := x.s.Record(passed(op, f, len(message))); err != nil {
		return fmt.Errorf("record answer: %w", err)
	}
	if len(f.told.Addrs) > 0 {
		x.s.Learn(f.told)
	}
	return x.write(withID(message, q.id))
}

// headOf returns the header and the question of an answer.
func headOf(message []byte, q *query) []byte {
	b := append([]byte(nil), message[:headerSize]...)
	clear(b[4:])
	b[5] = 1
	return append(b, q.question...)
}

// fail records a failure and tells the agent SERVFAIL.
func (x *exchange) fail(q *query, op string, why explanation) error {
	if err := x.s.Record(failed(op, rcodeName(dns.RcodeServerFailure), why.text)); err != nil {
		return fmt.Errorf("record failure: %w", err)
	}
	why.text = "headgate: " + why.text
	return x.write(q.answer(dns.RcodeServerFailure, why, x.transport))
}

func (x *exchange) write(message []byte) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	return write(x.s.Downstream, message)
}

func write(down *transparent.Conn, message []byte) error {
	if err := down.SetWriteDeadline(time.Now().Add(writePatience)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	if _, err := down.Write(framed(message)); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}
