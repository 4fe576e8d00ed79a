package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// cursor walks over a body. Once something is missing it is bad for good and
// yields zero values.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.rest) {
		c.bad = true
		return nil
	}
	head := c.rest[:n:n]
	c.rest = c.rest[n:]
	return head
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) int16() int {
	if b := c.take(2); b != nil {
		return int(int16(binary.BigEndian.Uint16(b)))
	}
	return 0
}

func (c *cursor) int32() int {
	if b := c.take(4); b != nil {
		return int(int32(binary.BigEndian.Uint32(b)))
	}
	return 0
}

func (c *cursor) uint32() uint32 { return uint32(c.int32()) }

// bytes returns what stands before the next NUL.
func (c *cursor) bytes() []byte {
	i := bytes.IndexByte(c.rest, 0)
	if c.bad || i < 0 {
		c.bad = true
		return nil
	}
	return c.take(i + 1)[:i]
}

func (c *cursor) text() string { return string(c.bytes()) }

// again is text, which probably is what it was before.
func (c *cursor) again(before string) string {
	now := c.bytes()
	if string(now) == before {
		return before
	}
	return string(now)
}

// value returns a length-prefixed value; nil is NULL.
func (c *cursor) value() []byte {
	if c.bad || len(c.rest) < 4 {
		c.bad = true
		return nil
	}
	n := int(int32(binary.BigEndian.Uint32(c.rest)))
	if uint(n) > uint(len(c.rest)-4) {
		if n == -1 {
			c.rest = c.rest[4:]
		} else {
			c.bad = true
		}
		return nil
	}
	end := 4 + n
	value := c.rest[4:end:end]
	c.rest = c.rest[end:]
	return value
}

// end checks that everything was there and nothing is left.
func (c *cursor) end(what string) error {
	if c.bad {
		return fmt.Errorf("decode %s: %w: too short", what, ErrMalformed)
	}
	if len(c.rest) != 0 {
		return fmt.Errorf("decode %s: %w: %d bytes behind the end", what, ErrMalformed, len(c.rest))
	}
	return nil
}

// count reads the number of elements that follow, each of at least size bytes,
// so that nothing is allocated for elements that cannot be there.
func (c *cursor) count(size int) int {
	n := int(uint16(c.int16())) // PostgreSQL reads counts as unsigned
	if n*size > len(c.rest) {
		c.bad = true
		return 0
	}
	return n
}

// formats reads a list of formats into room, if that is enough.
func (c *cursor) formats(room []int16) []int16 {
	n := c.count(2)
	formats := slices.Grow(room[:0], n)
	for range n {
		f := c.int16()
		if f != 0 && f != 1 {
			c.bad = true
		}
		formats = append(formats, int16(f))
	}
	return formats
}

// DecodeQuery returns the text of a Query. The slice aliases body.
func DecodeQuery(body []byte) ([]byte, error) {
	c := cursor{rest: body}
	text := c.bytes()
	return text, c.end("Query")
}

// ParseMessage is a Parse. Text aliases the body.
type ParseMessage struct {
	Name string
	Text []byte
	// Types are the OIDs of the parameters' types as far as they are given.
	Types []uint32
}

// DecodeParse decodes a Parse.
func DecodeParse(body []byte) (ParseMessage, error) {
	c := cursor{rest: body}
	m := ParseMessage{Name: c.text(), Text: c.bytes()}
	if n := c.count(4); n > 0 {
		m.Types = make([]uint32, n)
		for i := range m.Types {
			m.Types[i] = c.uint32()
		}
	}
	return m, c.end("Parse")
}

// BindMessage is a Bind. Parameters alias the body; nil is NULL.
type BindMessage struct {
	Portal, Statement string
	Formats           []int16
	Parameters        [][]byte
	Results           []int16
}

// DecodeBind decodes a Bind.
func DecodeBind(body []byte) (m BindMessage, err error) {
	err = m.Decode(body) // not in the return, where m may be taken before it
	return m, err
}

// Decode replaces m by what a Bind says, in the lists that it has where there is
// room in them.
func (m *BindMessage) Decode(body []byte) error {
	c := cursor{rest: body}
	m.Portal, m.Statement, m.Formats = c.again(m.Portal), c.again(m.Statement), c.formats(m.Formats)
	n := c.count(4)
	m.Parameters = slices.Grow(m.Parameters[:0], n)
	for range n {
		m.Parameters = append(m.Parameters, c.value())
	}
	m.Results = c.formats(m.Results)
	if err := c.end("Bind"); err != nil {
		return err
	}
	if len(m.Formats) > 1 && len(m.Formats) != len(m.Parameters) {
		return fmt.Errorf("decode Bind: %w: %d formats for %d parameters", ErrMalformed, len(m.Formats), len(m.Parameters))
	}
	return nil
}

// keptRoom bounds the elements of a list that [BindMessage.Forget] keeps.
const keptRoom = 8

// keptName bounds the names that it keeps, in bytes.
const keptName = 63

// Forget lets go of the message that m was decoded from, and of what is large. The
// rest is for the next [BindMessage.Decode].
func (m *BindMessage) Forget() {
	clear(m.Parameters)
	few := max(cap(m.Formats), cap(m.Parameters), cap(m.Results)) <= keptRoom
	if !few || len(m.Portal)+len(m.Statement) > keptName {
		*m = BindMessage{}
	}
}

// DecodeExecute returns the portal and the largest number of rows, 0 for all.
func DecodeExecute(body []byte) (portal string, rows int, err error) {
	c := cursor{rest: body}
	portal, rows = c.text(), c.int32()
	return portal, rows, c.end("Execute")
}

// DecodeTarget decodes a Describe or a Close: kind is 'S' or 'P'.
func DecodeTarget(body []byte) (kind byte, name string, err error) {
	c := cursor{rest: body}
	kind, name = c.byte(), c.text()
	if err := c.end("Describe or Close"); err != nil {
		return kind, name, err
	}
	if kind != 'S' && kind != 'P' {
		return kind, name, fmt.Errorf("decode Describe or Close: %w: kind %s", ErrMalformed, Name(kind))
	}
	return kind, name, nil
}

// DecodeFunctionCall returns the OID of the function.
func DecodeFunctionCall(body []byte) (oid uint32, err error) {
	c := cursor{rest: body}
	oid = c.uint32()
	if c.bad {
		return 0, c.end("FunctionCall")
	}
	return oid, nil
}

// Column is one column of a RowDescription.
type Column struct {
	Name string
	// Table and Attribute are the column's origin, 0 where it is computed.
	Table     uint32
	Attribute int16
	Type      uint32
	Format    int16
}

// DecodeRowDescription decodes a RowDescription.
func DecodeRowDescription(body []byte) ([]Column, error) {
	c := cursor{rest: body}
	n := c.count(19)
	columns := make([]Column, n)
	for i := range columns {
		columns[i].Name = c.text()
		columns[i].Table = c.uint32()
		columns[i].Attribute = int16(c.int16())
		columns[i].Type = c.uint32()
		c.take(6) // size and modifier of the type
		columns[i].Format = int16(c.int16())
		if f := columns[i].Format; f != 0 && f != 1 {
			c.bad = true
		}
	}
	return columns, c.end("RowDescription")
}

// Row walks over the values of a DataRow without allocating.
type Row struct{ c cursor }

// DecodeDataRow returns a row and the number of its values.
func DecodeDataRow(body []byte) (Row, int, error) {
	r := Row{cursor{rest: body}}
	n := r.c.count(4)
	if r.c.bad {
		return r, 0, r.c.end("DataRow")
	}
	return r, n, nil
}

// Next returns the next value, which aliases the body; nil is NULL.
func (r *Row) Next() []byte { return r.c.value() }

// Err tells whether the values were all there and nothing was left behind them.
// It is asked after the last one.
func (r *Row) Err() error { return r.c.end("DataRow") }

// Field is one field of an ErrorResponse or a NoticeResponse. Value aliases the
// body.
type Field struct {
	Code  byte
	Value []byte
}

const maxFields = 64

// DecodeFields decodes the fields of an ErrorResponse or a NoticeResponse.
func DecodeFields(body []byte) ([]Field, error) {
	c := cursor{rest: body}
	var fields []Field
	for {
		code := c.byte()
		if c.bad || code == 0 {
			break
		}
		if len(fields) == maxFields {
			c.bad = true
			break
		}
		fields = append(fields, Field{code, c.bytes()})
	}
	return fields, c.end("ErrorResponse or NoticeResponse")
}

// Get returns the value of a field, nil if there is none.
func Get(fields []Field, code byte) []byte {
	for _, f := range fields {
		if f.Code == code {
			return f.Value
		}
	}
	return nil
}

// DecodeParameterStatus returns a setting that the target reports.
func DecodeParameterStatus(body []byte) (name, value string, err error) {
	c := cursor{rest: body}
	name, value = c.text(), c.text()
	return name, value, c.end("ParameterStatus")
}

// DecodeBackendKeyData returns what a CancelRequest must carry. The key aliases
// the body.
func DecodeBackendKeyData(body []byte) (pid uint32, key []byte, err error) {
	c := cursor{rest: body}
	pid = c.uint32()
	if c.bad || len(c.rest) < minCancel || len(c.rest) > maxCancel {
		return 0, nil, fmt.Errorf("decode BackendKeyData: %w: length %d", ErrMalformed, len(body))
	}
	return pid, c.rest, nil
}

// DecodeReadyForQuery returns the state of the transaction: 'I', 'T' or 'E'.
func DecodeReadyForQuery(body []byte) (byte, error) {
	if len(body) != 1 || (body[0] != 'I' && body[0] != 'T' && body[0] != 'E') {
		return 0, fmt.Errorf("decode ReadyForQuery: %w", ErrMalformed)
	}
	return body[0], nil
}

// DecodeCommandComplete returns the command tag, which aliases the body.
func DecodeCommandComplete(body []byte) ([]byte, error) {
	c := cursor{rest: body}
	tag := c.bytes()
	return tag, c.end("CommandComplete")
}

// DecodeCopyResponse decodes a CopyInResponse or a CopyOutResponse.
func DecodeCopyResponse(body []byte) (format byte, columns []int16, err error) {
	c := cursor{rest: body}
	format, columns = c.byte(), c.formats(nil)
	return format, columns, c.end("CopyInResponse or CopyOutResponse")
}

// DecodeNegotiate returns the newest version, of which the documentation says that
// it is the minor number and servers send the whole, and the options that were not
// recognised.
func DecodeNegotiate(body []byte) (version uint32, options []string, err error) {
	c := cursor{rest: body}
	version = c.uint32()
	n := c.int32()
	if n < 0 || n > len(c.rest) {
		c.bad = true
		n = 0
	}
	for range n {
		if c.bad {
			break
		}
		options = append(options, c.text())
	}
	return version, options, c.end("NegotiateProtocolVersion")
}

// DecodeAuthentication returns the code and the data that belongs to it, which
// alias the body.
func DecodeAuthentication(body []byte) (code uint32, data []byte, err error) {
	c := cursor{rest: body}
	code = c.uint32()
	if c.bad {
		return 0, nil, c.end("Authentication")
	}
	return code, c.rest, nil
}

// DecodeMechanisms decodes the data of AuthenticationSASL.
func DecodeMechanisms(data []byte) ([]string, error) {
	c := cursor{rest: data}
	var names []string
	for {
		name := c.text()
		if c.bad || name == "" {
			break
		}
		names = append(names, name)
	}
	return names, c.end("AuthenticationSASL")
}

// DecodeNotification decodes a NotificationResponse. Channel and payload alias
// the body.
func DecodeNotification(body []byte) (pid uint32, channel, payload []byte, err error) {
	c := cursor{rest: body}
	pid, channel, payload = c.uint32(), c.bytes(), c.bytes()
	return pid, channel, payload, c.end("NotificationResponse")
}

// DecodeSASLInitial decodes a SASLInitialResponse: the mechanism that was chosen,
// and its first message, which aliases the body. One without a first message is
// malformed: no mechanism of PostgreSQL's begins like that.
func DecodeSASLInitial(body []byte) (mechanism string, data []byte, err error) {
	c := cursor{rest: body}
	mechanism, data = c.text(), c.value()
	if data == nil {
		c.bad = true
	}
	return mechanism, data, c.end("SASLInitialResponse")
}
