package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// class groups the types by what a masked value of them may look like.
type class uint8

const (
	opaqueValue  class = iota // only NULL is always a value of the type
	textValue                 // any text is, and both formats are the same bytes
	jsonValue                 // text that has to stay JSON
	jsonbValue                // the same behind a version byte in binary format
	integerValue              // a big-endian integer in binary format
	numericValue              // base 10000 digits in binary format
	byteaValue                // raw in binary format, \x and hexadecimal in text format
	briefValue                // as opaqueValue, and too short or too regular for any detector
)

// classOf returns the class of a type by its OID, which pg_type.dat fixes.
func classOf(oid uint32) class {
	switch oid {
	case 25, 1043, 1042, 705, 2275, 142: // text, varchar, bpchar, unknown, cstring, xml
		return textValue
	case 19: // name
		return textValue
	case 114:
		return jsonValue
	case 3802:
		return jsonbValue
	case 20: // int8
		return integerValue
	// bool, int2, int4, oid have fewer digits than a card number has; date, time,
	// timestamp, timestamptz, timetz have separators that none has.
	case 16, 21, 23, 26, 1082, 1083, 1114, 1184, 1266:
		return briefValue
	case 1700:
		return numericValue
	case 17:
		return byteaValue
	default:
		return opaqueValue
	}
}

// treatment is what happens to one column's values.
type treatment struct {
	protect bool
	action  mask.Action
	class   class
	binary  bool
	fixed   []byte // what takes the place of a value that is no text, if not NULL
	glance  glance
}

// glance is what is known of a value that nobody has read yet.
type glance uint8

const (
	doubtful glance = iota // nothing
	telling                // its bytes are what the detectors look at
	harmless               // there is nothing to mask
)

// plan is what happens to the rows of one result. It is immutable.
type plan struct {
	set     *mask.Set
	columns []treatment
	// active tells that a row has to be looked at.
	active bool
	names  []string
}

// newPlan decides column by column. protect returns what to do with the values
// of a column, and false for one that only the detectors look at.
func newPlan(set *mask.Set, columns []wire.Column, protect func(*wire.Column) (mask.Action, bool)) *plan {
	p := &plan{set: set, columns: make([]treatment, len(columns)), names: make([]string, len(columns)), active: set.HasDetectors()}
	for i := range columns {
		c := &columns[i]
		t := treatment{class: classOf(c.Type), binary: c.Format == 1}
		if t.action, t.protect = protect(c); t.protect && t.class != textValue {
			t.fixed = t.constant(c.Type)
		}
		t.glance = t.first(set)
		p.active = p.active || t.protect
		p.columns[i], p.names[i] = t, c.Name
	}
	return p
}

// first returns what is known of the values of a column beforehand.
func (t *treatment) first(set *mask.Set) glance {
	switch {
	case t.protect, (t.class == integerValue || t.class == numericValue || t.class == jsonbValue) && t.binary, t.class == byteaValue && !t.binary:
		return doubtful
	case t.class == briefValue, !set.HasDetectors():
		return harmless
	default:
		return telling
	}
}

// constant returns the value that the action's constant is in the column's type
// and format, or nil.
func (t *treatment) constant(oid uint32) []byte {
	text, ok := t.action.Fixed()
	if !ok {
		return nil
	}
	value, ok := constantOf(oid, t.binary, text)
	if !ok {
		return nil
	}
	return value
}

// masker rewrites values. Its buffers are reused; it belongs to one goroutine.
type masker struct {
	out     []byte
	scratch []byte
	shown   []byte
	tally   *tally
	reasons reasons
	note    func(detector string) // reasons.add, made once
}

// What a value was masked for, if it was not for a detector of that name.
const (
	forColumn = "column"
	forAny    = "any" // it could not be read, and a detector was to look at it
)

// reasons are what one value was masked for, each only once.
type reasons struct{ list []string }

func (r *reasons) add(reason string) {
	if !slices.Contains(r.list, reason) {
		r.list = append(r.list, reason)
	}
}

// scan lets the detectors look at value and notes which of them found something.
func (m *masker) scan(set *mask.Set, dst, value []byte) (out []byte, hits int) {
	if m.note == nil {
		m.note = m.reasons.add
	}
	return set.ScanFunc(dst, value, m.note)
}

// report counts a value that was masked, and forgets why.
func (m *masker) report() {
	if m.tally != nil {
		m.tally.detect(m.reasons.list)
	}
	m.reasons.list = m.reasons.list[:0]
}

// row returns the DataRow raw as the plan wants it, and the number of values
// that were masked. What keeps its length is changed in raw itself, which is
// returned if nothing else is. The result is valid until the next call.
func (m *masker) row(p *plan, raw []byte) (out []byte, masked int, err error) {
	row, n, err := wire.DecodeDataRow(raw[5:])
	if err != nil {
		return nil, 0, err
	}
	if n != len(p.columns) {
		return nil, 0, errDesync
	}
	at, copied := 7, 0 // offset of the value in raw, and how much of raw is in out
	for i := range p.columns {
		value := row.Next()
		start := at
		at += 4 + len(value)
		t := &p.columns[i]
		if value == nil || t.glance == harmless || t.glance == telling && !p.set.MayFind(value) {
			continue // nearly all values
		}
		replaced, null, hit := m.value(t, p.set, value)
		if !hit {
			continue
		}
		masked++
		m.report()
		if len(replaced) == len(value) && !null {
			copy(value, replaced)
			continue
		}
		if copied == 0 {
			m.out = m.out[:0]
		}
		m.out = append(m.out, raw[copied:start]...)
		if null {
			m.out = binary.BigEndian.AppendUint32(m.out, 0xffffffff)
		} else {
			m.out = binary.BigEndian.AppendUint32(m.out, uint32(len(replaced)))
			m.out = append(m.out, replaced...)
		}
		copied = at
	}
	if err := row.Err(); err != nil {
		return nil, 0, err
	}
	if copied == 0 {
		return raw, masked, nil
	}
	m.out = append(m.out, raw[copied:]...)
	binary.BigEndian.PutUint32(m.out[1:], uint32(len(m.out)-1))
	return m.out, masked, nil
}

// value returns what takes a value's place; hit is false if it may stay.
func (m *masker) value(t *treatment, set *mask.Set, value []byte) (out []byte, null, hit bool) {
	if t.protect {
		m.reasons.add(forColumn)
		if t.class != textValue {
			return t.fixed, t.fixed == nil, true
		}
		m.scratch, null = t.action.Apply(m.scratch[:0], value)
		return m.scratch, null, true
	}
	if t.class == briefValue || !set.HasDetectors() {
		return nil, false, false
	}
	return m.detect(t, set, value)
}

// detect lets the detectors look at a value, rendered as text where the format
// or the type hides it.
func (m *masker) detect(t *treatment, set *mask.Set, value []byte) (out []byte, null, hit bool) {
	switch {
	case t.class == textValue:
		out, hits := m.scan(set, m.scratch[:0], value)
		return m.keep(out, hits), false, hits > 0
	case t.class == jsonValue || t.class == jsonbValue:
		return m.detectJSON(t, set, value)
	case t.class == byteaValue && !t.binary && len(value) > 2 && value[0] == '\\' && value[1] == 'x':
		m.shown = append(m.shown[:0], make([]byte, hex.DecodedLen(len(value)-2))...)
		if _, err := hex.Decode(m.shown, value[2:]); err != nil {
			m.reasons.add(forAny)
			return nil, true, true
		}
		value = m.shown
	case t.class == integerValue && t.binary:
		value = m.showInteger(value)
	case t.class == numericValue && t.binary:
		value = m.showNumeric(value)
	}
	scanned, hits := m.scan(set, m.scratch[:0], value)
	m.keep(scanned, hits)
	return nil, hits > 0, hits > 0
}

// keep remembers the buffer that a scan may have grown.
func (m *masker) keep(out []byte, hits int) []byte {
	if hits > 0 {
		m.scratch = out[:0]
	}
	return out
}

func (m *masker) detectJSON(t *treatment, set *mask.Set, value []byte) (out []byte, null, hit bool) {
	head := 0
	if t.class == jsonbValue && t.binary {
		if len(value) == 0 || value[0] != 1 {
			m.reasons.add(forAny)
			return nil, true, true // a version that nobody can read
		}
		head = 1
	}
	m.scratch = append(m.scratch[:0], value[:head]...)
	out, hits := m.scan(set, m.scratch, value[head:])
	if hits == 0 {
		return nil, false, false
	}
	m.scratch = out[:0]
	return out, !json.Valid(out[head:]), true
}

func (m *masker) showInteger(value []byte) []byte {
	var n int64
	switch len(value) {
	case 2:
		n = int64(int16(binary.BigEndian.Uint16(value)))
	case 4:
		n = int64(int32(binary.BigEndian.Uint32(value)))
	case 8:
		n = int64(binary.BigEndian.Uint64(value))
	default:
		return value
	}
	m.shown = strconv.AppendInt(m.shown[:0], n, 10)
	return m.shown
}

// showNumeric renders the digits of a binary numeric, as numeric_send lays them
// out: count, weight of the first group, sign, scale, groups of four digits.
func (m *masker) showNumeric(value []byte) []byte {
	if len(value) < 8 {
		return value
	}
	groups := int(binary.BigEndian.Uint16(value))
	weight := int(int16(binary.BigEndian.Uint16(value[2:])))
	if len(value) != 8+2*groups {
		return value
	}
	m.shown = m.shown[:0]
	for i := range groups {
		if i == weight+1 {
			m.shown = append(m.shown, '.')
		}
		digits := strconv.AppendInt(nil, int64(binary.BigEndian.Uint16(value[8+2*i:])), 10)
		for pad := len(digits); i > 0 && pad < 4; pad++ {
			m.shown = append(m.shown, '0')
		}
		m.shown = append(m.shown, digits...)
	}
	for i := groups; i <= weight && i < 64; i++ {
		m.shown = append(m.shown, "0000"...)
	}
	return m.shown
}
