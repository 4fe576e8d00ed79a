package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgproto3/v2"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/copydata"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// detailCopyAlone says what a COPY has to be so that masks can be applied to it.
const detailCopyAlone = "masks can be applied to COPY TO STDOUT only if it is sent alone, as a simple query"

// copyRefusal says why masks can't be applied to the data of a step, or "".
func copyRefusal(r *request, s *step) string {
	switch {
	case !copiesOut(s.facts):
		return ""
	case r.kind != askQuery || len(r.steps) != 1 || len(s.facts) != 1 || s.text == nil || s.text.Copy == nil:
		return detailCopyAlone
	case s.text.Copy.Reason != "":
		return "masks can't be applied to the data of this COPY: " + s.text.Copy.Reason
	default:
		return ""
	}
}

// copyOut is a COPY TO STDOUT to which masks are applied.
//
// A COPY does not describe its columns. So what it copies is prepared and
// described first, as a query, in the agent's own session: it resolves names as
// the COPY is going to, and its locks stay until the COPY has ended. Then the
// COPY runs in the extended protocol, because a Query in between would end the
// implicit transaction that holds the locks. The agent sees what a Query would
// have been answered with.
type copyOut struct {
	facts *statement.Copy
	// described gets one value: whether the description is there. If not, the
	// agent has its error, and the target skips everything up to a Sync.
	described chan bool

	// What follows belongs to upstream.

	begun bool
	// rewriter is nil where nothing has to be looked at.
	rewriter *copydata.Rewriter
	// columns are those of the data, for the record.
	columns []wire.Column
	cells   []*string // of the row that comes
	size    int       // of those cells, in bytes
	// complete is the CommandComplete, which the agent gets when the transaction
	// has ended: a commit that fails takes its place. tag is what it says.
	complete []byte
	tag      string
}

// answer says whether the description is there. Only the first answer counts.
func (c *copyOut) answer(described bool) {
	select {
	case c.described <- described:
	default:
	}
}

// copyOut sends the COPY that is the only step of r, the Query raw. It waits for
// the description of its columns.
func (x *exchange) copyOut(ctx context.Context, r *request, raw []byte) error {
	s := r.steps[0]
	quiet, err := x.quieten(ctx)
	if err != nil {
		return err
	}
	x.pending.mu.Lock()
	doubt, skipped, open := x.lexer(raw[5:]), x.pending.skip, x.pending.open
	r.changes = x.since(r)
	x.pending.mu.Unlock()
	switch {
	case !quiet:
		return x.refuseQuery(r, "a COPY FROM STDIN before it has not ended")
	case skipped:
		return x.dispatch(r, raw) // which the target ignores
	case open:
		return x.refuseQuery(r, detailCopyAlone+", behind a Sync")
	case doubt != "":
		return x.refuseQuery(r, doubt)
	}
	r.kind, r.copy = askExecute, &copyOut{facts: s.text.Copy, described: make(chan bool, 1)}
	r.name = poisonName(x.postgres.options.Token())
	described, err := x.describeCopy(ctx, r)
	if err != nil {
		return err
	}
	if !described {
		return x.forward(&request{kind: askSync}, encode(nil, &pgproto3.Sync{}))
	}
	text := raw[5 : len(raw)-1]
	return x.runCopy(r, string(text))
}

func (x *exchange) refuseQuery(r *request, detail string) error {
	denial, err := x.unmaskable(r.steps[0], detail)
	if err != nil {
		return err
	}
	if denial == nil { // nothing is refused while only observing, and nothing masked
		denial = &protocol.Denial{ID: x.session.ID, Rule: "default", Reason: policy.ReasonUnknownOperation, Detail: detail}
	}
	return x.poison(r, denial, func(token string) []byte { return appendPoisonQuery(nil, token, denial.ID) })
}

// quieten waits until everything that was sent has been answered. It returns
// false if that may never be: while the target reads the data of a COPY, and
// while nobody knows what it read.
func (x *exchange) quieten(ctx context.Context) (quiet bool, err error) {
	x.pending.mu.Lock()
	busy := !x.pending.quiet()
	x.pending.mu.Unlock()
	if busy { // answers may wait in the target for a Sync that is still to come
		if err := x.send(encode(nil, &pgproto3.Flush{})); err != nil {
			return false, err
		}
		if err := x.toTarget.Flush(); err != nil {
			return false, fromUpstream(fmt.Errorf("write messages: %w", err))
		}
	}
	x.lease.pause()
	defer x.lease.resume()
	quiet = x.pending.settle()
	return quiet, context.Cause(ctx)
}

// describeCopy asks what the columns of the data are, in messages that the agent
// sees no answer to. In front of them goes what a Query does: it destroys the
// unnamed statement and the unnamed portal.
func (x *exchange) describeCopy(ctx context.Context, r *request) (described bool, err error) {
	x.pending.mu.Lock()
	x.inject(r, askClose, "").portals = true
	x.inject(r, askClose, "")
	x.inject(r, askParse, r.name)
	x.inject(r, askDescribeStatement, r.name)
	x.inject(r, askClose, r.name)
	x.pending.mu.Unlock()
	raw := encode(nil, &pgproto3.Close{ObjectType: 'P'})
	raw = encode(raw, &pgproto3.Close{ObjectType: 'S'})
	raw = encode(raw, &pgproto3.Parse{Name: r.name, Query: r.copy.facts.Query})
	raw = encode(raw, &pgproto3.Describe{ObjectType: 'S', Name: r.name})
	raw = encode(raw, &pgproto3.Close{ObjectType: 'S', Name: r.name})
	if err := x.send(encode(raw, &pgproto3.Flush{})); err != nil {
		return false, err
	}
	if err := x.toTarget.Flush(); err != nil {
		return false, fromUpstream(fmt.Errorf("write messages: %w", err))
	}
	x.lease.pause()
	defer x.lease.resume()
	select {
	case described = <-r.copy.described:
		return described, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// inject queues a message of ours that r needs. pending.mu is held.
func (x *exchange) inject(r *request, k kind, name string) *request {
	q := &request{kind: k, injected: true, name: name, next: r, sequence: x.pending.take()}
	x.pending.push(q)
	return q
}

// runCopy sends the COPY itself, and ends its transaction as a Query would.
func (x *exchange) runCopy(r *request, text string) error {
	x.pending.mu.Lock()
	x.inject(r, askParse, r.name)
	x.inject(r, askBind, r.name)
	r.sequence = x.pending.take()
	if x.pending.push(r) {
		x.expect(r, r.steps[0])
	}
	x.inject(r, askClose, r.name).portals = true
	x.inject(r, askClose, r.name)
	x.inject(r, askSync, "").injected = false
	x.pending.mu.Unlock()
	raw := encode(nil, &pgproto3.Parse{Name: r.name, Query: text})
	raw = encode(raw, &pgproto3.Bind{DestinationPortal: r.name, PreparedStatement: r.name})
	raw = encode(raw, &pgproto3.Execute{Portal: r.name})
	raw = encode(raw, &pgproto3.Close{ObjectType: 'P', Name: r.name})
	raw = encode(raw, &pgproto3.Close{ObjectType: 'S', Name: r.name})
	return x.send(encode(raw, &pgproto3.Sync{}))
}

// beginCopy takes a CopyOutResponse: from here on it is known what the data looks
// like. pending.mu is held.
func (x *exchange) beginCopy(r *request, body []byte) error {
	if r.masks.Empty() {
		return nil
	}
	c := r.copy
	if c == nil || c.begun || r.result == nil {
		return fmt.Errorf("%w: COPY while masks are active", errDesync)
	}
	c.begun = true
	format, formats, err := wire.DecodeCopyResponse(body)
	if err != nil {
		return err
	}
	if (c.facts.Format == statement.CopyBinary) != (format == 1) {
		return fmt.Errorf("%w: format of a COPY", errDesync)
	}
	described := newResult(slices.Clone(r.result.columns))
	for i := range described.columns {
		described.columns[i].Format = int16(format)
	}
	r.result = described
	p, err := x.planFor(r)
	if err != nil {
		return err
	}
	if p, err = x.narrow(r, p, len(formats)); err != nil || !p.active {
		return err
	}
	c.rewriter, err = copydata.New(copydata.Layout{
		Format: copyFormat(c.facts.Format), Columns: len(formats),
		Delimiter: c.facts.Delimiter, Quote: c.facts.Quote, Escape: c.facts.Escape,
		Null: c.facts.Null, Header: c.facts.Header,
		MaxRow: x.postgres.options.MaxRow, MaxHeld: freeSize,
	}, func(column int, value []byte) ([]byte, copydata.Verdict) { return x.copied(r, p, column, value) })
	return err
}

func copyFormat(f statement.CopyFormat) copydata.Format {
	switch f {
	case statement.CopyText:
		return copydata.Text
	case statement.CopyCSV:
		return copydata.CSV
	case statement.CopyBinary:
		return copydata.Binary
	default:
		return 0
	}
}

// narrow fits a plan to data of n columns. A table without a list of columns has
// more if some of them are generated, and nobody says which: a column of the data
// may be any of a few then, and gets the strictest treatment of all of them.
func (x *exchange) narrow(r *request, p *plan, n int) (*plan, error) {
	c, extra := r.copy, len(p.columns)-n
	switch {
	case extra == 0:
		c.columns = r.result.columns
		return p, nil
	case extra < 0 || !c.facts.Table:
		return nil, fmt.Errorf("%w: number of columns of a COPY", errDesync)
	}
	narrowed := &plan{set: p.set, active: p.active, columns: make([]treatment, n), names: make([]string, n)}
	c.columns = make([]wire.Column, n)
	for i := range n {
		narrowed.columns[i] = strictest(p.columns[i : i+extra+1])
		c.columns[i] = wire.Column{Name: "column " + strconv.Itoa(i+1), Format: unknownFormat}
	}
	r.result = newResult(c.columns)
	return narrowed, nil
}

// strictest returns what may be done to a value that may be of any of the columns.
func strictest(columns []treatment) treatment {
	t := columns[0]
	for _, other := range columns[1:] {
		if other.protect && (!t.protect || other.action.With < t.action.With) {
			t.action, t.protect = other.action, true
		}
		if other.class != t.class {
			t.class = opaqueValue
		}
		t.fixed = nil // it may be of another type
	}
	return t
}

// copied judges a value in the data of a COPY, as [masker.row] does with one of a
// row, and keeps it for the record.
func (x *exchange) copied(r *request, p *plan, column int, value []byte) ([]byte, copydata.Verdict) {
	verdict, shown := copydata.Keep, value
	if value != nil {
		if out, null, hit := x.masker.value(&p.columns[column], p.set, value); hit {
			verdict, shown = copydata.Replace, out
			if null {
				verdict, shown = copydata.Nullify, nil
			}
			x.masker.report()
		}
	}
	if x.secrets.holds(shown) {
		x.masker.reasons.add(forSecret)
		x.masker.report()
		verdict, shown = copydata.Nullify, nil
		if p.columns[column].class == textValue {
			verdict, shown = copydata.Replace, []byte(hiddenText)
		}
	}
	if t := x.masker.tally; x.recording(t) {
		r.copy.note(t, column, shown)
	}
	return shown, verdict
}

// note keeps a value for the record, and with the last one of a row the row.
func (c *copyOut) note(t *tally, column int, value []byte) {
	if column == 0 {
		c.cells, c.size = make([]*string, 0, len(c.columns)), 0
	}
	if c.size += len(value); c.size > maxRecordedBytes {
		c.cells = nil
	} else if value == nil {
		c.cells = append(c.cells, nil)
	} else {
		text := renderCell(value, &c.columns[column])
		c.cells = append(c.cells, &text)
	}
	if column == len(c.columns)-1 {
		t.keepCells(c.cells, c.size)
		c.cells = nil
	}
}

// copyData relays data of a COPY. It is the only way that such data takes to the
// agent, whatever has to be done to it.
func (x *exchange) copyData(ctx context.Context, length int) error {
	x.row = nil
	x.pending.mu.Lock()
	r, err := x.pending.head(wire.CopyData)
	x.pending.mu.Unlock()
	if err != nil {
		return fromUpstream(err)
	}
	masking := !r.masks.Empty()
	if r.denial != nil || r.injected || masking && (r.copy == nil || !r.copy.begun) {
		return fromUpstream(errDesync)
	}
	s := r.step()
	if s.ruling.Spend != nil {
		if ok, err := x.spend(ctx, r, s, length); err != nil || !ok {
			return err
		}
	}
	t := &s.tally
	if !masking || r.copy.rewriter == nil {
		t.rows++
		t.count(length, 0)
		if x.secrets != nil {
			return x.siftCopy(ctx, t, length)
		}
		if !x.shortcuts() {
			return x.tellWhole(ctx, length)
		}
		return x.streamDown()
	}
	lease, err := x.borrow(ctx, rewritingCopy*min(length, x.postgres.options.MaxRow))
	if err != nil {
		return fromUpstream(err)
	}
	defer x.handBack(lease)
	raw, err := x.fromTarget.Raw(x.postgres.options.MaxRow)
	if err != nil {
		return fromUpstream(err)
	}
	return x.rewriteCopy(r, t, raw)
}

// rewritingCopy is how many times data of a COPY is in memory while it is masked:
// as it came, as it goes, and one value of it with and without a mask.
const rewritingCopy = 4

func (x *exchange) rewriteCopy(r *request, t *tally, raw []byte) error {
	x.masker.tally = t
	rewriter := r.copy.rewriter
	before := rewriter.Rows()
	data := raw[5:]
	out, masked, err := rewriter.Rewrite(data)
	if err != nil {
		return fromUpstream(err)
	}
	if err := x.secrets.trouble(); err != nil {
		return err
	}
	t.rows += rewriter.Rows() - before
	t.count(len(out), masked)
	switch {
	case len(out) == 0:
		return nil // a row is not whole yet
	case len(out) > largeMessage:
		return fromUpstream(fmt.Errorf("mask copy data: %w: %d bytes", wire.ErrTooLarge, len(out)))
	case len(out) == len(data) && &out[0] == &data[0]:
		return x.tell(raw)
	}
	head := binary.BigEndian.AppendUint32([]byte{wire.CopyData}, uint32(len(out)+4))
	if err := x.tell(head); err != nil {
		return err
	}
	return x.tell(out)
}

// endCopy takes a CopyDone.
func (x *exchange) endCopy(r *request) error {
	if r.copy == nil || r.copy.rewriter == nil {
		return nil
	}
	return r.copy.rewriter.Finish()
}

// completeCopy keeps the CommandComplete of a COPY until its transaction has
// ended.
func (c *copyOut) completeCopy(raw []byte, tag string) {
	c.complete, c.tag = slices.Clone(raw), tag
}

// committed passes on what was kept. r is the COPY.
func (x *exchange) committed(r *request) error {
	c := r.copy
	if c == nil || c.complete == nil {
		return nil
	}
	if err := x.finish(r, c.tag, "", ""); err != nil {
		return err
	}
	raw := c.complete
	c.complete = nil
	return x.tell(raw)
}

// failed notes an error of the COPY, and returns it without a position that is
// none in the text that the agent sent.
func (c *copyOut) failed(raw []byte, fields []wire.Field, described bool) ([]byte, []wire.Field) {
	c.complete = nil
	if described || c.facts.Placed || wire.Get(fields, 'P') == nil {
		return raw, fields
	}
	fields = slices.DeleteFunc(slices.Clone(fields), func(f wire.Field) bool { return f.Code == 'P' })
	return messageOf(raw[0], fields), fields
}
