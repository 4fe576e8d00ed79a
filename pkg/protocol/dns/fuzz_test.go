package dns

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

var seeds = []string{
	"query 7 A a.example. edns", "query 7 AXFR .", "query 7 SOA a.example. opcode=UPDATE",
	"answer 7 A a.example. NOERROR | a.example. 60 IN CNAME b.example. | b.example. 60 IN A 192.0.2.1",
	`answer 7 HTTPS a.example. NOERROR | a.example. 60 IN HTTPS 1 . mandatory="ech" ech="AQIDBA=="`,
	"bytes 000903010000000000c00c", "bytes 000901000001000000000000c00c00010001",
}

// FuzzQuery checks that a query that is understood is the one that another
// decoder reads, and that its refusal can be read and answers it.
func FuzzQuery(f *testing.F) {
	for _, s := range seeds {
		f.Add(packed(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxMessage {
			return
		}
		q := parseQuery(b)
		op := q.operation()
		if (op.Effects[0] == policy.Unknown) != (q.reason != "") {
			t.Fatalf("the effects are %v and the reason %q", op.Effects, q.reason)
		}
		if q.mute {
			return
		}
		own := q.answer(dns.RcodeRefused, explanation{15, "no"}, 0)
		var m dns.Msg
		if err := m.Unpack(own); err != nil {
			t.Fatalf("the refusal can't be read: %v", err)
		}
		if !q.answeredBy(own, true) && q.question != nil {
			t.Fatal("the refusal does not answer the query")
		}
		var other dns.Msg
		if q.reason != "" || other.Unpack(b) != nil {
			return
		}
		if len(other.Question) != 1 || other.Question[0].Name != q.shown || other.Question[0].Qtype != q.kind {
			t.Fatalf("another decoder reads %v, not %s %s", other.Question, typeName(q.kind), q.shown)
		}
	})
}

// FuzzAnswer checks that an answer keeps its size and loses its keys, and that
// what is learned is there.
func FuzzAnswer(f *testing.F) {
	for _, s := range seeds {
		f.Add(packed(f, s), dns.TypeA)
		f.Add(packed(f, s), dns.TypeHTTPS)
	}
	f.Fuzz(func(t *testing.T, b []byte, kind uint16) {
		if len(b) < headerSize || len(b) > maxMessage {
			return
		}
		question := binary.BigEndian.AppendUint16([]byte("\x01a\x07example\x00"), kind)
		question = append(question, 0, 1)
		q := parseQuery(append([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"), question...))
		if !q.answeredBy(b, true) {
			return
		}
		before := bytes.Clone(b)
		facts, err := readAnswer(q, b, stripKeys)
		if len(before) != len(b) {
			t.Fatal("the answer has another size")
		}
		if err != nil {
			return
		}
		if facts.altered == bytes.Equal(before, b) && facts.altered {
			t.Fatal("it says that it altered the answer, and did not")
		}
		if again, err := readAnswer(q, b, stripKeys); err != nil || again.altered {
			t.Fatalf("the keys are still there, or it can't be read any more: %v", err)
		}
		for _, a := range facts.told.Addrs {
			raw := a.AsSlice()
			if !bytes.Contains(b, raw) {
				t.Fatalf("%s is not in the answer", a)
			}
		}
		if len(facts.told.Aliases) > maxChain {
			t.Fatalf("it learned %d aliases", len(facts.told.Aliases))
		}
	})
}

// FuzzMatch checks that Match does not change its mind, and that what it claims
// is a query.
func FuzzMatch(f *testing.F) {
	for _, s := range seeds {
		f.Add(framed(packed(f, s)))
	}
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := New(Options{})
		before := protocol.More
		for n := range min(len(b), 1024) + 1 {
			got := d.Match(b[:n])
			if before != protocol.More && got != before {
				t.Fatalf("Match of %d bytes is %d after it was %d", n, got, before)
			}
			before = got
		}
		if before != protocol.Yes {
			return
		}
		size := int(binary.BigEndian.Uint16(b))
		q := parseQuery(b[2:min(len(b), 2+size)])
		if q.mute || q.question == nil {
			t.Fatalf("it claims what is no query: %s", q.reason)
		}
	})
}
