package dns

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/protocol"
)

// passed is the frame of an answer that the agent gets.
func passed(op string, f facts, size int) protocol.Frame {
	outcome := &protocol.Outcome{Rows: uint64(f.records), Bytes: uint64(size)}
	if f.rcode == dns.RcodeSuccess {
		outcome.Tag = fmt.Sprintf("%s %d", rcodeName(f.rcode), f.records)
	} else {
		outcome.Code = rcodeName(f.rcode)
	}
	var notes []string
	notes = append(notes, f.told.Aliases...)
	for _, addr := range f.told.Addrs {
		notes = append(notes, addr.String())
	}
	if f.truncated {
		notes = append(notes, "truncated")
	}
	if f.altered {
		notes = append(notes, "ech removed")
	}
	return protocol.Frame{Op: op, Kind: protocol.FrameResult, Outcome: outcome, Text: strings.Join(notes, ", ")}
}

// failed is the frame of a query that got no answer from the upstream.
func failed(op, code, why string) protocol.Frame {
	return protocol.Frame{Op: op, Kind: protocol.FrameResult, Outcome: &protocol.Outcome{Code: code, Error: why}}
}
