package protocol

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/transparent"
)

// ErrUnknown is returned by [Detect] when the first bytes are no protocol's.
var ErrUnknown = errors.New("unknown protocol")

// Detect finds out in which language c speaks, by its first bytes, without
// consuming any. It reads at most transparent.MaxPeek bytes and waits at most
// patience for them. The first protocol of the list that says Yes wins once all
// before it have said No.
func Detect(ctx context.Context, c *transparent.Conn, protocols []Protocol, patience time.Duration) (Protocol, error) {
	deadline := time.Now().Add(patience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("set detection deadline: %w", err)
	}
	found, err := detect(c, protocols)
	if resetErr := c.SetReadDeadline(time.Time{}); resetErr != nil {
		return nil, fmt.Errorf("clear detection deadline: %w", resetErr)
	}
	return found, err
}

func detect(c *transparent.Conn, protocols []Protocol) (Protocol, error) {
	prefix := c.Peeked()
	for {
		if len(prefix) > 0 {
			found, more := match(prefix, protocols)
			if found != nil {
				return found, nil
			}
			if !more {
				return nil, ErrUnknown
			}
		}
		var err error
		if prefix, err = c.Fill(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
}

func match(prefix []byte, protocols []Protocol) (found Protocol, more bool) {
	for _, p := range protocols {
		switch p.Match(prefix) {
		case Yes:
			return p, false
		case More:
			return nil, true
		case No:
		}
	}
	return nil, false
}

// ByName returns the protocol of that name.
func ByName(protocols []Protocol, name string) (Protocol, bool) {
	for _, p := range protocols {
		if p.Name() == name {
			return p, true
		}
	}
	return nil, false
}
