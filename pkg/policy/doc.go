// Package policy parses policies and answers what an agent may do.
//
// It is pure: no I/O, no clock. [Parse] reads one file, [Compile] makes all
// files together into an immutable [Engine], and [Engine.Decide] answers a
// [Request]. A nil or zero Engine denies.
//
// # What decides
//
// All rules that match a request are considered, whatever their order, and the
// most restrictive one wins: deny, then approve, then allow, then the defaults.
// A rule matches if the resource is one of its resources, the principal one of
// its principals and the agent one of its agents (both: everybody if left
// out), and an effect of the operation is one of its operations.
//
//   - An operation is denied if a deny rule matches any of its effects. It is
//     allowed only if every effect is matched by an allow rule; where an approve
//     rule matches an effect, it is held.
//   - Operations that are left out are ["*"]. "*" is every effect but "unknown".
//   - "unknown" may be listed by deny rules only. An operation that has the
//     effect "unknown", or no effect at all, is answered by
//     defaults.unknown_operation after the deny rules. Where that is "allow", its
//     other effects are still decided, and whoever may not connect stays denied.
//   - A condition that cannot be evaluated denies, with the reason "error".
//   - A target that belongs to several resources gets the most restrictive of
//     their answers. One that belongs to none gets defaults.unmatched, with the
//     reason "unknown_resource"; no rule applies to it, also not one for "*".
//
// # Who and where
//
// The resources of a rule or mask are names, globs over names, "protocol:NAME"
// for all that speak a protocol, or "*" for every named resource. The principals
// of a rule, and those that a mask exempts, are "*", "anonymous",
// "group:NAME", "agent:NAME" or "ISSUER:SUBJECT"; NAME of a group, ISSUER and
// SUBJECT may be globs. A subject is always qualified by its issuer, because two
// issuers may know the same subject. In a glob, * is any run of characters, /
// and : included; nothing else is special. The anonymous principal has no groups
// and no subject.
//
// # Connecting
//
// Connecting is an operation like the others, with the effect "connect", and a
// rule need not name it to be of use:
//
//   - Every allow or approve rule that names the resource and matches the
//     principal and the agent allows to connect, whatever its operations are:
//     somebody who may do anything must be able to connect. Its condition is not
//     asked, unless its operations cover "connect".
//   - A deny or approve rule concerns connecting if its operations list
//     "connect", contain "*", or are left out. An approve rule for [update] does
//     not hold the connection; one without operations does.
//
// # Observing
//
// The mode of a rule is its own, else its file's, else that of the defaults,
// else enforce; a mask has its file's; what no rule matched has that of the
// defaults. What observes never acts: an observing rule is left out when the
// verdict is found, and an observing default lets pass. What everything
// together would have said is [Decision.WouldHave].
package policy
