package wire_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// seed adds the bodies of messages that pgproto3 encodes, and pieces of them.
func seed(f *testing.F, messages ...interface {
	Encode([]byte) ([]byte, error)
}) {
	f.Helper()
	for _, m := range messages {
		raw, err := m.Encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		body := raw[5:]
		f.Add(body)
		f.Add(body[:len(body)/2])
		f.Add(append(bytes.Clone(body), 0))
	}
	f.Add([]byte{})
}

// sound runs their decoder, which may panic on what ours refuses.
func sound(decode func([]byte) error, body []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return decode(bytes.Clone(body)) == nil
}

func FuzzQuery(f *testing.F) {
	seed(f, &pgproto3.Query{String: "select 1"})
	f.Fuzz(func(t *testing.T, body []byte) {
		text, err := wire.DecodeQuery(body)
		var other pgproto3.Query
		if err == nil && sound(other.Decode, body) && string(text) != other.String {
			t.Errorf("got %q, want %q", text, other.String)
		}
	})
}

func FuzzParse(f *testing.F) {
	seed(f, &pgproto3.Parse{Name: "n", Query: "select $1", ParameterOIDs: []uint32{25, 0}})
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := wire.DecodeParse(body)
		var other pgproto3.Parse
		if err != nil || !sound(other.Decode, body) {
			return
		}
		want := wire.ParseMessage{Name: other.Name, Text: []byte(other.Query), Types: other.ParameterOIDs}
		if diff := cmp.Diff(want, m, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzBind(f *testing.F) {
	seed(f, &pgproto3.Bind{
		DestinationPortal: "p", PreparedStatement: "s", ParameterFormatCodes: []int16{1, 0},
		Parameters: [][]byte{{1, 2}, nil}, ResultFormatCodes: []int16{1},
	}, &pgproto3.Bind{})
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := wire.DecodeBind(body)
		again := wire.BindMessage{Portal: "p", Statement: "x", Formats: []int16{1, 1, 1}, Parameters: [][]byte{{1}, {2}, nil}, Results: []int16{1}}
		for range 2 { // into what another message has left, and into what it left itself
			if failed := again.Decode(body); (failed == nil) != (err == nil) {
				t.Fatalf("the first time %v, and then %v", err, failed)
			} else if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); err == nil && diff != "" {
				t.Error(diff)
			}
			again.Forget()
		}
		var other pgproto3.Bind
		if err != nil || !sound(other.Decode, body) {
			return
		}
		want := wire.BindMessage{
			Portal: other.DestinationPortal, Statement: other.PreparedStatement,
			Formats: other.ParameterFormatCodes, Parameters: other.Parameters, Results: other.ResultFormatCodes,
		}
		if diff := cmp.Diff(want, m, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzExecute(f *testing.F) {
	seed(f, &pgproto3.Execute{Portal: "p", MaxRows: 7})
	f.Fuzz(func(t *testing.T, body []byte) {
		portal, rows, err := wire.DecodeExecute(body)
		var other pgproto3.Execute
		if err == nil && sound(other.Decode, body) && (portal != other.Portal || uint32(rows) != other.MaxRows) {
			t.Errorf("got %q, %d, want %+v", portal, rows, other)
		}
	})
}

func FuzzTarget(f *testing.F) {
	seed(f, &pgproto3.Describe{ObjectType: 'S', Name: "s"}, &pgproto3.Close{ObjectType: 'P'})
	f.Fuzz(func(t *testing.T, body []byte) {
		kind, name, err := wire.DecodeTarget(body)
		var other pgproto3.Describe
		if err == nil && sound(other.Decode, body) && (kind != other.ObjectType || name != other.Name) {
			t.Errorf("got %c, %q, want %+v", kind, name, other)
		}
	})
}

func FuzzRowDescription(f *testing.F) {
	seed(f, &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
		{Name: []byte("a"), TableOID: 16400, TableAttributeNumber: 2, DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1, Format: 1}, {},
	}})
	f.Fuzz(func(t *testing.T, body []byte) {
		columns, err := wire.DecodeRowDescription(body)
		var other pgproto3.RowDescription
		if err != nil || !sound(other.Decode, body) {
			return
		}
		var want []wire.Column
		for _, o := range other.Fields {
			want = append(want, wire.Column{
				Name: string(o.Name), Table: o.TableOID, Attribute: int16(o.TableAttributeNumber), Type: o.DataTypeOID, Format: o.Format,
			})
		}
		if diff := cmp.Diff(want, columns, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzDataRow(f *testing.F) {
	seed(f, &pgproto3.DataRow{Values: [][]byte{[]byte("a"), nil, {}}})
	f.Fuzz(func(t *testing.T, body []byte) {
		row, n, err := wire.DecodeDataRow(body)
		if err != nil {
			return
		}
		values := make([][]byte, n)
		for i := range values {
			values[i] = row.Next()
		}
		var other pgproto3.DataRow
		if row.Err() != nil || !sound(other.Decode, body) {
			return
		}
		if diff := cmp.Diff(other.Values, values, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzFields(f *testing.F) {
	seed(f, &pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "m", Detail: "d"}, &pgproto3.NoticeResponse{Message: "n"})
	f.Fuzz(func(t *testing.T, body []byte) {
		fields, err := wire.DecodeFields(body)
		var other pgproto3.ErrorResponse
		if err != nil || !sound(other.Decode, body) {
			return
		}
		last := map[byte]string{}
		for _, field := range fields {
			last[field.Code] = string(field.Value)
		}
		if last['M'] != other.Message || last['C'] != other.Code || last['D'] != other.Detail {
			t.Errorf("got %q, want %+v", last, other)
		}
	})
}

// FuzzOthers runs the decoders of which pgproto3 has no equal, or a trivial one.
func FuzzOthers(f *testing.F) {
	seed(f, &pgproto3.ParameterStatus{Name: "a", Value: "b"}, &pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}},
		&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, &pgproto3.CopyInResponse{ColumnFormatCodes: []uint16{0, 1}},
		&pgproto3.NotificationResponse{PID: 1, Channel: "c", Payload: "p"}, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}},
		&pgproto3.ReadyForQuery{TxStatus: 'I'}, &pgproto3.NegotiateProtocolVersion{UnrecognizedOptions: []string{"_pq_.x"}})
	f.Fuzz(func(t *testing.T, body []byte) {
		name, value, err := wire.DecodeParameterStatus(body)
		if err == nil && len(name)+len(value)+2 != len(body) {
			t.Error("ParameterStatus does not cover its body")
		}
		if _, key, err := wire.DecodeBackendKeyData(body); err == nil && len(key)+4 != len(body) {
			t.Error("BackendKeyData does not cover its body")
		}
		if tag, err := wire.DecodeCommandComplete(body); err == nil && len(tag)+1 != len(body) {
			t.Error("CommandComplete does not cover its body")
		}
		if _, columns, err := wire.DecodeCopyResponse(body); err == nil && 3+2*len(columns) != len(body) {
			t.Error("CopyResponse does not cover its body")
		}
		if _, channel, payload, err := wire.DecodeNotification(body); err == nil && len(channel)+len(payload)+6 != len(body) {
			t.Error("NotificationResponse does not cover its body")
		}
		if _, data, err := wire.DecodeAuthentication(body); err == nil {
			if names, err := wire.DecodeMechanisms(data); err == nil && len(names) > len(data) {
				t.Error("more mechanisms than bytes")
			}
		}
		if state, err := wire.DecodeReadyForQuery(body); err == nil && state != body[0] {
			t.Error("ReadyForQuery differs")
		}
		if _, options, err := wire.DecodeNegotiate(body); err == nil && len(options) > len(body) {
			t.Error("more options than bytes")
		}
		if _, err := wire.DecodeFunctionCall(body); err == nil && len(body) < 4 {
			t.Error("FunctionCall without a function")
		}
	})
}

func FuzzStartup(f *testing.F) {
	f.Add(wire.AppendStartup(nil, []wire.Parameter{{Name: "user", Value: "a"}, {Name: "options", Value: "-c a=b"}}))
	for _, m := range []interface {
		Encode([]byte) ([]byte, error)
	}{&pgproto3.SSLRequest{}, &pgproto3.GSSEncRequest{}, &pgproto3.CancelRequest{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}}} {
		raw, err := m.Encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, read, err := wire.ReadStartup(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if !bytes.HasPrefix(raw, read) {
			t.Error("the packet is not what was read")
		}
		if s.Code == wire.Version30 && !bytes.Equal(wire.AppendStartup(nil, s.Parameters), read) {
			t.Errorf("parameters %q do not make the packet again", s.Parameters)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x05\x00S\x00\x00\x00\x04"), uint8(0))
	f.Add([]byte("d\x00\x00\x00\x08abcdZ"), uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, how uint8) {
		r := wire.NewReader(bytes.NewReader(stream), func(byte) (int, bool) { return 1 << 20, true })
		var got bytes.Buffer
		for {
			_, n, err := r.Next()
			if err != nil {
				break
			}
			if how&1 == 1 {
				if _, err := r.CopyTo(&got); err != nil {
					break
				}
				continue
			}
			raw, err := r.Raw(n)
			if err != nil {
				break
			}
			got.Write(raw)
		}
		if !bytes.HasPrefix(stream, got.Bytes()) {
			t.Error("what was read is not what was sent")
		}
	})
}

func FuzzSASLInitial(f *testing.F) {
	seed(f, &pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=abc")})
	f.Fuzz(func(t *testing.T, body []byte) {
		name, data, err := wire.DecodeSASLInitial(body)
		var other pgproto3.SASLInitialResponse
		if err == nil && sound(other.Decode, body) && (name != other.AuthMechanism || !bytes.Equal(data, other.Data)) {
			t.Errorf("got %q, %q, want %q, %q", name, data, other.AuthMechanism, other.Data)
		}
	})
}
