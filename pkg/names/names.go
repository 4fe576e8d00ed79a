// Package names remembers what addresses agents were told for a name.
//
// A [Table] is pure: no I/O and no clock. It is filled from DNS answers that
// passed the gate, per tree, and asked when a connection's address has to be
// turned back into the name that the agent meant.
package names

import (
	"net/netip"
	"time"
)

// Answer is what one DNS answer said of a name.
type Answer struct {
	// Name is what was asked for, in lower case without the final dot.
	Name string
	// Aliases are the names that led from Name to the addresses, in order.
	Aliases []string
	Addrs   []netip.Addr
	// TTL is the shortest of the records that were used.
	TTL time.Duration
}
