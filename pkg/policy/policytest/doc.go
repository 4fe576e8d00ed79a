// Package policytest runs the tests of policies: who, from which programs, asks for
// what, and what the policy is expected to say.
//
// Tests are in a file NAME_test.yaml beside the policy file NAME.yaml. It is not a
// policy file: no daemon reads it. Its keys are
//
//	version: 1
//	files: [postgres-guard.yaml]     # the policy files that it is about; all of its directory if left out
//	agents: [...]                    # more agents and resources, as in a policy file,
//	resources: [...]                 # for policies that name none themselves
//	addresses: {db.internal: 10.0.3.7}
//	given: {resource: app-db, principal: "people:eve", groups: [dba]}
//	tests:
//	  - name: a table is not dropped
//	    statement: DROP TABLE invoices
//	    expect: {decision: deny, rule: guard-no-drop}
//
// addresses says what the host names of resources mean. Nothing is looked up: a
// name that is not listed there gets an address of its own, from the range that
// RFC 2544 keeps for benchmarks.
//
// # Who and from where
//
// A test has these keys, and "given" holds those that all tests share:
//
//   - principal: "anonymous", which holds where it is left out, or ISSUER:SUBJECT;
//     with groups and claims, which are that principal's.
//   - agent: the agent's name in the policy; "default" if left out.
//   - lineage: the programs, nearest first: the one that asks, the one that started
//     it, and so on. Each is the path of its executable, or {exe, argv, uid}; argv
//     is the path alone and uid 1000 if left out. Where lineage is left out, or is
//     [unknown], nothing is known of the process, and a condition that asks for it
//     denies.
//   - time: the moment, as in "2026-03-02T09:30:00Z". Not known if left out.
//
// # Where to and what
//
// A test names one of
//
//   - resource: a resource of the policy. The flow goes to the first of its hosts.
//   - target: "ip:port" or "name:port", over TCP, or UDP with transport: udp. A name
//     is one that the agent was told by a trusted server. Who speaks there is what
//     the policy says, or protocol.
//   - socket: the path of a unix socket.
//   - asked: a name that a name server is asked for, by the effect "address" or by
//     those in effects; target may be the server.
//
// and one of
//
//   - statement: a text in the resource's protocol. What it does is for the protocol
//     to say. Each of several statements in a text is decided, and the most
//     restrictive answer is the test's. A text in which there is nothing is an
//     unknown operation.
//   - effects: what an operation does, in the protocol's words. "*" is an effect that
//     no rule names; "unknown" is what is not understood. With objects, a list of
//     {kind, name, write}, which conditions may look at.
//   - connect: true: only a connection is asked for.
//
// A statement needs a connection: where that is denied, the statement is.
//
// # What is expected
//
// Only what "expect" lists is compared; "expect: deny" is short for its decision.
//
//   - decision: allow, deny, approve; or none, for a socket that no resource names.
//   - rule: the name of the rule that decided, or "default".
//   - reason: as in decisions: rule, implied, unmatched, unknown_operation,
//     unknown_resource, error.
//   - would_have: what would have been said if nothing only observed.
//   - mode: enforce or observe.
//   - kernel: what the kernel does with the flow by itself: denied, proxied,
//     observed, direct.
//   - limits: {rows, bytes, operations_per_minute, rows_per_minute,
//     bytes_per_minute}: the tightest of all that hold, or "none".
//   - masked, clear: columns that are masked, or not: "column", "table.column" or
//     "schema.table.column"; table t and schema public where they are left out.
//   - found, passed: texts in which a detector finds something, or nothing.
//   - searched, unsearched: columns by which rows may be chosen, or not.
//   - copied, kept: columns that may be stored where no mask follows, or not.
//
// # Coverage
//
// A rule is covered if it says something about what a test asks for, and a mask if
// it concerns one of the columns or texts that a test names. The package is pure: no
// I/O, no clock.
package policytest
