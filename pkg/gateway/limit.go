package gateway

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// spendFunc is [protocol.Ruling.Spend].
type spendFunc func(given, more protocol.Volume) *protocol.Denial

// limit asks whether the limits of the rules that allow an operation let it
// begin, and charges it. It returns what charges its result; nil where nothing
// limits that. Whoever only observes is not limited.
func (s *session) limit(id string, d policy.Decision, op *policy.Operation) (spendFunc, *protocol.Denial) {
	if len(d.Limits) == 0 || s.Observe || op.Announced {
		return nil, nil
	}
	a := &account{session: s, ruling: protocol.Ruling{ID: id, Decision: d}, op: op}
	minute, result := false, false
	for _, l := range d.Limits {
		minute = minute || l.PerMinute != policy.Rate{}
		a.perMinute = a.perMinute || l.PerMinute.Rows > 0 || l.PerMinute.Bytes > 0
		result = result || l.Rows > 0 || l.Bytes > 0
	}
	if minute {
		if a.tree = s.meter(); a.tree == nil {
			return nil, &protocol.Denial{
				ID: id, Rule: policy.DefaultRule, Reason: protocol.ReasonLimit, Retry: slotLength,
				Detail: "account is kept of as many trees as may be, and one more needs it",
			}
		}
		// There must be room for a result, however small.
		need := policy.Rate{Operations: 1, Rows: 1, Bytes: 1}
		if over := s.gateway.meters.spend(a.tree, d.Limits, need, policy.Rate{Operations: 1}); over != nil {
			return nil, over.denial(id)
		}
	}
	if !a.perMinute && !result {
		return nil, nil
	}
	return a.spend, nil
}

// meter returns the account of the session's tree, or nil if there is no room
// for it.
func (s *session) meter() *treeMeter {
	s.tree.mu.Lock()
	defer s.tree.mu.Unlock()
	if s.tree.meter == nil {
		s.tree.meter = s.gateway.meters.acquire(s.Downstream.Origin.Root)
	}
	return s.tree.meter
}

// heldMeter is the account that a session holds, once it needs it.
type heldMeter struct {
	mu    sync.Mutex
	meter *treeMeter
}

// account is what one operation's result is charged to.
type account struct {
	session   *session
	ruling    protocol.Ruling
	op        *policy.Operation
	perMinute bool       // whether rows or bytes are limited per minute
	tree      *treeMeter // not nil then

	mu      sync.Mutex
	refused *protocol.Denial // what was said once is said again
}

func (a *account) spend(given, more protocol.Volume) *protocol.Denial {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused != nil {
		return a.refused
	}
	over := a.over(given, more)
	if over == nil {
		return nil
	}
	a.refused = over.denial(a.ruling.ID)
	if err := a.session.deny(a.ruling, a.op, a.refused); err != nil {
		a.refused = protocol.AsDenial(err, a.session.ID)
	}
	return a.refused
}

// over charges more, unless a limit does not allow it.
func (a *account) over(given, more protocol.Volume) *excess {
	limits := a.ruling.Decision.Limits
	for i := range limits {
		l := &limits[i]
		if l.Rows > 0 && !fits(given.Rows, more.Rows, l.Rows) {
			return &excess{limit: l, what: "rows", bound: l.Rows}
		}
		if l.Bytes > 0 && !fits(given.Bytes, more.Bytes, l.Bytes) {
			return &excess{limit: l, what: "bytes", bound: l.Bytes}
		}
	}
	if !a.perMinute {
		return nil
	}
	charge := policy.Rate{Rows: more.Rows, Bytes: more.Bytes}
	return a.session.gateway.meters.spend(a.tree, limits, charge, charge)
}

// denial says which limit was reached, and when it is worth to come back.
func (e *excess) denial(id string) *protocol.Denial {
	amount := strconv.FormatUint(e.bound, 10) + " " + e.what
	if e.what == "bytes" {
		amount = formatSize(e.bound)
	}
	where := "in one result"
	if e.minute {
		where = "in a minute"
	}
	return &protocol.Denial{
		ID: id, Rule: e.limit.Rule, Reason: protocol.ReasonLimit, Retry: e.retry,
		Detail: fmt.Sprintf("rule %q allows %s %s", e.limit.Rule, amount, where),
	}
}

// formatSize writes a number of bytes with the largest unit that it is a whole
// number of.
func formatSize(n uint64) string {
	unit := "bytes"
	for _, larger := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, larger
	}
	return fmt.Sprintf("%d %s", n, unit)
}
