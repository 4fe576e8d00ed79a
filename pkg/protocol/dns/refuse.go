package dns

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/protocol"
)

const (
	// refusePatience is how long a refused agent may take for its query, and
	// refuseMore for each of the next; refuseLimit bounds them.
	refusePatience = time.Second
	refuseMore     = 100 * time.Millisecond
	refuseLimit    = 8
)

// Refuse answers REFUSED to the first query, and to those that come with it:
// resolvers ask for A and AAAA at once. An agent that sends anything else is
// reset.
func (d *DNS) Refuse(ctx context.Context, s *protocol.Session, denial *protocol.Denial) error {
	stop := context.AfterFunc(ctx, func() {
		// A connection that can't be given a deadline is closed.
		_ = s.Downstream.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	in := &frames{from: s.Downstream}
	why := blocked(denial, dns.ExtendedErrorCodeProhibited)
	for n := range refuseLimit {
		q, err := refused(s, in, n)
		if err != nil && n == 0 {
			return s.Downstream.Reset() // there is nobody to say no to
		}
		if err != nil || ctx.Err() != nil {
			break
		}
		if err := write(s.Downstream, q.answer(dns.RcodeRefused, why, s.Downstream.Origin.Transport)); err != nil {
			return err
		}
	}
	if err := s.Downstream.CloseWrite(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("end downstream: %w", err)
	}
	return nil
}

// refused reads the n-th query of a refused agent.
func refused(s *protocol.Session, in *frames, n int) (*query, error) {
	patience := refusePatience
	if n > 0 {
		patience = refuseMore
	}
	if err := s.Downstream.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, fmt.Errorf("set read deadline: %w", err)
	}
	message, err := in.next()
	if err != nil {
		return nil, err
	}
	q := parseQuery(message)
	if q.mute {
		return nil, errors.New(q.reason)
	}
	return q, nil
}
