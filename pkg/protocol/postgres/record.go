package postgres

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// Bounds of what is recorded of one operation's rows.
const (
	maxRecordedRows  = 100
	maxRecordedBytes = 64 << 10
)

// unknownFormat stands for a value that nobody described.
const unknownFormat = -1

// tally is what an operation has returned so far, as the agent saw it.
type tally struct {
	rows, bytes, masked uint64
	detected            []detection // by what they were masked for
	table               [][]*string
	size                int
}

// count notes a message of the operation's result.
func (t *tally) count(length, masked int) {
	t.bytes += uint64(length)
	t.masked += uint64(masked)
}

// detection counts the values that were masked for one reason.
type detection struct {
	reason string
	count  uint64
}

// detect counts a masked value under each of the reasons for it. There are few
// of those, so a list is faster than a map.
func (t *tally) detect(reasons []string) {
	for _, r := range reasons {
		i := 0
		for i < len(t.detected) && t.detected[i].reason != r {
			i++
		}
		if i == len(t.detected) {
			t.detected = append(t.detected, detection{reason: r})
		}
		t.detected[i].count++
	}
}

func (t *tally) byReason() map[string]uint64 {
	if len(t.detected) == 0 {
		return nil
	}
	m := make(map[string]uint64, len(t.detected))
	for _, d := range t.detected {
		m[d.reason] = d.count
	}
	return m
}

// keep keeps a row for the record, after masking, as long as there is room.
func (t *tally) keep(raw []byte, described *result) {
	if len(t.table) >= maxRecordedRows || t.size+len(raw) > maxRecordedBytes {
		t.full()
		return
	}
	row, n, err := wire.DecodeDataRow(raw[5:])
	if err != nil {
		return // the row was checked before, or is none of ours to judge
	}
	cells, texts := make([]*string, n), make([]string, n)
	for i := range cells {
		value := row.Next()
		if value == nil {
			continue
		}
		c := wire.Column{Format: unknownFormat}
		if described != nil && i < len(described.columns) {
			c = described.columns[i]
		}
		texts[i] = renderCell(value, &c)
		cells[i] = &texts[i]
	}
	t.table = append(t.table, cells)
	t.size += len(raw)
}

// recording reports whether there may be room for a row.
func (t *tally) recording() bool { return t.size < maxRecordedBytes && len(t.table) < maxRecordedRows }

// recording reports whether a row has to be rendered for the record.
func (x *exchange) recording(t *tally) bool { return !x.session.NoTables && t.recording() }

// full has no more rows kept: there are no gaps, what is kept are the first ones.
func (t *tally) full() { t.size = maxRecordedBytes }

// keepCells is keep for a row whose cells, with size bytes of values, are
// rendered.
func (t *tally) keepCells(cells []*string, size int) {
	if !t.recording() || t.size+size > maxRecordedBytes {
		t.full()
		return
	}
	t.table = append(t.table, cells)
	t.size += size
}

func renderCell(value []byte, c *wire.Column) string {
	binary := c.Format == 1 && classOf(c.Type) != textValue && classOf(c.Type) != jsonValue
	if binary || c.Format == unknownFormat && !utf8.Valid(value) {
		return `\x` + hex.EncodeToString(value)
	}
	return strings.ToValidUTF8(string(value), "\uFFFD")
}

func (x *exchange) record(f protocol.Frame) error {
	if err := x.session.Record(f); err != nil {
		return fmt.Errorf("record frame: %w", err)
	}
	return nil
}

// finish records how the running step of r ended: with a tag, or with an error.
func (x *exchange) finish(r *request, tag, code, message string) error {
	if r == nil || r.at >= len(r.steps) || r.steps[r.at].op == "" {
		return nil
	}
	r.returned = false
	s := r.steps[r.at]
	t := &s.tally
	if len(t.table) > 0 {
		f := protocol.Frame{Op: s.op, Kind: protocol.FrameTable, Rows: t.table}
		if r.result != nil {
			f.Columns = r.result.names
		}
		if err := x.record(f); err != nil {
			return err
		}
	}
	s.outcome = protocol.Outcome{Tag: tag, Code: code, Error: message, Rows: t.rows, Bytes: t.bytes, Masked: t.masked, Detected: t.byReason()}
	s.tally = tally{}
	return x.record(protocol.Frame{Op: s.op, Kind: protocol.FrameResult, Outcome: &s.outcome})
}
