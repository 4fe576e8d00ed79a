// Package dns mediates DNS: it judges every question, and tells the gateway
// which addresses a name was said to have.
//
// A session speaks messages with a length in front, as over TCP (RFC 1035
// section 4.2.2), on both sides. Over UDP the gateway frames what an agent's
// socket sends, and the connection that Dial returns does the same upstream, so
// that there is one piece of code for both.
//
// # What is decided
//
// One operation per query: its effect is the class of its type (package table
// in classes.go), its object the name in lower case without the final dot. A
// query is a message with exactly one question of class IN, whose name is
// spelt out, with nothing after it but EDNS and a signature. UPDATE and NOTIFY
// have the effect "update". All else is an unknown operation.
//
// # How a denial looks
//
// REFUSED, under the query's id and with its question, and, if the query had
// EDNS, an Extended DNS Error (RFC 8914) that names the rule, the id in the
// record, and what to do.
//
// Why not NXDOMAIN: it is a statement about the name, "there is none", which
// resolvers cache (RFC 2308) and hand on as a fact, so that an agent reports a
// host as gone and a later approval is not seen. REFUSED is a statement about
// the one who asks, is not cached, and comes out as a temporary failure. glibc
// (EAI_AGAIN) and Go ("server misbehaving") then try the next server of their
// list, which helps nobody: every server passes the gate and gets the same
// decision, once for each server in the record. musl takes no notice of REFUSED
// and waits until its own time is up: slow, but denied. A real server that
// refuses keeps no state either, so there is nothing to be rolled back.
//
// # What passes, and what is changed
//
// A query goes up byte for byte but for its id, which is random and new, so
// that who can send to headgate's port still has to guess it; over UDP the port
// is new for each session too. An answer goes down byte for byte under the
// query's own id, if id and question are those of a query that is waiting;
// any other is dropped, and after [maxStrays] of them the upstream connection
// is given up. An upstream that is silent for [Options.Patience], is lost, or
// says what can't be read, becomes SERVFAIL with an Extended DNS Error.
//
// One thing is changed in answers, unless the session only observes: Encrypted
// Client Hello keys (SvcParam 5 of HTTPS and SVCB records, RFC 9848) would hide
// the server name of every TLS connection that follows. The parameter's place
// is taken by one of the same size and of zeros, for private use, which agents
// skip (RFC 9460 section 2.2). The message keeps its length, so that no
// compression pointer in it changes its meaning; a parameter that was left out
// would mean to decode and write anew every record, of types unknown too. The
// AD bit is cleared then, and a DNSSEC signature over the record no longer fits:
// an agent that validates by itself gets no HTTPS record.
//
// # What is learned
//
// From an answer without error to a question for A or AAAA: the addresses of
// the name at the end of the chain of CNAMEs that begins at the question, at
// most [maxChain] long. Records about other names mean nothing.
//
// # Library
//
// Of github.com/miekg/dns only the tables of names and the decoder of domain
// names are used, which takes an offset into the message, bounds a name to 255
// bytes and follows at most 126 pointers. golang.org/x/net/dns/dnsmessage hides
// the offsets that the change above needs. The decoders of record types are not
// used: what no decision depends on is not decoded, so that a hostile answer
// has neither lists to fill nor ninety decoders to try.
//
// Sources: RFC 1035, RFC 2136 (UPDATE), RFC 1996 (NOTIFY), RFC 2181, RFC 6891
// (EDNS), RFC 7766 (TCP), RFC 8914 (Extended DNS Errors), RFC 8945 (TSIG, which
// survives the new id by its own Original ID), RFC 9460 (SVCB and HTTPS), RFC
// 5452 (forged answers).
package dns
