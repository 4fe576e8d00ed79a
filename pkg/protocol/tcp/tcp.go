package tcp

import (
	"context"
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/upstream"
)

// Protocol is the protocol "tcp". It has no state; one value serves any number
// of sessions at the same time.
type Protocol struct{}

// New returns the protocol.
func New() *Protocol { return &Protocol{} }

// Name returns "tcp".
func (*Protocol) Name() string { return "tcp" }

// Operations is empty: a connection is all that there is.
func (*Protocol) Operations() []string { return nil }

// Match says No: no bytes are a sign of this protocol.
func (*Protocol) Match([]byte) protocol.Match { return protocol.No }

// Serve dials and copies both ways until both sides have ended. Where that goes
// wrong the agent sees a reset, so that it can't take a cut stream for whole.
func (*Protocol) Serve(ctx context.Context, s *protocol.Session) error {
	opened := protocol.Frame{Kind: protocol.FrameNotice, Text: "opaque bytes both ways"}
	if err := s.Record(opened); err != nil {
		return errors.Join(err, s.Downstream.Reset())
	}
	up, err := s.Dial(ctx)
	if err != nil {
		return errors.Join(err, s.Downstream.Reset())
	}
	upBytes, downBytes, err := upstream.CopyBoth(ctx, s.Downstream, up)
	// What counts was said by CopyBoth; the upstream may be closed or reset.
	_ = up.Close()
	if err != nil {
		err = errors.Join(err, s.Downstream.Reset())
	}
	return errors.Join(err, s.Record(result(upBytes, downBytes, err)))
}

func result(up, down int64, err error) protocol.Frame {
	outcome := &protocol.Outcome{Bytes: uint64(up) + uint64(down)}
	if err != nil {
		outcome.Error = "connection was cut"
	}
	return protocol.Frame{
		Kind: protocol.FrameResult, Outcome: outcome,
		Text: fmt.Sprintf("up=%d down=%d", up, down),
	}
}

// Refuse resets the connection. It reads and writes nothing.
func (*Protocol) Refuse(_ context.Context, s *protocol.Session, _ *protocol.Denial) error {
	return s.Downstream.Reset()
}
