package postgres_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

// gate serves connections in front of the real server, with a policy that is a
// function.
type gate struct {
	tb     testing.TB
	addr   string // where agents connect
	target string

	protocol *postgres.Postgres
	decide   func(*policy.Operation) *protocol.Denial
	// refuses tells which effects a rule may refuse; nil for none.
	refuses func(effects ...string) bool
	// asks tells which facts a condition looks at; nil for none.
	asks func(facts []string) bool
	// spend makes what charges an operation's result; nil where nothing does.
	spend func(*policy.Operation) func(given, more protocol.Volume) *protocol.Denial
	// dial opens connections to the target, if it is not nil.
	dial    func(ctx context.Context) (net.Conn, error)
	masks   *mask.Set
	secret  *credential.Credential
	observe bool
	root    process.ID
	// resource is that of the target, which speaks no TLS unless that is changed.
	resource policy.Resource
	// origin is what agents believe to have connected to; by default the target.
	origin string
	// allowDial, if set, is asked in front of each dial, with its number.
	allowDial func(n int) error
	// pass lets time pass, by which catalogs age and are loaded; nil where real time
	// does.
	pass func(time.Duration)
	// recording, if set, is called in front of each frame that is recorded.
	recording func(protocol.Frame)
	// sent is all that was sent to the target.
	sent bytes.Buffer
	// authority certifies the gate to agents; it may be nil. refusal, if there is
	// one, is what all of them are told.
	authority *certs.Authority
	refusal   *protocol.Denial

	mu         sync.Mutex
	operations []policy.Operation
	frames     []protocol.Frame
	denied     []protocol.Denial // what was refused after all
	dials      int
	errs       []error
	ids        int
	secured    int // connections to the target over TLS
	serving    sync.WaitGroup
}

// newGate listens until the test ends. change adapts it before that.
func newGate(tb testing.TB, change func(*gate)) *gate {
	tb.Helper()
	g := &gate{tb: tb, target: need(tb), protocol: newPostgres(postgres.Options{}), root: process.ID{PID: 1, Start: 1}}
	g.decide = func(*policy.Operation) *protocol.Denial { return nil }
	g.resource = policy.Resource{Name: "db", TLS: policy.TLS{Verify: policy.TLSOff}}
	if change != nil {
		change(g)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	g.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	g.serving.Add(1)
	go func() {
		defer g.serving.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.serving.Add(1)
			go g.serve(ctx, conn)
		}
	}()
	tb.Cleanup(func() {
		if err := listener.Close(); err != nil {
			tb.Error(err)
		}
		cancel()
		g.serving.Wait()
	})
	return g
}

func (g *gate) serve(ctx context.Context, conn net.Conn) {
	defer g.serving.Done()
	down := transparent.NewConn(conn, transparent.Origin{Target: netip.MustParseAddrPort(cmp.Or(g.origin, g.target))})
	defer down.Close()
	s := g.session(down)
	var err error
	if g.refusal == nil {
		err = g.protocol.Serve(ctx, s)
	} else {
		err = g.protocol.Refuse(ctx, s, g.refusal)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.errs = append(g.errs, err)
}

// heardConn keeps what is sent to the target.
type heardConn struct {
	*net.TCPConn
	gate *gate
}

func (c *heardConn) Write(p []byte) (int, error) {
	c.gate.mu.Lock()
	if c.gate.sent.Len() < 1<<20 {
		c.gate.sent.Write(p)
	}
	c.gate.mu.Unlock()
	return c.TCPConn.Write(p)
}

// set changes the gate while it serves.
func (g *gate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *gate) session(down *transparent.Conn) *protocol.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	secret := g.secret
	s := &protocol.Session{
		ID: "session-1", Downstream: down, Log: zerolog.Nop(), Observe: g.observe,
		Process:  &process.Process{ID: g.root, Root: g.root},
		Resource: g.resource,
		Decide: func(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
			g.mu.Lock()
			g.ids++
			id := fmt.Sprintf("op-%d", g.ids)
			g.operations = append(g.operations, *op)
			decide, spend := g.decide, g.spend
			g.mu.Unlock()
			if d := decide(op); d != nil {
				d.ID = id
				return protocol.Ruling{}, d
			}
			ruling := protocol.Ruling{ID: id}
			if spend != nil {
				ruling.Spend = spend(op)
			}
			return ruling, nil
		},
		Deny: func(r protocol.Ruling, _ *policy.Operation, d *protocol.Denial) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			if r.ID != d.ID {
				return fmt.Errorf("ruling %s is denied as %s", r.ID, d.ID)
			}
			g.denied = append(g.denied, *d)
			return nil
		},
		Dial: func(ctx context.Context) (net.Conn, error) {
			g.mu.Lock()
			g.dials++
			n, allow := g.dials, g.allowDial
			g.mu.Unlock()
			if allow != nil {
				if err := allow(n); err != nil {
					return nil, err
				}
			}
			if g.dial != nil {
				return g.dial(ctx)
			}
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", g.target)
			if err != nil {
				return nil, err
			}
			return &heardConn{conn.(*net.TCPConn), g}, nil
		},
		Secure: g.secure,
		Credential: func(context.Context) (credential.Credential, bool, error) {
			if secret == nil {
				return credential.Credential{}, false, nil
			}
			return *secret, true, nil
		},
		Mask: func() *mask.Set { return g.masks }, Refuses: g.refuses, Asks: g.asks,
		Record: func(f protocol.Frame) error {
			if g.recording != nil {
				g.recording(f)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if f.Outcome != nil { // it is not for who records to keep
				outcome := *f.Outcome
				f.Outcome = &outcome
			}
			g.frames = append(g.frames, f)
			return nil
		},
	}
	if g.authority != nil {
		s.Certify = func(ctx context.Context, conn net.Conn, t certs.Terms) (*certs.Conn, error) {
			t.Names = []string{down.Origin.Target.Addr().String(), "db.internal"}
			return g.authority.Handshake(ctx, conn, t)
		}
	}
	return s
}

// secure is what the gateway does.
func (g *gate) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	t := g.resource.TLS
	config, err := upstream.TLSConfig(upstream.TLS{Verify: cmp.Or(t.Verify, policy.TLSFull), CA: t.CA, ServerName: t.ServerName})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	g.set(func() { g.secured++ })
	return upstream.Secure(ctx, conn, config)
}

// deny makes a policy that denies operations with one of the effects.
func deny(effects ...string) func(*policy.Operation) *protocol.Denial {
	return func(op *policy.Operation) *protocol.Denial {
		if len(op.Effects) == 0 {
			return &protocol.Denial{Rule: "default", Reason: policy.ReasonUnknownOperation, Detail: op.Reason}
		}
		for _, e := range op.Effects {
			if slices.Contains(effects, e) {
				return &protocol.Denial{Rule: "no-" + e, Reason: policy.ReasonRule}
			}
		}
		return nil
	}
}

func mustMask(tb testing.TB, rules ...mask.Rule) *mask.Set {
	tb.Helper()
	set, err := mask.Compile(rules)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func testContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// pgError fails unless err is the server's, or our, error of that code.
func pgError(tb testing.TB, err error, code string) *pgconn.PgError {
	tb.Helper()
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != code {
		tb.Fatalf("got error %v, want code %s", err, code)
	}
	return e
}

// wantCode is [pgError] where only the code counts.
func wantCode(tb testing.TB, err error, code string) {
	tb.Helper()
	if e := pgError(tb, err, code); e.Severity == "" {
		tb.Errorf("error %s has no severity", code)
	}
}
