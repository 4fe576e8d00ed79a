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
// # Limits
//
// A rule with effect allow or approve may bound what it allows: limits.rows and
// limits.bytes the result of one operation, limits.per_minute the operations,
// rows and bytes that one tree has by this rule in any minute. The limits of all
// rules that match an effect of the operation hold together, whichever rule
// decided; those of rules that observe do not. For an operation that is not
// understood those of every rule hold. Connecting is not counted. A rule with
// limits for a resource where nobody counts is an error; see [Options.Metered].
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
// # Where a flow belongs
//
// A flow belongs to the resources whose ranges hold its address, and to those
// that give one of its names as a host, exactly or as "*.name", which is one or
// more labels before the name. Names count only if a trusted server told them
// ([Request.Names]). All of these resources must allow, so that a name makes a
// flow whose address belongs to a resource more restricted, never less; but a
// flow whose address belongs to none is that of the resources of its names: so
// something is allowed by name. TCP and UDP have resources of their own.
//
// # What the kernel judges
//
// Flows to resources with "inspection: none", "protocol: udp" or "protocol:
// unix" pass or not, and nobody looks into them. The kernel knows where a flow
// goes and nothing else, so a rule that concerns connecting there may not depend
// on principals, agents, conditions, approvals or other operations than
// "connect"; whoever may connect may do anything. Masks for "*" leave such
// resources out, others may not name them. What is inspected is denied by the
// kernel too where an enforced rule denies it to everybody and nothing observes.
// Where resources share a destination, denied comes before proxied, proxied
// before observed and observed before direct; the kernel sees no names, so a name restricts only what the
// address leaves to the proxy. [Engine.Destinations] and [Engine.UnixSockets] list
// all this.
//
// What no resource names is for the daemon to judge, and defaults.unmatched does
// not concern it: UDP is refused, except to name servers, and unix sockets are
// open but for those on the daemon's own list. What is refused that way can be
// allowed by a rule for a resource that names it; the verdict then has the
// rule's name.
//
// # Asking for names
//
// A resource with "protocol: dns" says which names may be asked for: names,
// "*.name" or "*"; of its servers only, if it has any. What is asked of a server
// concerns the resources that have the name; a name that none has gets
// defaults.unmatched. Asking for something that names nothing concerns all of the
// server's. Connecting to a server is allowed if any name may be asked for there.
//
// Who may connect to a resource, approval or not, may ask for the addresses of
// its hosts' names: the effect "address" is allowed with the reason "implied" and
// that resource's rule, unless a rule for the name says something. No other
// resource may be at port 53, which would be a way past all this; where a server
// at another port belongs to other resources, these must allow as well.
//
// # Observing
//
// Where the host only observes ([Options.Host]), everything does. Else the mode of a
// rule is its own, else its file's, else that of the defaults, else enforce; a mask has its file's; what no rule matched has that of the
// defaults. What observes never acts: an observing rule is left out when the
// verdict is found, and an observing default lets pass. What everything
// together would have said is [Decision.WouldHave]. The kernel denies nothing
// that only observes: what would be denied passes as [Observed], which names the
// rule that would.
package policy
