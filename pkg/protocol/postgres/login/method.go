package login

import (
	"fmt"
	"slices"
)

// Method is a way in which a target lets somebody in.
type Method string

// The methods, from the strongest to none, in the words of pg_hba.conf and of
// libpq's require_auth.
const (
	// SCRAMPlus is SCRAM-SHA-256 bound to the target's certificate: whoever
	// stands between us and the target cannot pass the login on.
	SCRAMPlus Method = "scram-sha-256-plus"
	// SCRAM is SCRAM-SHA-256: the password is not sent, and the target proves
	// that it knows it.
	SCRAM Method = "scram-sha-256"
	// MD5 is md5: what is sent is worth the password for as long as the salt is
	// not a new one, and the target proves nothing.
	MD5 Method = "md5"
	// Cleartext is the password itself, over verified TLS and not otherwise.
	Cleartext Method = "password"
	// None is that the target asks for nothing: it knows us by a client
	// certificate, or trusts everybody.
	None Method = "none"
)

// Methods returns all methods, the strongest first.
func Methods() []Method { return []Method{SCRAMPlus, SCRAM, MD5, Cleartext, None} }

// allowed returns the methods with these names. Who allows SCRAM-SHA-256 allows
// it with channel binding as well. No names stand for all methods.
func allowed(names []string) ([]Method, error) {
	if len(names) == 0 {
		return Methods(), nil
	}
	var list []Method
	for _, name := range names {
		m := Method(name)
		if !slices.Contains(Methods(), m) {
			return nil, fmt.Errorf("method %q is not known", name)
		}
		list = append(list, m)
		if m == SCRAM {
			list = append(list, SCRAMPlus)
		}
	}
	return list, nil
}
