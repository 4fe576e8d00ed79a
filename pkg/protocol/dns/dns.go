package dns

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/protocol"
)

// Name is the protocol's name in policies, metrics and records.
const Name = "dns"

// Options configures the protocol. The zero Options are the defaults.
type Options struct {
	// Patience is how long an upstream may take for an answer; 5 s by default.
	Patience time.Duration
	// IdleUDP and IdleTCP are how long a session lives on after its last
	// answer; 15 s and 30 s by default.
	IdleUDP, IdleTCP time.Duration
	// InFlight bounds the queries of one session that wait for an answer; 64 by
	// default. Further ones are not read before there is room.
	InFlight int
	// QueryID returns a number that nobody can guess. It is there so that tests
	// can know it. It may be called concurrently.
	QueryID func() uint16
}

// DNS is the protocol. It has no state; one value serves all sessions.
type DNS struct{ options Options }

var _ protocol.Protocol = (*DNS)(nil)

// New returns the protocol.
func New(options Options) *DNS {
	setDefault(&options.Patience, 5*time.Second)
	setDefault(&options.IdleUDP, 15*time.Second)
	setDefault(&options.IdleTCP, 30*time.Second)
	setDefault(&options.InFlight, 64)
	if options.QueryID == nil {
		options.QueryID = randomID
	}
	return &DNS{options: options}
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

func randomID() uint16 {
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err)) // documented never to happen
	}
	return binary.BigEndian.Uint16(b[:])
}

// Name returns [Name].
func (*DNS) Name() string { return Name }

// Operations returns the classes of queries.
func (*DNS) Operations() []string {
	return []string{Address, Reverse, Service, Text, Zone, Update}
}

// Match says Yes to a framed query, once its question is there: the length must
// be possible, the header one of a query, and the question whole. It is meant
// for TCP; a flow over UDP is no other language's.
func (*DNS) Match(prefix []byte) protocol.Match {
	const frame = 2
	if len(prefix) < frame {
		return protocol.More
	}
	size := int(binary.BigEndian.Uint16(prefix))
	if size < headerSize+5 {
		return protocol.No
	}
	b := prefix[frame:min(len(prefix), frame+size)]
	if !queryHeader(b) {
		return protocol.No
	}
	if len(b) < headerSize {
		return protocol.More
	}
	const longest = headerSize + 255 + 4
	asked, err := readQuestion(b)
	switch {
	case err == nil && asked.class >= dns.ClassINET && asked.class <= dns.ClassANY && asked.kind != 0:
		return protocol.Yes
	case err == nil || len(b) == size || len(b) >= longest || !mayGoOn(b):
		return protocol.No
	default:
		return protocol.More
	}
}

// queryHeader reports whether b can be the beginning of a query: QUERY with
// none of the flags that answers have, one question, no answer, and what EDNS
// and signatures need.
func queryHeader(b []byte) bool {
	at := func(i int) byte {
		if i < len(b) {
			return b[i]
		}
		return 0
	}
	if len(b) > 5 && at(5) != 1 {
		return false
	}
	const answerOnly = 0xfe // of the third byte: QR, opcode, AA, TC
	return at(2)&answerOnly == 0 && at(3)&maskCode == 0 && at(4) == 0 &&
		at(6) == 0 && at(7) == 0 && at(8) == 0 && at(9) <= 1 && at(10) == 0 && at(11) <= 2
}

// mayGoOn reports whether the name in b, which is not whole, is spelt out so far.
func mayGoOn(b []byte) bool {
	for off := headerSize; off < len(b); off += 1 + int(b[off]) {
		if b[off] == 0 {
			return true
		}
		if b[off] > 63 {
			return false
		}
	}
	return true
}
