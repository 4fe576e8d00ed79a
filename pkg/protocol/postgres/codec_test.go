package postgres_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/protocol/protocoltest"
)

// token is what conversations know instead of a random one.
const token = "00112233445566778899aabbccddeeff"

// ourKey is what conversations know as the key of the session.
func ourKey(key []byte) {
	copy(key, bytes.Repeat([]byte("ours"), len(key)/4))
}

func TestProtocol(t *testing.T) {
	newProtocol := func() protocol.Protocol {
		return newPostgres(postgres.Options{Token: func() string { return token }, Key: ourKey})
	}
	protocoltest.Run(t, newProtocol, trace{}, "../../../testdata/postgres")
}

// trace is the codec of the conversations. A line is the name of a message and
// its fields: strings are Go literals, numbers are themselves, NULL is NULL.
//
//	Startup user "agent" … and Startup32   Query "…"      Parse NAME "…" OID…
//	SSLRequest GSSRequest                  Bind PORTAL STATEMENT VALUE… / RESULT…
//	CancelRequest PID "key"                Describe P NAME   Close S NAME   Execute PORTAL ROWS
//	Sync Flush Terminate CopyDone          CopyData "…"   CopyFail "…"   FunctionCall OID
//	CopyInResponse CopyOutResponse FORMAT COLUMNS            both 0 if left out
//	RowDescription "name:table:attribute:type:format" …      DataRow VALUE…
//	ErrorResponse "SERROR" "C42601" …      and NoticeResponse
//	Catalog                                all messages of the catalog query
//	Raw "…"                                bytes
type trace struct{}

type words struct {
	list []string
	err  error
}

func (w *words) next() string {
	if len(w.list) == 0 {
		w.err = fmt.Errorf("too few fields")
		return ""
	}
	s := w.list[0]
	w.list = w.list[1:]
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	s, err := strconv.Unquote(s)
	if err != nil {
		w.err = err
	}
	return s
}

func (w *words) number() int {
	n, err := strconv.Atoi(w.next())
	if err != nil {
		w.err = err
	}
	return n
}

func split(line string) ([]string, error) {
	var list []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, err
			}
			list, line = append(list, quoted), line[len(quoted):]
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		list, line = append(list, word), rest
	}
	return list, nil
}

// simple are the messages of a type and strings that end in NUL, and those
// without a body.
var simple = map[string]byte{
	"Query": wire.Query, "Sync": wire.Sync, "Flush": wire.Flush, "Terminate": wire.Terminate, "CopyDone": wire.CopyDone,
	"CopyFail": wire.CopyFail, "ParseComplete": wire.ParseComplete, "BindComplete": wire.BindComplete,
	"CloseComplete": wire.CloseComplete, "NoData": wire.NoData, "PortalSuspended": wire.PortalSuspended,
	"EmptyQueryResponse": wire.EmptyQueryResponse, "CommandComplete": wire.CommandComplete,
	"ParameterStatus": wire.ParameterStatus, "Password": wire.Password,
}

func (trace) Encode(line string) ([]byte, error) {
	list, err := split(line)
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("split %q: %v", line, err)
	}
	w := &words{list: list[1:]}
	out := encodeLine(list[0], w)
	if w.err != nil || len(w.list) > 0 || out == nil {
		return nil, fmt.Errorf("encode %q: %v, left %q", line, w.err, w.list)
	}
	return out, nil
}

func encodeLine(name string, w *words) []byte {
	if typ, ok := simple[name]; ok {
		out, mark := wire.Begin(nil, typ)
		for len(w.list) > 0 {
			out = append(append(out, w.next()...), 0)
		}
		return wire.Finish(out, mark)
	}
	switch name {
	case "Raw":
		return []byte(w.next())
	case "Startup", "Startup32":
		var parameters []wire.Parameter
		for len(w.list) > 0 {
			parameters = append(parameters, wire.Parameter{Name: w.next(), Value: w.next()})
		}
		if name == "Startup32" {
			return wire.AppendStartupVersion(nil, wire.Version32, parameters)
		}
		return wire.AppendStartup(nil, parameters)
	case "SSLRequest":
		return wire.AppendRequest(nil, wire.SSLCode)
	case "GSSRequest":
		return wire.AppendRequest(nil, wire.GSSCode)
	case "CancelRequest":
		pid := w.number()
		return wire.AppendCancel(nil, uint32(pid), []byte(w.next()))
	case "Catalog":
		return catalogMessages()
	}
	return encodeTyped(name, w)
}

func encodeTyped(name string, w *words) []byte {
	var out []byte
	var mark int
	text := func(s string) { out = append(append(out, s...), 0) }
	short := func(n int) { out = binary.BigEndian.AppendUint16(out, uint16(n)) }
	long := func(n int) { out = binary.BigEndian.AppendUint32(out, uint32(n)) }
	values := func(list []string) {
		v := &words{list: list}
		short(len(list))
		for range list {
			if v.list[0] == "NULL" {
				long(-1)
				v.list = v.list[1:]
				continue
			}
			s := v.next()
			long(len(s))
			out = append(out, s...)
		}
		w.list = nil
		if v.err != nil {
			w.err = v.err
		}
	}
	switch name {
	case "Parse":
		out, mark = wire.Begin(nil, wire.Parse)
		text(w.next())
		text(w.next())
		short(len(w.list))
		for len(w.list) > 0 {
			long(w.number())
		}
	case "Bind":
		out, mark = wire.Begin(nil, wire.Bind)
		text(w.next())
		text(w.next())
		short(0)
		values(w.list)
		short(0)
	case "Describe", "Close":
		out, mark = wire.Begin(nil, map[string]byte{"Describe": wire.Describe, "Close": wire.Close}[name])
		out = append(out, w.next()...)
		text(w.next())
	case "Execute":
		out, mark = wire.Begin(nil, wire.Execute)
		text(w.next())
		long(w.number())
	case "FunctionCall":
		out, mark = wire.Begin(nil, wire.FunctionCall)
		long(w.number())
		out = append(out, 0, 0, 0, 0, 0, 0)
	case "CopyData":
		out, mark = wire.Begin(nil, wire.CopyData)
		out = append(out, w.next()...)
	case "AuthenticationOk":
		out, mark = wire.Begin(nil, wire.Authentication)
		long(0)
	case "AuthenticationCleartext":
		out, mark = wire.Begin(nil, wire.Authentication)
		long(3)
	case "BackendKeyData":
		out, mark = wire.Begin(nil, wire.BackendKeyData)
		long(w.number())
		out = append(out, w.next()...)
	case "ReadyForQuery":
		out, mark = wire.Begin(nil, wire.ReadyForQuery)
		out = append(out, w.next()...)
	case "NegotiateProtocolVersion":
		out, mark = wire.Begin(nil, wire.NegotiateProtocolVersion)
		long(w.number())
		long(len(w.list))
		for len(w.list) > 0 {
			text(w.next())
		}
	case "CopyInResponse", "CopyOutResponse":
		out, mark = wire.Begin(nil, map[string]byte{"CopyInResponse": wire.CopyInResponse, "CopyOutResponse": wire.CopyOutResponse}[name])
		format, columns := 0, 0
		if len(w.list) > 0 {
			format, columns = w.number(), w.number()
		}
		out = append(out, byte(format))
		short(columns)
		for range columns {
			short(format)
		}
	case "ErrorResponse", "NoticeResponse":
		out, mark = wire.Begin(nil, map[string]byte{"ErrorResponse": wire.ErrorResponse, "NoticeResponse": wire.NoticeResponse}[name])
		for len(w.list) > 0 {
			text(w.next())
		}
		out = append(out, 0)
	case "DataRow":
		out, mark = wire.Begin(nil, wire.DataRow)
		values(w.list)
	case "RowDescription":
		out, mark = wire.Begin(nil, wire.RowDescription)
		short(len(w.list))
		for len(w.list) > 0 {
			parts := strings.Split(w.next(), ":")
			if len(parts) != 5 {
				w.err = fmt.Errorf("want five parts")
				return nil
			}
			n := &words{list: parts[1:]}
			text(parts[0])
			long(n.number())
			short(n.number())
			long(n.number())
			short(-1)
			long(-1)
			short(n.number())
			w.err = n.err
		}
	default:
		return nil
	}
	return wire.Finish(out, mark)
}

func catalogMessages() []byte {
	name := "headgate_" + token
	quoted := strconv.Quote(name)
	var out []byte
	for _, line := range []string{
		"Parse " + quoted + " " + strconv.Quote(postgres.CatalogQuery),
		"Bind " + quoted + " " + quoted, "Execute " + quoted + " 0", "Close P " + quoted, "Close S " + quoted, "Sync",
	} {
		p, err := trace{}.Encode(line)
		if err != nil {
			panic(err)
		}
		out = append(out, p...)
	}
	return out
}

// Decode shows messages for people: type and body.
func (trace) Decode(p []byte) []string {
	var lines []string
	r := wire.NewReader(bytes.NewReader(p), nil)
	for {
		typ, n, err := r.Next()
		if err != nil {
			break
		}
		raw, err := r.Raw(n)
		if err != nil {
			break
		}
		lines = append(lines, fmt.Sprintf("%s %q", wire.Name(typ), raw[5:]))
		p = p[len(raw):]
	}
	if len(p) > 0 {
		lines = append(lines, fmt.Sprintf("%q", p))
	}
	return lines
}

// DecodeUp takes the start-up packet off first.
func (t trace) DecodeUp(p []byte) []string {
	s, raw, err := wire.ReadStartup(bytes.NewReader(p))
	if err != nil {
		return []string{fmt.Sprintf("%q", p)}
	}
	return append([]string{fmt.Sprintf("start-up %d %q", s.Code, s.Parameters)}, t.Decode(p[len(raw):])...)
}

// Inspect looks for anything that runs and is no poison.
func (trace) Inspect(up []byte) error {
	if len(up) == 0 {
		return nil
	}
	_, start, err := wire.ReadStartup(bytes.NewReader(up))
	if err != nil {
		return err
	}
	r := wire.NewReader(bytes.NewReader(bytes.ReplaceAll(up[len(start):], catalogMessages(), nil)), nil)
	for {
		typ, n, err := r.Next()
		if err != nil {
			return nil // the end, or what was cut there
		}
		raw, err := r.Raw(n)
		if err != nil {
			return nil
		}
		switch typ {
		case wire.Query, wire.Parse, wire.Execute, wire.FunctionCall:
			if !bytes.Contains(raw, []byte("headgate_"+token)) {
				return fmt.Errorf("it received %s %q", wire.Name(typ), raw[5:])
			}
		}
	}
}
