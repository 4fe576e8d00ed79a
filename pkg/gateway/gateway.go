// Package gateway joins the stages of a mediated connection and owns its life:
// accept, attribute, identify, detect, decide, exchange. It knows no concrete
// protocol and no kernel. Start reading at serve.go.
package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

// Processes finds the process that made a connection; it waits until the event
// of that image has arrived. *[process.Tree] is one.
type Processes interface {
	Wait(ctx context.Context, id process.ID, exec uint64) (*process.Process, error)
}

// Principals tells on whose behalf a tree acts. *[identity.Binder] is one.
type Principals interface {
	Of(root process.ID) identity.Principal
}

// Names remembers what addresses a tree was told for names. *[names.Table] is
// one.
type Names interface {
	Learn(root process.ID, a names.Answer, now time.Time)
	Of(root process.ID, addr netip.Addr, now time.Time) []string
}

// Options is everything that a Gateway needs. All fields are required but for
// those that say otherwise.
type Options struct {
	// Engine returns the policy in force. A nil engine denies.
	Engine func() *policy.Engine
	// Protocols in the order of detection. Opaque is the one that relays bytes
	// it does not look into: what observe mode falls back to.
	Protocols []protocol.Protocol
	Opaque    protocol.Protocol
	// Datagram is spoken on UDP flows, whatever they carry. It may be nil: such
	// flows are then denied.
	Datagram protocol.Protocol

	Processes Processes
	// Seed finds a process that was there before anybody watched, or whose
	// event was lost. It may be nil: such a process is then denied.
	Seed func(ctx context.Context, origin transparent.Origin) (*process.Process, error)
	// Agent returns the name of the policy's agent for an enrolment number.
	Agent      func(enrolment uint32) (string, bool)
	Principals Principals
	// Names may be nil: no address has a name then.
	Names Names
	// TrustedServer says whether answers of a name server, as it is reached from
	// a network namespace, are to be believed. It may be nil: none are.
	TrustedServer func(server netip.AddrPort, netns uint64) bool

	// Authority certifies us to agents that want TLS. It may be nil: they get
	// none then.
	Authority   *certs.Authority
	Credentials *credential.Store
	// Home is the cookie of the daemon's own network namespace. An agent can make
	// one in which any address is its own.
	Home    uint64
	Dialer  upstream.Dialer
	Audit   *audit.Log
	Metrics *metrics.Set
	Log     zerolog.Logger
	Limits  Limits
}

// Limits bounds what one daemon takes on. The zero value of a field means the
// default in its comment.
type Limits struct {
	Sessions  int           // mediated at the same time (10,000)
	PerTree   int           // of those, by one tree (1,000)
	Attribute time.Duration // until the lineage must be known (2 s)
	Detect    time.Duration // until the first bytes must be understood (3 s)
	Drain     time.Duration // for running sessions after the end was asked for (5 s)
	// RecordBytes bounds what one frame of results adds to a recording (64 KiB).
	// Less than zero keeps no results, only what was asked and decided.
	RecordBytes int
}

func (l *Limits) setDefaults() {
	setDefault(&l.Sessions, 10_000)
	setDefault(&l.PerTree, 1000)
	setDefault(&l.Attribute, 2*time.Second)
	setDefault(&l.Detect, 3*time.Second)
	setDefault(&l.Drain, 5*time.Second)
	setDefault(&l.RecordBytes, 64<<10)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Gateway mediates connections. It is safe for concurrent use.
type Gateway struct {
	Options

	accepted   atomic.Uint64
	unrecorded atomic.Uint64
	refusals   refusals
	meters     *meters
	questions  questions
	events     events

	mu       sync.Mutex
	sessions int
	trees    map[process.ID]int    // sessions by the root of their tree
	spaces   map[uint64]int        // sessions by network namespace
	live     map[*session]struct{} // those that may exchange bytes
}

// New returns a Gateway, or an error that names what is missing: a gateway
// without a policy, an audit log or a process table would have to guess.
func New(o Options) (*Gateway, error) {
	for name, missing := range map[string]bool{
		"Engine": o.Engine == nil, "Protocols": len(o.Protocols) == 0, "Opaque": o.Opaque == nil,
		"Processes": o.Processes == nil, "Agent": o.Agent == nil, "Principals": o.Principals == nil,
		"Audit": o.Audit == nil,
	} {
		if missing {
			return nil, fmt.Errorf("make gateway: %s is missing", name)
		}
	}
	o.Limits.setDefaults()
	return &Gateway{
		Options: o, meters: newMeters(time.Now), trees: map[process.ID]int{}, spaces: map[uint64]int{}, live: map[*session]struct{}{},
	}, nil
}

// Sessions returns how many connections are being mediated.
func (g *Gateway) Sessions() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions
}

// SessionsIn returns how many of them were made in the network namespace of
// that cookie. They dial from there: it has to be reachable for as long as
// there are any.
func (g *Gateway) SessionsIn(netns uint64) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.spaces[netns]
}

// Accepted counts the connections that were accepted. Each of them is one
// session in the record, opened and ended, or one of the Count of an
// [audit.Refused], or of [Gateway.Unrecorded]. Those without an origin are not
// among them: the listener counts them.
func (g *Gateway) Accepted() uint64 { return g.accepted.Load() }

// Unrecorded counts the accepted connections of which the beginning or the end
// could not be written down. None of them did anything after that.
func (g *Gateway) Unrecorded() uint64 { return g.unrecorded.Load() }

// take counts one more session of a tree, unless that or the daemon has as many
// as it may have: one tree must not use up what all share.
func (g *Gateway) take(o *transparent.Origin) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions >= g.Limits.Sessions || g.trees[o.Root] >= g.Limits.PerTree {
		return false
	}
	g.sessions++
	g.trees[o.Root]++
	g.spaces[o.Netns]++
	return true
}

func (g *Gateway) giveBack(o *transparent.Origin) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions--
	oneLess(g.trees, o.Root)
	oneLess(g.spaces, o.Netns)
}

func oneLess[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
