package postgres

import (
	"context"
	"encoding/binary"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// dataRow relays one row as its plan wants it. Everything that is the same for
// all rows of a result is looked up once.
func (x *exchange) dataRow(ctx context.Context, length int) error {
	r := x.row
	if r == nil || !x.shortcuts() {
		var err error
		if r, err = x.rowsOf(); err != nil {
			return fromUpstream(err)
		}
		x.row = r
	}
	if r.injected {
		return x.catalogRow(length)
	}
	if r.running.ruling.Spend != nil {
		if ok, err := x.spend(ctx, r, r.running, length); err != nil || !ok {
			return err
		}
	}
	t := &r.running.tally
	t.rows++
	p := r.plan
	if p != nil && !p.active {
		p = nil
	}
	if p == nil && r.sieve == nil && x.shortcuts() {
		if length+5 > wire.BufferSize {
			t.count(length, 0)
			t.full()
			return x.streamDown()
		}
		raw, err := x.fromTarget.Raw(length)
		if err != nil {
			return fromUpstream(err)
		}
		return x.show(r, raw, 0)
	}
	lease, err := x.borrow(ctx, rewriting*min(length, x.postgres.options.MaxRow))
	if err != nil {
		return fromUpstream(err)
	}
	defer x.handBack(lease)
	raw, err := x.fromTarget.Raw(x.postgres.options.MaxRow)
	if err != nil {
		return fromUpstream(err)
	}
	x.masker.tally = t
	out, masked, err := x.rewritten(p, raw)
	if err != nil {
		return fromUpstream(err)
	}
	if out, err = x.sift(r, out); err != nil {
		return err
	}
	return x.show(r, out, masked)
}

func (x *exchange) show(r *request, raw []byte, masked int) error {
	t := &r.running.tally
	t.count(len(raw)-5, masked)
	if r.running.op != "" && x.recording(t) {
		t.keep(raw, r.result)
	}
	return x.tell(raw)
}

// rowsOf returns the request whose rows come, with a plan for them.
func (x *exchange) rowsOf() (*request, error) {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	r, err := x.pending.head(wire.DataRow)
	if err != nil {
		return nil, err
	}
	if r.denial != nil {
		return nil, errDesync
	}
	if r.result == nil && r.portal != nil {
		r.result = r.portal.result
	}
	r.running = r.step()
	for _, p := range r.candidates {
		if p != nil {
			r.given.Rows, r.given.Bytes = max(r.given.Rows, p.given.Rows), max(r.given.Bytes, p.given.Bytes)
		}
	}
	if r.plan == nil && !r.injected && !r.masks.Empty() {
		r.plan, err = x.planFor(r)
	}
	if !r.injected {
		r.sieve = x.secrets.sieve(r)
	}
	return r, err
}

// suspend notes, at the end of an Execute, what the agent has got of its portal:
// the rows of one portal are one result. pending.mu is held.
func (r *request) suspend() {
	t := &r.step().tally
	for _, p := range r.candidates {
		if p != nil {
			p.given = protocol.Volume{Rows: r.given.Rows + t.rows, Bytes: r.given.Bytes + t.bytes}
		}
	}
}

// functionResult relays the result of a FunctionCall while nothing is masked.
func (x *exchange) functionResult(length int) error {
	x.pending.mu.Lock()
	r, err := x.pending.head(wire.FunctionCallResponse)
	x.pending.mu.Unlock()
	if err != nil {
		return fromUpstream(err)
	}
	r.step().tally.count(length, 0)
	r.returned = true
	return x.streamDown()
}

// maskedFunctionResult replaces a value of which nobody knows where it is from by
// NULL, if columns are masked, a detector finds something, or it holds a secret.
func (x *exchange) maskedFunctionResult(raw []byte) error {
	x.pending.mu.Lock()
	r, err := x.pending.head(wire.FunctionCallResponse)
	x.pending.mu.Unlock()
	if err != nil {
		return err
	}
	set := x.masks()
	t := &r.step().tally
	var why reasons
	_, hits := set.ScanFunc(nil, raw[5:], why.add)
	if set.HasColumns() {
		why.add(forColumn)
	}
	secret := x.secrets.holds(raw[min(9, len(raw)):])
	if secret {
		why.add(forSecret)
	}
	if hits > 0 || set.HasColumns() || secret {
		t.detect(why.list)
		out, mark := wire.Begin(nil, wire.FunctionCallResponse)
		raw = wire.Finish(binary.BigEndian.AppendUint32(out, 0xffffffff), mark)
		t.masked++
	}
	if err := x.secrets.trouble(); err != nil {
		return err
	}
	t.count(len(raw)-5, 0)
	r.returned = true
	return x.tell(raw)
}
