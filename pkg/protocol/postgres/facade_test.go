package postgres_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// facade looks like a server. What it answers depends on the text that it is asked
// and on a seed, and on nothing else: neither on time nor on how messages are cut.
type facade struct {
	seed       uint64
	heard      bytes.Buffer
	statements map[string]string // texts by name
	portals    map[string]bound
	skipping   bool
}

type bound struct {
	text   string
	format int16
}

func newFacade(p *play) *facade {
	return &facade{seed: p.seed, statements: map[string]string{}, portals: map[string]bound{}}
}

// serve answers until the other side has gone.
func (f *facade) serve(conn io.ReadWriter, write func(io.Writer, []byte) error) {
	in := io.TeeReader(conn, &f.heard)
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, in, int64(binary.BigEndian.Uint32(length[:]))-4); err != nil {
		return
	}
	out, written := make(chan []byte, 1<<12), make(chan struct{})
	go func() { // a server reads on while nobody reads what it says
		defer close(written)
		for raw := range out {
			if write(conn, raw) != nil {
				return
			}
		}
	}()
	defer func() { close(out); <-written }()
	out <- encoded(&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"},
		&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"},
		&pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte("abcd")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	for {
		var header [5]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(in, body); err != nil || header[0] == wire.Terminate {
			return
		}
		if raw := f.answer(header[0], body); len(raw) > 0 {
			out <- raw
		}
	}
}

func (f *facade) answer(typ byte, body []byte) []byte {
	if f.skipping && typ != wire.Sync {
		return nil
	}
	ready := encoded(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	switch typ {
	case wire.Query:
		return append(f.query(cut(&body)), ready...)
	case wire.Parse:
		name, text := cut(&body), cut(&body)
		if broken(text) {
			return f.fails(text)
		}
		f.statements[name] = text
		return encoded(&pgproto3.ParseComplete{})
	case wire.Bind:
		name, of := cut(&body), cut(&body)
		text, ok := f.statements[of]
		if !ok {
			return f.fails(of)
		}
		f.portals[name] = bound{text, int16(body[len(body)-1])}
		if bytes.HasSuffix(body, []byte{0, 0, 0, 0, 0, 0}) {
			f.portals[name] = bound{text, 0}
		}
		return encoded(&pgproto3.BindComplete{})
	case wire.Describe:
		return f.describe(body[0], string(bytes.TrimRight(body[1:], "\x00")))
	case wire.Execute:
		portal, ok := f.portals[cut(&body)]
		if !ok {
			return f.fails("portal")
		}
		_, rows := f.result(portal)
		return append(rows, f.complete(portal.text, rows)...)
	case wire.Close:
		return encoded(&pgproto3.CloseComplete{})
	case wire.Sync:
		f.skipping = false
		return ready
	case wire.FunctionCall:
		r := f.random(fmt.Sprint(body[:4]))
		return append(encoded(&pgproto3.FunctionCallResponse{Result: value(r, 25, 0)}), ready...)
	default:
		return nil
	}
}

// cut takes a text that ends in NUL off.
func cut(body *[]byte) string {
	text, rest, _ := bytes.Cut(*body, []byte{0})
	*body = rest
	return string(text)
}

func broken(text string) bool {
	return strings.HasPrefix(text, "headgate_") || strings.HasPrefix(text, "selec ") || strings.Contains(text, "'\\'")
}

func (f *facade) fails(what string) []byte {
	f.skipping = true
	return encoded(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42601",
		Message: "error at or near " + strconv.Quote(what), Detail: "it is " + cardNumber})
}

func (f *facade) query(text string) []byte {
	if broken(text) {
		defer func() { f.skipping = false }()
		return f.fails(text)
	}
	var out []byte
	for part := range strings.SplitSeq(text, ";") { // no text of ours has one in a string
		part = strings.TrimSpace(part)
		switch {
		case strings.HasPrefix(part, "copy "):
			out = append(out, encoded(&pgproto3.CopyOutResponse{ColumnFormatCodes: []uint16{0, 0}})...)
			r := f.random(part)
			for range r.IntN(20) {
				line := fmt.Sprintf("%d\t%s\n", r.IntN(100), strings.Repeat("y", r.IntN(1+1<<r.IntN(19))))
				out = append(out, encoded(&pgproto3.CopyData{Data: []byte(line)})...)
			}
			out = append(out, encoded(&pgproto3.CopyDone{}, &pgproto3.CommandComplete{CommandTag: []byte("COPY 1")})...)
		case strings.HasPrefix(part, "select"):
			described, rows := f.result(bound{part, 0})
			out = append(append(append(out, described...), rows...), f.complete(part, rows)...)
		case part != "":
			out = append(out, f.complete(part, nil)...)
		}
	}
	if len(out) == 0 {
		return encoded(&pgproto3.EmptyQueryResponse{})
	}
	return out
}

func (f *facade) describe(kind byte, name string) []byte {
	portal := f.portals[name]
	var out []byte
	if kind == 'S' {
		portal = bound{f.statements[name], 0}
		out = encoded(&pgproto3.ParameterDescription{})
	}
	if !returns(portal.text) {
		return append(out, encoded(&pgproto3.NoData{})...)
	}
	described, _ := f.result(portal)
	return append(out, described...)
}

func returns(text string) bool {
	return strings.HasPrefix(text, "select") || text == postgres.CatalogQuery
}

func (f *facade) complete(text string, rows []byte) []byte {
	if strings.TrimSpace(text) == "" {
		return encoded(&pgproto3.EmptyQueryResponse{})
	}
	return encoded(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", min(len(rows), 1))})
}

func (f *facade) random(text string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return rand.New(rand.NewPCG(f.seed, h.Sum64()))
}

// columnTypes are those that are masked in ways of their own.
var columnTypes = []uint32{25, 25, 25, 1043, 23, 20, 1114, 17, 114, 3802, 1700, 20000}

// result describes rows and makes them.
func (f *facade) result(b bound) (described, rows []byte) {
	if b.text == postgres.CatalogQuery {
		names := []string{"id", "note", "ssn", "n"}
		for i, name := range names {
			rows = append(rows, row("c", "16400", fmt.Sprint(i+1), "public", "customers", name, "r")...)
		}
		return nil, rows
	}
	if !returns(b.text) {
		return nil, nil
	}
	r := f.random(b.text)
	d := &pgproto3.RowDescription{}
	for range 1 + r.IntN(5) {
		column := pgproto3.FieldDescription{Name: []byte([]string{"id", "note", "ssn", "n"}[r.IntN(4)]), DataTypeOID: columnTypes[r.IntN(len(columnTypes))],
			DataTypeSize: -1, TypeModifier: -1, Format: b.format}
		if r.IntN(3) > 0 {
			column.TableOID, column.TableAttributeNumber = 16400, uint16(1+r.IntN(4))
		}
		d.Fields = append(d.Fields, column)
	}
	for range r.IntN(40) {
		made := &pgproto3.DataRow{}
		for i := range d.Fields {
			made.Values = append(made.Values, value(r, d.Fields[i].DataTypeOID, b.format))
		}
		rows = append(rows, encoded(made)...)
	}
	return encoded(d), rows
}

// value makes one of a type, now and then one that is none.
func value(r *rand.Rand, oid uint32, format int16) []byte {
	found := []string{cardNumber, "4111 1111 1111 1111", "ada@example.org", "078-05-1120", "DE89370400440532013000", "4111-1111-1111-1112", "@", "07805112"}
	text := strings.Repeat("x", r.IntN(12)) + found[r.IntN(len(found))] + strings.Repeat(" ", r.IntN(3)) + found[r.IntN(len(found))]
	switch r.IntN(14) {
	case 0:
		return nil
	case 1:
		return []byte{}
	case 2, 3, 4:
		return []byte(text)
	case 5:
		return bytes.Repeat([]byte("z"), r.IntN(1<<r.IntN(19)+1))
	case 6:
		return append(bytes.Repeat([]byte("z "), r.IntN(1<<r.IntN(18)+1)), text...)
	case 7:
		b := make([]byte, r.IntN(24))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	switch {
	case oid == 20 && format == 1:
		return binary.BigEndian.AppendUint64(nil, []uint64{r.Uint64(), 4111111111111111}[r.IntN(2)])
	case oid == 17 && format == 0:
		return fmt.Appendf(nil, `\x%x`, text)
	case oid == 114 || oid == 3802:
		head := ""
		if oid == 3802 && format == 1 {
			head = "\x01"
		}
		return fmt.Appendf(nil, `%s{"a": "%s", "b": %d}`, head, text, r.IntN(9))
	case oid == 23 || oid == 1700:
		return fmt.Append(nil, r.IntN(100000))
	case oid == 1114:
		return []byte("2026-11-23 04:50:00.123456")
	default:
		return []byte(found[r.IntN(len(found))])
	}
}

// number reads a setting of a test.
func number(t *testing.T, name string, byDefault int) int {
	text := os.Getenv(name)
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return n
}
