// Package protocoltest is the conformance suite that every protocol passes.
//
// A protocol's test is one call:
//
//	func TestProtocol(t *testing.T) {
//		newProtocol := func() protocol.Protocol { return redis.New(redis.Options{}) }
//		protocoltest.Run(t, newProtocol, protocoltest.Quoted, "../../../testdata/redis")
//	}
//
// [Run] plays every conversation of the folder against a fake session: with
// decisions from a table, an upstream that follows a script, and a recording
// that is kept in memory. Nothing touches the network, and time is simulated: a
// protocol that waits for ever fails at once.
//
// # Conversations
//
// A conversation is one txtar file, named after what it shows, as in
// "a_denied_write.txtar". The text before the first section says it in a
// sentence. In every section blank lines and lines that begin with "#" mean
// nothing.
//
//	A write that a rule denies never reaches the upstream.
//
//	-- decide --
//	allow read
//	deny write rule=no-writes message="Writes need a ticket."
//	-- agent --
//	> "GET a\r\n"
//	< "1\r\n"
//	> "SET a 2\r\n"
//	< "-DENIED headgate: denied by rule \"no-writes\"\r\n"
//	! close
//	-- upstream --
//	> "GET a\r\n"
//	< "1\r\n"
//	? eof
//	-- operations --
//	allow get effects=read objects=key:a text="GET a"
//	deny set effects=write objects=key:a! rule=no-writes
//	-- frames --
//	op-1 result rows=1
//
// The sections:
//
//	session     optional  settings of the fake session, one per line, see below
//	decide      optional  the table of decisions; without it all is denied
//	masks       optional  what is masked in this session, see below
//	agent       required  what the agent does and sees, in the order of time
//	upstream    optional  the same for the upstream; without it nothing may be dialled
//	operations  optional  the decisions that are asked for, in order; without it none may be
//	frames      optional  the frames that are recorded, in order; without it they aren't compared
//	detect      optional  "yes", "no" or "more": Match's answer to the agent's opening
//	refusal     optional  "<" lines: all that the agent reads if the connection itself is denied
//
// # agent, upstream
//
// ">" is always up, from the agent to the upstream, and "<" is always down:
//
//	> LINE   agent: sends LINE.                  upstream: must receive exactly LINE.
//	< LINE   agent: must receive exactly LINE.   upstream: sends LINE.
//	! eof    this party ends its sending direction (half-close)
//	! close  this party closes its connection
//	! reset  this party resets its connection
//	? eof    this party must see the end of the stream, and no byte before it
//	? reset  the same, and the end must be a reset where the transport can tell
//
// "! eof" and "? eof" may be followed by what goes the other way; the other ends
// are the last line of their section.
//
// LINE is given to the [Codec]; with [Quoted] it is one Go string literal. What
// is sent in consecutive lines is sent at once. What is received is compared as
// bytes: the lines needn't be those in which it was written.
//
// A section that ends with neither "! close", "! reset" nor a "?" line goes on
// like this. The agent ends its sending direction, and must read nothing more
// until its connection ends. The upstream must read nothing more until its
// connection ends, and closes. The harness plays the gateway: it closes the
// downstream connection once Serve has returned.
//
// # decide
//
// One row per effect: "allow EFFECT" or "deny EFFECT", with rule=, reason= and
// message= as wanted ("test" and "rule" and empty where they aren't given).
// As in a policy, an operation is denied if one of its effects is, and allowed
// only if all of them are. The first row that names an effect counts; "*" is
// every effect but unknown. What no row names is denied by rule "default" with
// reason "unmatched"; the effect unknown, or no effect at all, with reason
// "unknown_operation" unless a row names unknown. "error EFFECT" stands for a
// decision that could not be recorded: it denies with reason "audit_failed".
//
// The connection as a whole (policy.Connect) is the gateway's to decide and has
// been allowed when Serve is called.
//
// Operations are named op-1, op-2, … in the order in which they are decided,
// and the session session-1: refusals quote these names. Whatever else is
// random in a protocol must come from its Options, so that newProtocol can make
// it constant.
//
// # operations
//
// One line for each call of Decide:
//
//	allow VERB effects=a,b objects=table:users,table:orders! text="…" params="…","…" rule=… reason=… detail=…
//
// A key that a line does not name is not compared. In objects "!" marks what is
// written; effects and objects are compared in their order. rule and reason are
// the decision's; detail is the operation's own Reason, why it was not
// understood. Values with a blank, a comma or a quote are written as Go string
// literals.
//
// # frames
//
//	OP KIND …
//
// OP is op-1 and so on, or "-" for the session as a whole. By kind:
//
//	op-1 notice "text"
//	op-1 rows "id" "email"
//	op-1 row "1" NULL
//	op-1 result tag="SELECT 1" code=42501 error="…" rows=1 bytes=12 masked=1
//
// Consecutive tables of one operation with the same columns are one table: in
// how many pieces the upstream's bytes came must not show. Zero fields of a
// result are left out, and here too a key that isn't named isn't compared.
//
// # session
//
//	observe                      sets Session.Observe; every operation is allowed
//	slow                         waits for a timeout: it is not played over loopback
//	resource NAME                sets Session.Resource.Name
//	tls full|ca|off              sets Session.Resource.TLS.Verify; without it that is off
//	credential USER SECRET       what Session.Credential returns; without it there is none
//
// Secure returns the connection as it is: what a script says after it is what
// goes through the TLS connection.
//
// # masks
//
//	column PATTERN TRANSFORM [CONSTANT]
//	detector NAME TRANSFORM [CONSTANT]
//
// One rule per line, named mask-1, mask-2, …; the words are those of package
// mask.
//
// # What is checked
//
// Every conversation is played
//
//   - whole, and once more over loopback TCP;
//   - TestFragmentation: at one byte per read on both sides, and with reads cut
//     at random: the same bytes both ways, the same operations and frames;
//   - TestTruncation: with the agent's bytes, and then the upstream's, ending
//     at every offset: Serve returns, nothing panics, no goroutine stays, and
//     the upstream receives nothing but a prefix of what it receives in the
//     whole conversation, followed at most by the codec's [Farewell];
//   - TestDetectConsumesNothing and TestDetectBounded: with the agent's opening,
//     which is all that it sends before it first waits;
//   - TestZeroValueDenies: with every operation denied: the upstream receives
//     nothing, or nothing that the codec's [Inspector] objects to. And with the
//     connection denied: Refuse dials nothing, and either says something or
//     ends the connection.
package protocoltest
