// Package identity answers on whose behalf a tree acts.
//
// A [Principal] is bound to the root of a process tree and holds for all its
// descendants until the tree is gone. A tree to which nobody was bound is the
// [Anonymous] principal, which has nothing but its process facts.
package identity

// Principal is on whose behalf a tree acts. The zero Principal is anonymous.
type Principal struct {
	// Issuer is the configured name of the identity provider that vouched for
	// the subject. Empty for the anonymous principal.
	Issuer string `json:"issuer,omitempty"`
	// Subject is the provider's stable id.
	Subject string `json:"subject,omitempty"`
	// Groups are qualified by the issuer's mapping, as in "ci" or "dba".
	Groups []string `json:"groups,omitempty"`
	// Claims are the verified claims that the configuration lets through.
	Claims map[string]string `json:"claims,omitempty"`
}

// Anonymous is the principal of a tree to which no identity was bound.
var Anonymous = Principal{}

// IsAnonymous reports whether nobody vouched for this principal.
func (p Principal) IsAnonymous() bool { return p.Issuer == "" || p.Subject == "" }

// String returns "anonymous" or "issuer:subject".
func (p Principal) String() string {
	if p.IsAnonymous() {
		return "anonymous"
	}
	return p.Issuer + ":" + p.Subject
}
