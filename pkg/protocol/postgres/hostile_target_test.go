package postgres_test

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// beTarget answers what reaches it. Each byte of the program says how it answers
// one message: mostly as a server does.
func (h *hostile) beTarget(program []byte) {
	defer h.target.Close()
	var length [4]byte
	in := io.TeeReader(h.target, &h.toldTarget)
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, in, int64(binary.BigEndian.Uint32(length[:]))-4); err != nil {
		return
	}
	out := make(chan []byte, 1<<12) // more than one session is answered
	written := make(chan struct{})
	go func() { // a server reads on while nobody reads what it says
		defer close(written)
		for raw := range out {
			if _, err := h.target.Write(raw); err != nil {
				return
			}
		}
	}()
	defer func() { close(out); <-written }()
	out <- encoded(&pgproto3.AuthenticationOk{}, &pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte("abcd")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	for i := 0; i < 1<<11; i++ {
		var header [5]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return
		}
		size := int64(binary.BigEndian.Uint32(header[1:])) - 4
		var body bytes.Buffer
		if n, err := io.CopyN(&body, in, min(size, 1<<20)); err != nil || n < size {
			return
		}
		if header[0] == wire.Terminate {
			return
		}
		var how []byte
		if i < len(program) {
			how = program[i:]
		}
		raw, over := h.answer(header[0], body.Bytes(), how)
		if len(raw) > 0 {
			out <- raw
		}
		if over {
			return
		}
	}
}

// faithful is what a server answers.
func (h *hostile) faithful(typ byte, body []byte) []byte {
	if bytes.Contains(body, []byte("headgate_"+token)) {
		h.skipping = typ != wire.Query
		return h.fails(`syntax error at or near "headgate_`+token+`"`, typ == wire.Query)
	}
	if h.skipping && typ != wire.Sync {
		return nil
	}
	ready := &pgproto3.ReadyForQuery{TxStatus: 'I'}
	switch typ {
	case wire.Parse:
		return encoded(&pgproto3.ParseComplete{})
	case wire.Bind:
		return encoded(&pgproto3.BindComplete{})
	case wire.Describe:
		if body[0] == 'S' {
			return append(encoded(&pgproto3.ParameterDescription{}), rowsOf()...)
		}
		return rowsOf()
	case wire.Execute:
		return append(row(cardNumber), encoded(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})...)
	case wire.Close:
		return encoded(&pgproto3.CloseComplete{})
	case wire.Sync:
		h.skipping = false
		return encoded(ready)
	case wire.FunctionCall:
		return encoded(&pgproto3.FunctionCallResponse{Result: []byte(cardNumber)}, ready)
	case wire.CopyDone, wire.CopyFail:
		if h.copying {
			h.copying = false
			return encoded(&pgproto3.CommandComplete{CommandTag: []byte("COPY 1")}, ready)
		}
	case wire.Query:
		switch {
		case bytes.Contains(body, []byte("from stdin")):
			h.copying = true
			return encoded(&pgproto3.CopyInResponse{ColumnFormatCodes: []uint16{0}})
		case bytes.Contains(body, []byte("to stdout")):
			return append(copyOut(), encoded(&pgproto3.CommandComplete{CommandTag: []byte("COPY 1")}, ready)...)
		case bytes.HasPrefix(body, []byte("select")), bytes.HasPrefix(body, []byte("fetch")), bytes.HasPrefix(body, []byte("execute")):
			out := append(rowsOf(), row(cardNumber)...)
			return append(out, encoded(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, ready)...)
		}
		return encoded(&pgproto3.CommandComplete{CommandTag: []byte("SET")}, ready)
	}
	return nil
}

func rowsOf() []byte {
	return encoded(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("body"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1}}})
}

func row(values ...string) []byte {
	r := &pgproto3.DataRow{}
	for _, v := range values {
		r.Values = append(r.Values, []byte(v))
	}
	return encoded(r)
}

func copyOut() []byte {
	return encoded(&pgproto3.CopyOutResponse{ColumnFormatCodes: []uint16{0}}, &pgproto3.CopyData{Data: []byte(cardNumber + "\n")}, &pgproto3.CopyDone{})
}

func (h *hostile) fails(message string, ready bool) []byte {
	out := encoded(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42601", Message: message, Detail: "it is " + cardNumber, Where: cardNumber})
	if ready {
		out = append(out, encoded(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	}
	return out
}

// answer is what comes back for a message; over says that the target is gone then.
func (h *hostile) answer(typ byte, body, how []byte) (raw []byte, over bool) {
	raw = h.faithful(typ, body)
	if len(how) == 0 || how[0] < 150 {
		return raw, false
	}
	notice := &pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "it is " + cardNumber, Hint: cardNumber}
	switch b := how[0]; {
	case b < 160:
		return append(encoded(notice), raw...), false
	case b < 170:
		return append(encoded(&pgproto3.NotificationResponse{PID: 7, Channel: "c", Payload: cardNumber}), raw...), false
	case b < 180:
		status := &pgproto3.ParameterStatus{Name: "client_encoding", Value: []string{"SJIS", "UTF8"}[b%2]}
		return append(encoded(status), raw...), false
	case b < 190:
		h.skipping = typ != wire.Query && typ != wire.Sync
		return h.fails("it is "+cardNumber, typ == wire.Query || typ == wire.Sync), false
	case b < 195:
		return append(raw, raw...), false
	case b < 200:
		return nil, false
	case b < 205:
		return append(copyOut(), raw...), false
	case b < 208:
		h.copying = true
		return append(encoded(&pgproto3.CopyInResponse{}), raw...), false
	case b < 210:
		return append(encoded(&pgproto3.CopyBothResponse{}), raw...), false
	case b < 215:
		return append(raw, how[1:min(len(how), 9)]...), false
	case b < 220:
		return append(raw, "DTCEdVNA"[b%8], 0x3f, 0xff, 0xff, 0xff, 0), b%2 == 0
	case b < 223:
		return raw[:len(raw)/2], true
	case b < 226:
		return append(raw, encoded(&pgproto3.ReadyForQuery{TxStatus: how[0]})...), false
	case b < 230:
		return append(row(cardNumber, cardNumber, cardNumber), raw...), false
	case b < 234:
		return append(rowsOf(), append(row(), raw...)...), false
	case b < 238:
		return append(encoded(&pgproto3.PortalSuspended{}), raw...), false
	case b < 240:
		return append(encoded(&pgproto3.EmptyQueryResponse{}), raw...), false
	case b < 242:
		return append(encoded(&pgproto3.AuthenticationCleartextPassword{}), raw...), false
	case b < 246: // a row of which a value is longer than the row
		return append(append(rowsOf(), 'D', 0, 0, 0, 14, 0, 1, 0x7f, 0xff, 0xff, 0xff, 'x', 'y', 'z', 'w'), raw...), false
	case b < 250: // rows in the binary format, of a type that is a number
		fields := []pgproto3.FieldDescription{{Name: []byte("n"), DataTypeOID: 20, Format: int16(b % 3)}}
		return append(encoded(&pgproto3.RowDescription{Fields: fields}), append(row(cardNumber), raw...)...), false
	default:
		e := &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Message: "it is " + cardNumber}
		return encoded(e), true
	}
}
