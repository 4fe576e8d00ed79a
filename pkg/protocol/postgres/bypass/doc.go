// Package bypass attacks the mediation of PostgreSQL, and has tests only.
//
// Each case in testdata/postgres/bypass is one way around a policy or a mask. It
// runs against a real server through a real session with a compiled policy, and
// the credential that the session logs in with is a superuser's: what stops the
// attack is the mediator, or nothing. Afterwards all bytes that the agent
// received are searched for the protected values, written in any of many ways,
// and the state of the database is compared with the one before.
//
// The same cases run without the mediator in between. There the attack has to
// work: a case that cannot fail proves nothing.
//
// See the README.md beside the cases for the format of a case.
package bypass
