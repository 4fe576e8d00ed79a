package dns

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// query is one message from the agent.
type query struct {
	// message is as the agent sent it.
	message []byte
	id      uint16
	flags   uint16
	opcode  int
	// question is the wire form of the one question, and nil where there is
	// not exactly one that can be read. It is a part of message.
	question []byte
	// name is canonical; shown is as the agent spelt it.
	name, shown string
	kind        uint16
	class       string
	// edns says that the message has an OPT record, which announced that
	// answers of size bytes may come over UDP.
	edns bool
	size int
	// reason says why the query was not understood. It is empty if it was.
	reason string
	// mute marks a message to which there can be no answer.
	mute bool
}

// parseQuery reads a message from an agent. It fails for none: what can't be
// read has a reason. It keeps b.
func parseQuery(b []byte) *query {
	q := &query{message: b}
	if len(b) < headerSize {
		q.mute, q.reason = true, fmt.Sprintf("message of %d bytes is too short", len(b))
		return q
	}
	h := readHeader(b)
	q.id, q.flags, q.opcode = h.id, h.flags, h.opcode()
	if h.response() {
		q.mute, q.reason = true, "message is an answer, and nobody asked"
		return q
	}
	if err := q.parse(b, h); err != nil {
		q.reason = err.Error()
	}
	return q
}

func (q *query) parse(b []byte, h header) error {
	if h.counts[0] != 1 {
		return fmt.Errorf("message has %d questions, want one", h.counts[0])
	}
	asked, err := readQuestion(b)
	if err != nil {
		return err
	}
	q.question = b[headerSize:asked.end]
	q.name, q.shown, q.kind = asked.name, asked.shown, asked.kind
	end, err := walk(b, h, asked.end, func(r record) error { return q.extra(b, r) })
	switch {
	case err != nil:
		return err
	case end != len(b):
		return fmt.Errorf("%d bytes follow the message", len(b)-end)
	case h.flags&flagTruncated != 0 || h.rcode() != 0:
		return fmt.Errorf("query has flags that only answers have")
	case strings.Contains(q.name, `\.`):
		return fmt.Errorf("a label of the name contains a dot")
	case asked.class != dns.ClassINET:
		return fmt.Errorf("class is %s, want IN", className(asked.class))
	}
	return q.classify()
}

// classify sets the class.
func (q *query) classify() error {
	switch q.opcode {
	case dns.OpcodeUpdate, dns.OpcodeNotify:
		q.class = Update
		return nil
	case dns.OpcodeQuery:
	default:
		return fmt.Errorf("opcode is %s", opcodeName(q.opcode))
	}
	class, ok := classOf(q.kind, q.name)
	if !ok {
		return fmt.Errorf("type %s has no class", typeName(q.kind))
	}
	q.class = class
	return nil
}

// extra judges a record in a message from the agent. Queries have none but EDNS
// and a signature, and where a zone transfer begins (RFC 1995).
func (q *query) extra(b []byte, r record) error {
	const additional = 3
	switch {
	case r.section == additional && r.kind == dns.TypeOPT:
		if q.edns || b[r.owner] != 0 {
			return fmt.Errorf("%w: its EDNS record is not one, of the root", errMalformed)
		}
		q.edns, q.size = true, int(r.class)
		return nil
	case r.section == additional && (r.kind == dns.TypeTSIG || r.kind == dns.TypeSIG):
		return nil
	case q.opcode != dns.OpcodeQuery:
		return nil // UPDATE and NOTIFY are decided by their zone
	case r.section == additional-1 && q.kind == dns.TypeIXFR && r.kind == dns.TypeSOA:
		return nil
	default:
		return fmt.Errorf("query carries a record of type %s", typeName(r.kind))
	}
}

// transfer reports whether the answer may be many messages.
func (q *query) transfer() bool {
	return q.opcode == dns.OpcodeQuery && (q.kind == dns.TypeAXFR || q.kind == dns.TypeIXFR)
}

// answeredBy reports whether b, under the id that q went up with, answers q: by
// its kind and its question. Servers may leave out the question of an UPDATE
// (RFC 2136 section 3.8) and of the later messages of a transfer (RFC 5936
// section 2.2.1); for a query without a question that could be read, which
// passes only if the policy lets unknown operations pass, the id has to do.
func (q *query) answeredBy(b []byte, first bool) bool {
	h := readHeader(b)
	if !h.response() || h.opcode() != q.opcode {
		return false
	}
	if q.question == nil {
		return true
	}
	if h.counts[0] == 0 {
		return q.opcode != dns.OpcodeQuery || q.transfer() && !first
	}
	end := headerSize + len(q.question)
	return h.counts[0] == 1 && len(b) >= end && sameQuestion(q.question, b[headerSize:end])
}

// sameQuestion compares two questions in wire form. Case means nothing in
// names; the bytes that are lengths are less than any letter.
func sameQuestion(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	name := len(a) - 4
	for i := range a[:name] {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return string(a[name:]) == string(b[name:])
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
