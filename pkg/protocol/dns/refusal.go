package dns

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// maxOwn bounds an answer of our own, in bytes: what passes every network in
// one piece (DNS flag day 2020). minUDP is what every agent takes.
const (
	maxOwn = 1232
	minUDP = 512
)

// explanation is an Extended DNS Error.
type explanation struct {
	code uint16
	text string
}

// blocked explains a denial. The connection as a whole is Prohibited, which is
// about who asks, a query Blocked, which is about what.
func blocked(d *protocol.Denial, code uint16) explanation {
	switch d.Reason {
	case protocol.ReasonAudit, protocol.ReasonInternal, policy.ReasonError:
		code = dns.ExtendedErrorCodeOther
	}
	return explanation{code, d.Summary() + ". " + d.Hint()}
}

// answer returns an answer of our own: no records, the rcode, and the
// explanation if the query can have one.
func (q *query) answer(rcode int, why explanation, transport transparent.Transport) []byte {
	flags := flagResponse | q.flags&(0xf<<11|flagRecursion|1<<4) | uint16(rcode)
	if q.flags&flagRecursion != 0 {
		flags |= flagAvailable
	}
	b := binary.BigEndian.AppendUint16(nil, q.id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	if q.question != nil {
		b[5] = 1
		b = append(b, q.question...)
	}
	if !q.edns {
		return b
	}
	limit := maxOwn
	if transport == transparent.UDP {
		limit = min(max(q.size, minUDP), maxOwn)
	}
	b[11] = 1
	return appendEDNS(b, why, limit)
}

// appendEDNS appends an OPT record with the explanation, which is cut so that
// the whole has at most limit bytes.
func appendEDNS(b []byte, why explanation, limit int) []byte {
	const fixed = 11 + 4 + 2 // the record, the option, and its code
	text := cut(why.text, limit-len(b)-fixed)
	b = append(b, 0) // the root
	b = binary.BigEndian.AppendUint16(b, dns.TypeOPT)
	b = binary.BigEndian.AppendUint16(b, maxOwn)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(4+2+len(text)))
	b = binary.BigEndian.AppendUint16(b, dns.EDNS0EDE)
	b = binary.BigEndian.AppendUint16(b, uint16(2+len(text)))
	b = binary.BigEndian.AppendUint16(b, why.code)
	return append(b, text...)
}

// cut shortens text to n bytes, between characters.
func cut(text string, n int) string {
	n = max(n, 0)
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
