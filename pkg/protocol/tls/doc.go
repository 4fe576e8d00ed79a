// Package tls mediates connections whose content stays encrypted.
//
// What is understood is the ClientHello, the agent's first message: the server
// name, the application protocols, the versions. The handshake is an operation
// with verb and effect "handshake" and an object of kind "server_name"; it is
// decided and recorded before anything is dialled. What is allowed passes
// through byte for byte, the hello included: the agent verifies the upstream's
// certificate itself, and headgate holds no key.
//
// What is not understood is everything after the hello: neither what is asked
// nor what is answered can be decided on, masked or recorded. A resource for
// which that matters needs the protocol inside, not this one.
//
// The server name is what the agent says. It is not verified here: a policy
// that needs to know where a connection goes decides on the address. With
// Encrypted Client Hello (object of kind "encrypted_hello") the name is that of
// the outer hello and the real one is hidden; most browsers and some libraries
// offer it as a decoy on every connection, which can't be told apart.
//
// A first message that is not one well-formed ClientHello of at most
// transparent.MaxPeek bytes is an unknown operation. Well-formed is meant
// strictly, so that headgate and the upstream can't read two different names
// out of one hello: no extension twice, exactly one server name, no bytes left
// over. A denied agent gets the alert access_denied.
//
// A real server answers a handshake that it refuses with an alert and ends the
// connection, which leaves nothing to be rolled back; so does headgate.
//
// Sources: RFC 8446 (TLS 1.3) sections 4.1.2 and 5.1, RFC 5246 (TLS 1.2), RFC
// 6066 section 3 (server name), RFC 7301 (ALPN), RFC 8701 (GREASE), RFC 9849
// (Encrypted Client Hello).
package tls
