//go:build !linux

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

func checkNamespace(syscall.RawConn, uint64) error { return errElsewhere }

func beginConnect(syscall.RawConn, Target) error { return nil }

func (d Dialer) dialFrom(context.Context, Target) (net.Conn, error) {
	return nil, fmt.Errorf("%w: %w", ErrNamespace, errors.ErrUnsupported)
}
