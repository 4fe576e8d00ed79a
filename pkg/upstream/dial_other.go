//go:build !linux

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/headgate/headgate/pkg/socket"
	"github.com/headgate/headgate/pkg/upstream/datagram"
)

// dial connects from where we are: there are no network namespaces.
func (d Dialer) dial(ctx context.Context, target Target) (net.Conn, error) {
	if target.Netns != 0 || d.Namespaces != nil {
		return nil, fmt.Errorf("%w: %w", ErrNamespace, errors.ErrUnsupported)
	}
	conn, err := d.dialer().DialContext(ctx, target.Network.String(), target.Addr.String())
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		return socket.New(tcp)
	}
	return datagram.NewConn(conn), nil
}
