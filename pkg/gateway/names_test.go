package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

// told is a table of names in which every address has the same ones.
type told struct {
	names []string

	mu      sync.Mutex
	learned []string
}

func (n *told) Learn(root process.ID, a names.Answer, _ time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.learned = append(n.learned, root.String()+" "+a.Name)
}

func (n *told) Of(root process.ID, addr netip.Addr, _ time.Time) []string {
	if root != agentID || addr != netip.MustParseAddr("192.0.2.1") {
		return nil
	}
	return n.names
}

func TestRecordSaysWhichNamesWereKnown(t *testing.T) {
	for name, c := range map[string]struct {
		table  Names
		names  []string
		source string
	}{
		"names from answers": {&told{names: []string{"db.internal"}}, []string{"db.internal"}, audit.NameSourceDNS},
		"no names":           {&told{}, nil, audit.NameSourceNone},
		"no table":           {nil, nil, audit.NameSourceNone},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(context.Context, *protocol.Session) error { return nil })
			r.Names = c.table
			if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
				t.Fatal(err)
			}
			open := r.session().Open
			if !slices.Equal(open.Names, c.names) || open.NameSource != c.source {
				t.Errorf("the record has %q from %q, want %q from %q", open.Names, open.NameSource, c.names, c.source)
			}
		})
	}
}

func TestPolicyIsAskedWithTransportAndNames(t *testing.T) {
	r := newRig(t, nil)
	r.Names = &told{names: []string{"db.internal"}}
	_, down := net.Pipe()
	origin := originTo("192.0.2.1:7000")
	origin.Transport = transparent.UDP
	s := r.open(transparent.NewConn(down, origin), nil)
	s.lookUpNames()
	got := s.request(&policy.Operation{}, time.Now())
	if got.Transport != transparent.UDP || !slices.Equal(got.Names, []string{"db.internal"}) {
		t.Errorf("asked with %v and %q", got.Transport, got.Names)
	}
}

// An agent can run a name server; what that says must not become a name.
func TestOnlyTrustedServersAreBelieved(t *testing.T) {
	server := netip.MustParseAddrPort("192.0.2.1:7000")
	for name, c := range map[string]struct {
		trusted func(netip.AddrPort, uint64) bool
		learned []string
	}{
		"trusted":           {func(s netip.AddrPort, netns uint64) bool { return s == server && netns == 5 }, []string{"42@4242 db.internal"}},
		"not trusted":       {func(netip.AddrPort, uint64) bool { return false }, nil},
		"nobody is trusted": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(_ context.Context, s *protocol.Session) error {
				s.Learn(names.Answer{Name: "db.internal"})
				return nil
			})
			table := &told{}
			r.Names, r.TrustedServer = table, c.trusted
			origin := originTo(server.String())
			origin.Netns = 5
			if _, err := r.connect(origin, ""); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.learned, table.learned); diff != "" {
				t.Errorf("learned (-want +got):\n%s", diff)
			}
		})
	}
	// Without a table there is nothing to learn, and nothing breaks.
	r := newRig(t, func(_ context.Context, s *protocol.Session) error {
		s.Learn(names.Answer{Name: "db.internal"})
		return nil
	})
	if _, err := r.connect(originTo(server.String()), ""); err != nil {
		t.Error(err)
	}
}

// packets is the language of datagrams.
type packets struct{ line }

func (packets) Name() string { return "packets" }

func (packets) Match([]byte) protocol.Match { panic("datagrams were looked into") }

func TestDatagramsHaveTheirLanguageOrNone(t *testing.T) {
	r := newRig(t, func(context.Context, *protocol.Session) error {
		t.Error("a flow was served as a connection")
		return nil
	})
	// TCP to there speaks line, and so do the bytes.
	origin := originTo("192.0.2.1:7000")
	origin.Transport = transparent.UDP
	if _, err := r.connect(origin, "L"); !errors.Is(err, protocol.ErrUnknown) || stageOf(err, "") != "detect" {
		t.Errorf("nothing speaks over UDP: ended with %v", err)
	}
	r.Datagram = packets{}
	heard, err := r.connect(origin, "L")
	if heard != "refused: unknown_resource\n" || stageOf(err, "") != "decide" {
		t.Errorf("the agent heard %q, ended with %v", heard, err)
	}
	if got := r.session().Summary; got.Protocol != "packets" || got.Resource != "" {
		t.Errorf("the record has the protocol %q and the resource %q", got.Protocol, got.Resource)
	}
}

// What an agent in a container means by an address is what it is in there.
func TestOriginIsDialledFromItsNamespace(t *testing.T) {
	r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
		conn, err := s.Dial(ctx)
		if err == nil {
			return conn.Close()
		}
		return err
	})
	unknown := errors.New("unknown")
	var asked []uint64
	r.Dialer.Namespaces = func(cookie uint64) (int, func(), error) {
		asked = append(asked, cookie)
		return -1, nil, unknown
	}
	origin := originTo("192.0.2.1:7000")
	origin.Netns = 1 << 60
	if _, err := r.connect(origin, ""); !errors.Is(err, upstream.ErrNamespace) || !errors.Is(err, unknown) {
		t.Errorf("ended with %v", err)
	}
	if !slices.Equal(asked, []uint64{1 << 60}) {
		t.Errorf("asked for namespaces %v", asked)
	}
}
