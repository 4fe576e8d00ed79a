package bypass

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/transparent"
)

// gate mediates sessions with a compiled policy, and logs in as a superuser.
type gate struct {
	addr     string
	target   netip.AddrPort
	engine   *policy.Engine
	protocol *postgres.Postgres
	ids      atomic.Uint64
	serving  sync.WaitGroup

	mu       sync.Mutex
	panicked any
}

// resourceFile names the one resource: the server that the test started.
const resourceFile = `
version: 1
resources:
  - {name: app-db, protocol: postgres, hosts: ["%s"], tls: {verify: "off"}}
defaults: {unmatched: deny, unknown_operation: deny}
`

// compile reads a policy and masks. A policy with a key that does not exist yet
// is an error.
func compile(tb testing.TB, target string, names ...string) (*policy.Engine, error) {
	tb.Helper()
	texts := map[string]string{"resource.yaml": fmt.Sprintf(resourceFile, target)}
	for _, name := range names {
		texts[name+".yaml"] = read(tb, filepath.Join(testdata, "policy", name+".yaml"))
	}
	var files []*policy.File
	for name, text := range texts {
		f, err := policy.Parse(name, []byte(text))
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		files = append(files, f)
	}
	engine, err := policy.Compile(1, files...)
	if err != nil {
		return nil, fmt.Errorf("compile policy: %w", err)
	}
	return engine, nil
}

// newGate listens until the test ends.
func newGate(tb testing.TB, target string, engine *policy.Engine) *gate {
	tb.Helper()
	g := &gate{target: netip.MustParseAddrPort(target), engine: engine, protocol: newPostgres(postgres.Options{})}
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
		if g.panicked != nil {
			tb.Errorf("a session panicked: %v", g.panicked)
		}
	})
	return g
}

// forget makes the gate a new one: what the setup of a case defines past it
// counts only when a catalog has come of age.
func (g *gate) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.protocol = newPostgres(postgres.Options{})
}

func (g *gate) serve(ctx context.Context, conn net.Conn) {
	defer g.serving.Done()
	down := transparent.NewConn(conn, transparent.Origin{Target: g.target})
	defer down.Close()
	defer func() {
		if r := recover(); r != nil {
			g.mu.Lock()
			g.panicked = r
			g.mu.Unlock()
		}
	}()
	g.mu.Lock()
	mediator := g.protocol
	g.mu.Unlock()
	_ = mediator.Serve(ctx, g.session(down)) // the agent is told; how it ends is no matter here
}

func (g *gate) session(down *transparent.Conn) *protocol.Session {
	root := process.ID{PID: 1, Start: 1}
	request := func(op policy.Operation) *policy.Request {
		return &policy.Request{Target: g.target, Transport: transparent.TCP, Operation: op, Time: time.Now()}
	}
	resource, _ := g.engine.Resource(g.target, nil)
	return &protocol.Session{
		ID: "session-1", Resource: resource, Downstream: down, Log: zerolog.Nop(), Process: &process.Process{ID: root, Root: root},
		Decide: func(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
			id := "op-" + strconv.FormatUint(g.ids.Add(1), 10)
			d := g.engine.Decide(request(*op))
			if d.Verdict != policy.Allow {
				return protocol.Ruling{}, protocol.NewDenial(id, d, op.Reason)
			}
			return protocol.Ruling{ID: id, Decision: d}, nil
		},
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", g.target.String())
		},
		Secure: func(_ context.Context, c net.Conn) (net.Conn, error) { return c, nil },
		Credential: func(context.Context) (credential.Credential, bool, error) {
			return credential.Credential{Username: pgtest.Admin, Secret: credential.NewSecret([]byte(pgtest.AdminPassword))}, true, nil
		},
		Refuses: func(effects ...string) bool {
			return g.engine.Refuses(request(policy.Operation{Protocol: postgres.Name}), effects...)
		},
		Mask:   func() *mask.Set { return g.engine.Masks(request(policy.Operation{Protocol: postgres.Name})) },
		Deny:   func(protocol.Ruling, *policy.Operation, *protocol.Denial) error { return nil },
		Record: func(protocol.Frame) error { return nil },
	}
}
