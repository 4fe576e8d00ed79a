package postgres

import (
	"fmt"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// failure relays an error: as it is, without what is masked, or, if it is the one
// that poison caused, as our refusal.
func (x *exchange) failure(raw []byte) error {
	fields, err := wire.DecodeFields(raw[5:])
	if err != nil {
		return err
	}
	set := x.masks()
	x.pending.mu.Lock()
	if x.pending.doubtful() {
		x.pending.mu.Unlock()
		return fmt.Errorf("%w: an error that has two owners", errDesync)
	}
	r := x.pending.first()
	refused := poisoned(r, fields)
	ours := r != nil && r.injected && r.next == nil
	if ours {
		x.loadFailed(fields)
	}
	fatal := isFatal(fields)
	x.pending.fatal = x.pending.fatal || fatal
	mode := x.scrubbing(r, set, fields)
	x.pending.fail(x.abandon)
	c := x.cutOf(r)
	if c != nil && !fatal {
		c.ended = true
		x.release(c)
	}
	x.pending.mu.Unlock()
	switch {
	case c != nil && !fatal:
		return x.tell(appendError(nil, "ERROR", refusalOf(c.denial)))
	case refused:
		return x.tell(appendError(nil, "ERROR", refusalOf(r.denial)))
	case ours && !fatal:
		return nil
	}
	out, fields := scrub(raw, fields, set, mode)
	if r != nil && r.next != nil {
		r = r.next // the Execute that a message of ours belongs to
	}
	if r != nil && r.copy != nil {
		out, fields = r.copy.failed(out, fields, r.result != nil)
	}
	code, message := string(wire.Get(fields, 'C')), string(wire.Get(fields, 'M'))
	if err := x.finish(r, "", strings.ToValidUTF8(code, "?"), strings.ToValidUTF8(message, "\uFFFD")); err != nil {
		return err
	}
	return x.tell(out)
}

func isFatal(fields []wire.Field) bool {
	severity := wire.Get(fields, 'V') // not translated; since PostgreSQL 9.6
	if severity == nil {
		severity = wire.Get(fields, 'S')
	}
	return string(severity) == "FATAL" || string(severity) == "PANIC"
}

// notice relays a notice without what is masked.
func (x *exchange) notice(raw []byte) error {
	fields, err := wire.DecodeFields(raw[5:])
	if err != nil {
		return err
	}
	set := x.masks()
	x.pending.mu.Lock()
	r := x.pending.first()
	mode := x.scrubbing(r, set, fields)
	said := mode == scrubNothing && wire.Get(fields, 'W') != nil
	if set.HasColumns() && (said || x.pending.doubtful()) {
		mode = scrubAll // said by a function, or by nobody knows what: it may be any data
	}
	x.pending.mu.Unlock()
	if r != nil && r.injected && r.next == nil {
		return nil
	}
	out, _ := scrub(raw, fields, set, mode)
	return x.tell(out)
}

// notification relays a notification. Its payload is data of which nobody knows
// where it is from.
func (x *exchange) notification(raw []byte) error {
	pid, channel, payload, err := wire.DecodeNotification(raw[5:])
	if err != nil {
		return err
	}
	set := x.masks()
	if set.Empty() {
		return x.tell(raw)
	}
	out, hits := set.Scan(nil, payload)
	if set.HasColumns() && len(payload) > 0 {
		out, hits = []byte(withheld), 1
	}
	if hits == 0 {
		return x.tell(raw)
	}
	return x.tell(appendNotification(pid, channel, out))
}
