package dns

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/policy"
)

// The effects of queries.
const (
	// Address asks where a host is: A, AAAA, CNAME, HTTPS, SVCB.
	Address = "address"
	// Reverse asks for the name of an address: PTR below the two trees of
	// addresses.
	Reverse = "reverse"
	// Service asks who offers a service, and how: SRV, MX, NAPTR, URI, TLSA,
	// SSHFP, and PTR elsewhere (service discovery, RFC 6763).
	Service = "service"
	// Text asks for data of any content, which is what tunnels are made of: TXT,
	// SPF, NULL, keys and the like.
	Text = "text"
	// Zone asks about the zone itself, or for all of it: SOA, NS, DNSSEC, ANY,
	// AXFR.
	Zone = "zone"
	// Update changes a zone, or tells of a change: UPDATE, NOTIFY.
	Update = "update"
)

// classes gives each type of question its class. What is not here is unknown.
var classes = map[uint16]string{
	dns.TypeA: Address, dns.TypeAAAA: Address, dns.TypeCNAME: Address,
	dns.TypeHTTPS: Address, dns.TypeSVCB: Address,

	dns.TypePTR: Reverse,

	dns.TypeSRV: Service, dns.TypeMX: Service, dns.TypeNAPTR: Service,
	dns.TypeURI: Service, dns.TypeTLSA: Service, dns.TypeSSHFP: Service,

	dns.TypeTXT: Text, dns.TypeSPF: Text, dns.TypeNULL: Text,
	dns.TypeHINFO: Text, dns.TypeRP: Text, dns.TypeLOC: Text,
	dns.TypeCERT: Text, dns.TypeOPENPGPKEY: Text, dns.TypeSMIMEA: Text,
	dns.TypeKEY: Text, dns.TypeDHCID: Text,

	dns.TypeAXFR: Zone, dns.TypeIXFR: Zone, dns.TypeANY: Zone,
	dns.TypeNS: Zone, dns.TypeSOA: Zone, dns.TypeDNAME: Zone, dns.TypeCAA: Zone,
	dns.TypeDNSKEY: Zone, dns.TypeDS: Zone, dns.TypeCDNSKEY: Zone, dns.TypeCDS: Zone,
	dns.TypeRRSIG: Zone, dns.TypeNSEC: Zone, dns.TypeNSEC3: Zone,
	dns.TypeNSEC3PARAM: Zone, dns.TypeCSYNC: Zone, dns.TypeZONEMD: Zone,
}

// classOf returns the effect of a query; ok is false for a type without one.
func classOf(kind uint16, name string) (class string, ok bool) {
	class, ok = classes[kind]
	if kind == dns.TypePTR && !strings.HasSuffix(name, ".in-addr.arpa") && !strings.HasSuffix(name, ".ip6.arpa") {
		return Service, ok
	}
	return class, ok
}

// typeName returns a type as it is written in zone files, "TYPE1234" where it
// has no name (RFC 3597).
func typeName(kind uint16) string {
	if known, ok := dns.TypeToString[kind]; ok {
		return known
	}
	return fmt.Sprintf("TYPE%d", kind)
}

func className(class uint16) string {
	if known, ok := dns.ClassToString[class]; ok {
		return known
	}
	return fmt.Sprintf("CLASS%d", class)
}

func opcodeName(opcode int) string {
	if known, ok := dns.OpcodeToString[opcode]; ok {
		return known
	}
	return fmt.Sprintf("OPCODE%d", opcode)
}

func rcodeName(rcode int) string {
	if known, ok := dns.RcodeToString[rcode]; ok {
		return known
	}
	return fmt.Sprintf("RCODE%d", rcode)
}

// operation is a query as the policy sees it.
func (q *query) operation() *policy.Operation {
	op := &policy.Operation{Protocol: Name, Verb: policy.Unknown, Effects: []string{policy.Unknown}, Reason: q.reason}
	if q.reason == "" {
		op.Verb, op.Effects = q.class, []string{q.class}
	}
	if q.question == nil {
		return op
	}
	op.Text = typeName(q.kind) + " " + q.shown
	if q.opcode != dns.OpcodeQuery {
		op.Text = opcodeName(q.opcode) + " " + op.Text
	}
	op.Objects = []policy.Object{{Kind: "name", Name: q.name, Write: q.class == Update}}
	op.Parameters = []string{"type=" + typeName(q.kind)}
	if q.edns {
		op.Parameters = append(op.Parameters, "edns")
	}
	return op
}
