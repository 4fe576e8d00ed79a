package wire_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// encoder is a message of pgproto3.
type encoder interface {
	Encode([]byte) ([]byte, error)
}

// fromAgent and fromTarget hold a message of every type that the package has a
// name for, in one direction each.
var fromAgent = map[byte][]encoder{
	wire.Bind: {
		&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s", ParameterFormatCodes: []int16{1}, Parameters: [][]byte{{1}, nil}},
		&pgproto3.Bind{},
	},
	wire.Close:        {&pgproto3.Close{ObjectType: 'S', Name: "s"}, &pgproto3.Close{ObjectType: 'P'}},
	wire.CopyData:     {&pgproto3.CopyData{Data: []byte("1\ta\n")}, &pgproto3.CopyData{}},
	wire.CopyDone:     {&pgproto3.CopyDone{}},
	wire.CopyFail:     {&pgproto3.CopyFail{Message: "no"}},
	wire.Describe:     {&pgproto3.Describe{ObjectType: 'P', Name: "p"}},
	wire.Execute:      {&pgproto3.Execute{Portal: "p", MaxRows: 3}},
	wire.Flush:        {&pgproto3.Flush{}},
	wire.FunctionCall: {&pgproto3.FunctionCall{Function: 7, Arguments: [][]byte{{1}}, ArgFormatCodes: []uint16{1}}},
	wire.Parse:        {&pgproto3.Parse{Name: "s", Query: "SELECT $1", ParameterOIDs: []uint32{25}}},
	wire.Password:     {&pgproto3.PasswordMessage{Password: "x"}},
	wire.Query:        {&pgproto3.Query{String: "SELECT 1"}, &pgproto3.Query{}},
	wire.Sync:         {&pgproto3.Sync{}},
	wire.Terminate:    {&pgproto3.Terminate{}},
}

var fromTarget = map[byte][]encoder{
	wire.Authentication: {
		&pgproto3.AuthenticationOk{}, &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}}, &pgproto3.AuthenticationCleartextPassword{},
		&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256", "x"}}, &pgproto3.AuthenticationSASLContinue{Data: []byte("r=a")},
		&pgproto3.AuthenticationSASLFinal{Data: []byte("v=a")},
	},
	wire.BackendKeyData:           {&pgproto3.BackendKeyData{ProcessID: 9, SecretKey: bytes.Repeat([]byte{7}, 32)}},
	wire.BindComplete:             {&pgproto3.BindComplete{}},
	wire.CloseComplete:            {&pgproto3.CloseComplete{}},
	wire.CommandComplete:          {&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")}},
	wire.CopyBothResponse:         {&pgproto3.CopyBothResponse{ColumnFormatCodes: []uint16{0}}},
	wire.CopyInResponse:           {&pgproto3.CopyInResponse{OverallFormat: 1, ColumnFormatCodes: []uint16{1, 1}}},
	wire.CopyOutResponse:          {&pgproto3.CopyOutResponse{ColumnFormatCodes: []uint16{0, 0, 0}}},
	wire.DataRow:                  {&pgproto3.DataRow{Values: [][]byte{[]byte("a"), nil, {}}}, &pgproto3.DataRow{}},
	wire.EmptyQueryResponse:       {&pgproto3.EmptyQueryResponse{}},
	wire.ErrorResponse:            {&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "m", Detail: "d", Hint: "h", Position: 3}},
	wire.FunctionCallResponse:     {&pgproto3.FunctionCallResponse{Result: []byte("x")}},
	wire.NegotiateProtocolVersion: {&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 2, UnrecognizedOptions: []string{"_pq_.a", "_pq_.b"}}},
	wire.NoData:                   {&pgproto3.NoData{}},
	wire.NoticeResponse:           {&pgproto3.NoticeResponse{Severity: "NOTICE", Message: "m"}},
	wire.NotificationResponse:     {&pgproto3.NotificationResponse{PID: 3, Channel: "c", Payload: "p"}},
	wire.ParameterDescription:     {&pgproto3.ParameterDescription{ParameterOIDs: []uint32{23, 25}}},
	wire.ParameterStatus:          {&pgproto3.ParameterStatus{Name: "a", Value: "b"}},
	wire.ParseComplete:            {&pgproto3.ParseComplete{}},
	wire.PortalSuspended:          {&pgproto3.PortalSuspended{}},
	wire.ReadyForQuery:            {&pgproto3.ReadyForQuery{TxStatus: 'T'}},
	wire.RowDescription:           {&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("a"), TableOID: 16400, TableAttributeNumber: 2, DataTypeOID: 25, Format: 1}}}},
}

// stream encodes messages, one behind the other, in a random order.
func stream(t *testing.T, messages map[byte][]encoder, seed uint64) (raw []byte, bodies [][]byte, types []byte) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	for range 40 {
		for typ, list := range messages { // the map's order is one more chance
			m := list[random.IntN(len(list))]
			out, err := m.Encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			raw, bodies, types = append(raw, out...), append(bodies, out[5:]), append(types, typ)
		}
	}
	return raw, bodies, types
}

// slow hands out a few bytes at a time.
type slow struct {
	rest   []byte
	random *rand.Rand
}

func (s *slow) Read(p []byte) (int, error) {
	n := min(len(p), 1+s.random.IntN(40), len(s.rest))
	if n == 0 {
		return bytes.NewReader(nil).Read(p)
	}
	copy(p, s.rest[:n])
	s.rest = s.rest[n:]
	return n, nil
}

func TestFramesOfBothDirectionsAreThoseOfAnotherImplementation(t *testing.T) {
	for name, messages := range map[string]map[byte][]encoder{"agent": fromAgent, "target": fromTarget} {
		raw, bodies, types := stream(t, messages, 3)
		r := wire.NewReader(&slow{raw, rand.New(rand.NewPCG(1, 2))}, func(byte) (int, bool) { return 1 << 20, true })
		for i, body := range bodies {
			typ, n, err := r.Next()
			if err != nil || typ != types[i] || n != len(body) {
				t.Fatalf("%s, message %d: got %q of %d bytes, %v; want %q of %d", name, i, typ, n, err, types[i], len(body))
			}
			got, err := r.Raw(n + 5)
			if err != nil || !bytes.Equal(got[5:], body) {
				t.Fatalf("%s, message %d, %q: got %q, %v; want %q", name, i, typ, got, err, body)
			}
		}
	}
}

func TestWhatOneImplementationSaysTheOtherDecodes(t *testing.T) {
	for _, messages := range []map[byte][]encoder{fromAgent, fromTarget} {
		for typ, list := range messages {
			for _, m := range list {
				raw, err := m.Encode(nil)
				if err != nil {
					t.Fatal(err)
				}
				if raw[0] != typ {
					t.Errorf("%T has the type %q, not %q", m, raw[0], typ)
				}
				if diff := disagree(typ, messages[wire.Query] != nil, raw[5:]); diff != "" {
					t.Errorf("%T: %s", m, diff)
				}
			}
		}
	}
}

// FuzzAgreement decodes a body as a message of each type of both directions and
// compares with pgproto3 whatever both accept.
func FuzzAgreement(f *testing.F) {
	for _, messages := range []map[byte][]encoder{fromAgent, fromTarget} {
		for typ, list := range messages {
			for _, m := range list {
				raw, err := m.Encode(nil)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(typ, messages[wire.Query] != nil, raw[5:])
				f.Add(typ, messages[wire.Query] != nil, append(bytes.Clone(raw[5:]), 0))
			}
		}
	}
	f.Fuzz(func(t *testing.T, typ byte, agent bool, body []byte) {
		if diff := disagree(typ, agent, body); diff != "" {
			t.Errorf("%q, %v: %s", typ, agent, diff)
		}
	})
}

// disagree tells how the decoders differ on a body that both accept.
func disagree(typ byte, agent bool, body []byte) string {
	if agent {
		return disagreeOnAgent(typ, body)
	}
	switch typ {
	case wire.Authentication:
		return disagreeOnAuthentication(body)
	case wire.RowDescription, wire.DataRow, wire.ErrorResponse, wire.NoticeResponse:
		return disagreeOnResult(typ, body)
	}
	return disagreeOnTarget(typ, body)
}

func compare(ours, theirs any) string { return cmp.Diff(theirs, ours, cmpopts.EquateEmpty()) }

func disagreeOnAgent(typ byte, body []byte) string {
	switch typ {
	case wire.Query:
		var m pgproto3.Query
		if text, err := wire.DecodeQuery(body); err == nil && sound(m.Decode, body) {
			return compare(string(text), m.String)
		}
	case wire.Parse:
		var m pgproto3.Parse
		if p, err := wire.DecodeParse(body); err == nil && sound(m.Decode, body) {
			return compare([]any{p.Name, string(p.Text), p.Types}, []any{m.Name, m.Query, m.ParameterOIDs})
		}
	case wire.Bind:
		var m pgproto3.Bind
		if b, err := wire.DecodeBind(body); err == nil && sound(m.Decode, body) {
			return compare([]any{b.Portal, b.Statement, b.Formats, b.Parameters, b.Results},
				[]any{m.DestinationPortal, m.PreparedStatement, m.ParameterFormatCodes, m.Parameters, m.ResultFormatCodes})
		}
	case wire.Execute:
		var m pgproto3.Execute
		if portal, rows, err := wire.DecodeExecute(body); err == nil && sound(m.Decode, body) {
			return compare([]any{portal, uint32(rows)}, []any{m.Portal, m.MaxRows})
		}
	case wire.Describe, wire.Close:
		var m pgproto3.Close
		if kind, name, err := wire.DecodeTarget(body); err == nil && sound(m.Decode, body) {
			return compare([]any{kind, name}, []any{m.ObjectType, m.Name})
		}
	case wire.FunctionCall:
		var m pgproto3.FunctionCall
		if oid, err := wire.DecodeFunctionCall(body); err == nil && sound(m.Decode, body) {
			return compare(oid, m.Function)
		}
	}
	return ""
}

func disagreeOnTarget(typ byte, body []byte) string {
	switch typ {
	case wire.ParameterStatus:
		var m pgproto3.ParameterStatus
		if name, value, err := wire.DecodeParameterStatus(body); err == nil && sound(m.Decode, body) {
			return compare([]any{name, value}, []any{m.Name, m.Value})
		}
	case wire.BackendKeyData:
		var m pgproto3.BackendKeyData
		if pid, key, err := wire.DecodeBackendKeyData(body); err == nil && sound(m.Decode, body) {
			return compare([]any{pid, key}, []any{m.ProcessID, m.SecretKey})
		}
	case wire.CommandComplete:
		var m pgproto3.CommandComplete
		if tag, err := wire.DecodeCommandComplete(body); err == nil && sound(m.Decode, body) {
			return compare(string(tag), string(m.CommandTag))
		}
	case wire.CopyInResponse, wire.CopyOutResponse:
		var m pgproto3.CopyOutResponse
		if format, columns, err := wire.DecodeCopyResponse(body); err == nil && sound(m.Decode, body) {
			theirs := make([]int16, len(m.ColumnFormatCodes))
			for i, c := range m.ColumnFormatCodes {
				theirs[i] = int16(c)
			}
			return compare([]any{format, columns}, []any{m.OverallFormat, theirs})
		}
	case wire.NotificationResponse:
		var m pgproto3.NotificationResponse
		if pid, channel, payload, err := wire.DecodeNotification(body); err == nil && sound(m.Decode, body) {
			return compare([]any{pid, string(channel), string(payload)}, []any{m.PID, m.Channel, m.Payload})
		}
	case wire.ReadyForQuery:
		var m pgproto3.ReadyForQuery
		if state, err := wire.DecodeReadyForQuery(body); err == nil && sound(m.Decode, body) {
			return compare(state, m.TxStatus)
		}
	case wire.NegotiateProtocolVersion:
		var m pgproto3.NegotiateProtocolVersion
		if version, options, err := wire.DecodeNegotiate(body); err == nil && sound(m.Decode, body) {
			return compare([]any{version, options}, []any{m.NewestMinorProtocol, m.UnrecognizedOptions})
		}
	}
	return ""
}

func disagreeOnAuthentication(body []byte) string {
	code, data, err := wire.DecodeAuthentication(body)
	if err != nil {
		return ""
	}
	switch code {
	case wire.AuthenticationSASL:
		var m pgproto3.AuthenticationSASL
		if names, err := wire.DecodeMechanisms(data); err == nil && sound(m.Decode, body) {
			return compare(names, m.AuthMechanisms)
		}
	case wire.AuthenticationSASLCont:
		var m pgproto3.AuthenticationSASLContinue
		if sound(m.Decode, body) {
			return compare(data, m.Data)
		}
	case wire.AuthenticationSASLFinal:
		var m pgproto3.AuthenticationSASLFinal
		if sound(m.Decode, body) {
			return compare(data, m.Data)
		}
	case wire.AuthenticationMD5:
		var m pgproto3.AuthenticationMD5Password
		if len(data) == 4 && sound(m.Decode, body) {
			return compare(data, m.Salt[:])
		}
	}
	return ""
}

func disagreeOnResult(typ byte, body []byte) string {
	switch typ {
	case wire.RowDescription:
		var m pgproto3.RowDescription
		if columns, err := wire.DecodeRowDescription(body); err == nil && sound(m.Decode, body) {
			var theirs []wire.Column
			for _, o := range m.Fields {
				theirs = append(theirs, wire.Column{
					Name: string(o.Name), Table: o.TableOID, Attribute: int16(o.TableAttributeNumber), Type: o.DataTypeOID, Format: o.Format,
				})
			}
			return compare(columns, theirs)
		}
	case wire.DataRow:
		var m pgproto3.DataRow
		if row, n, err := wire.DecodeDataRow(body); err == nil {
			values := make([][]byte, n)
			for i := range values {
				values[i] = row.Next()
			}
			if row.Err() == nil && sound(m.Decode, body) {
				return compare(values, m.Values)
			}
		}
	default:
		var m pgproto3.ErrorResponse
		fields, err := wire.DecodeFields(body)
		if err != nil || !sound(m.Decode, body) {
			return ""
		}
		last := map[byte]string{}
		for _, field := range fields {
			last[field.Code] = string(field.Value)
		}
		return compare([]string{last['S'], last['C'], last['M'], last['D'], last['H'], last['W'], last['s'], last['t'], last['c'], last['n']},
			[]string{m.Severity, m.Code, m.Message, m.Detail, m.Hint, m.Where, m.SchemaName, m.TableName, m.ColumnName, m.ConstraintName})
	}
	return ""
}
