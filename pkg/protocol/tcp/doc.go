// Package tcp mediates connections in whose content nothing is understood.
//
// It recognises nothing by its bytes: a policy chooses it for a target, and the
// gateway falls back to it for what it may only observe. The one thing that is
// decided is the connection as a whole, by the gateway, before a byte passes.
// Everything after that goes both ways unseen: no operation can be denied, no
// value masked, no credential put in place of another, and there is nothing to
// record beside the decision, the number of bytes and the end. To allow a target
// with this protocol is to allow all that can be said to it.
//
// It knows no words for a refusal either: a denied agent's connection is reset.
// The upstream was not dialled, so there is nothing to be rolled back.
//
// Sources: RFC 9293.
package tcp
