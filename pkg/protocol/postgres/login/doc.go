// Package login logs in: at the target with the credential that the agent never
// sees, and the other way round the agent with the placeholder that it has in the
// credential's stead.
//
// [Upstream] answers what a target asks between the StartupMessage and
// AuthenticationOk. [Open] does that and all before and after it: it opens a
// session of headgate's own. Neither knows of the agent, and nothing that a
// target says before it has let us in goes anywhere: the texts of pg_hba.conf
// name hosts and accounts.
//
// A method that the credential does not allow is never answered, a target that
// asks twice is answered once, and a target that has not proven that it knows
// the password is not believed where the method demands the proof. The order of
// messages and the codes are those of "Message Flow" and "SASL Authentication" in
// the documentation of PostgreSQL; SCRAM is RFC 5802 and RFC 7677, and the hash of
// a certificate is tls-server-end-point of RFC 5929.
package login
