package tls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

const (
	// helloPatience is how long an agent may take for its hello.
	helloPatience = 10 * time.Second
	// refusePatience is how long a refused one may take for it: an alert in
	// front of the hello is understood as well, but an agent whose hello lies
	// unread when the connection ends may see a reset in place of the alert.
	refusePatience = time.Second
	writePatience  = 5 * time.Second

	accessDenied = 49 // RFC 8446 section 6.2
)

// errSilent is returned by readHello when the agent left without a byte.
var errSilent = errors.New("agent said nothing")

// Serve decides on the hello, dials, and copies both ways until both sides have
// ended. Nothing of what the agent sent is changed. A denial is what it returns,
// after the alert.
func (*Protocol) Serve(ctx context.Context, s *protocol.Session) error {
	h, err := readHello(ctx, s.Downstream, helloPatience)
	if errors.Is(err, errSilent) {
		return nil
	}
	op := operation(h)
	if err != nil {
		op = unknown(err)
	}
	ruling, err := s.Decide(ctx, op)
	if err != nil {
		return errors.Join(err, refuse(s.Downstream))
	}
	return exchange(ctx, s, ruling.ID)
}

func exchange(ctx context.Context, s *protocol.Session, op string) error {
	up, err := s.Dial(ctx)
	if err != nil {
		return errors.Join(err, s.Downstream.Reset())
	}
	upBytes, downBytes, err := upstream.CopyBoth(ctx, s.Downstream, up)
	// What counts was said by CopyBoth; the upstream may be closed or reset.
	_ = up.Close()
	if err != nil {
		// The agent must not take a cut stream for an orderly end.
		err = errors.Join(err, s.Downstream.Reset())
	}
	return errors.Join(err, s.Record(result(op, upBytes, downBytes, err)))
}

func result(op string, up, down int64, err error) protocol.Frame {
	outcome := &protocol.Outcome{Bytes: uint64(up) + uint64(down)}
	if err != nil {
		outcome.Error = "connection was cut"
	}
	return protocol.Frame{
		Op: op, Kind: protocol.FrameResult, Outcome: outcome,
		Text: fmt.Sprintf("up=%d down=%d", up, down),
	}
}

// Refuse sends the alert access_denied. It reads the hello first, so that the
// end of the connection doesn't overtake the alert.
func (*Protocol) Refuse(ctx context.Context, s *protocol.Session, _ *protocol.Denial) error {
	// What the hello says doesn't matter any more, nor whether it is one.
	_, _ = readHello(ctx, s.Downstream, refusePatience)
	return refuse(s.Downstream)
}

func refuse(down *transparent.Conn) error {
	if err := down.SetWriteDeadline(time.Now().Add(writePatience)); err != nil {
		return fmt.Errorf("set alert deadline: %w", err)
	}
	if _, err := down.Write(alert(accessDenied)); err != nil {
		return fmt.Errorf("write alert: %w", err)
	}
	if err := down.CloseWrite(); err != nil {
		return fmt.Errorf("end downstream: %w", err)
	}
	return nil
}

// readHello reads ahead until the hello is complete, and consumes nothing. The
// error says why what was read is no hello; it is errSilent if there is nothing
// to say no to.
func readHello(ctx context.Context, down *transparent.Conn, patience time.Duration) (hello, error) {
	if err := down.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return hello{}, fmt.Errorf("set hello deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		// A connection that can't be given a deadline is closed.
		_ = down.SetReadDeadline(time.Unix(1, 0))
	})
	h, err := fillHello(down)
	if !stop() {
		return hello{}, fmt.Errorf("read hello: %w", context.Cause(ctx))
	}
	if resetErr := down.SetReadDeadline(time.Time{}); resetErr != nil {
		return hello{}, fmt.Errorf("clear hello deadline: %w", resetErr)
	}
	return h, err
}

func fillHello(down *transparent.Conn) (hello, error) {
	b := down.Peeked()
	for {
		body, need, err := helloBody(b)
		if err != nil {
			return hello{}, err
		}
		if body != nil {
			return parseHello(body)
		}
		for len(b) < need {
			if b, err = down.Fill(); err != nil {
				return hello{}, incomplete(len(b), err)
			}
		}
	}
}

// incomplete says why the hello did not come, in words without addresses.
func incomplete(n int, err error) error {
	switch {
	case n == 0:
		return errSilent
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("ClientHello is not complete in time, after %d bytes", n)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("stream ends inside the ClientHello, after %d bytes", n)
	default:
		return fmt.Errorf("connection breaks inside the ClientHello, after %d bytes", n)
	}
}
