package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/headgate/headgate/pkg/upstream"
)

// dialName connects to the first address of a name that answers. It is how the
// AWS SDK asks for keys: the daemon's own connection, and no agent's.
func dialName(ctx context.Context, _, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	var errs []error
	for _, a := range addrs {
		conn, err := upstream.Dialer{Timeout: 3 * time.Second}.Dial(ctx, upstream.Target{Addr: netip.AddrPortFrom(a.Unmap(), uint16(port))})
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
