package postgres_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/socket"
	"github.com/headgate/headgate/pkg/transparent"
)

// What a target says to who logs in, and to a query.
var (
	loggedIn = []byte("R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I")
	queried  = []byte("C\x00\x00\x00\x0dSELECT 0\x00Z\x00\x00\x00\x05I")
)

// A session waits for most of its life. What its statements and its login needed of
// a stack it must not keep meanwhile: the least that the runtime gives back to are
// 4 KiB for each of two goroutines, and only if little of them is in use.
func TestAWaitingSessionKeepsTwoSmallStacks(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector is on")
	}
	const sessions = 200
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	target := listenLocal(t)
	p := newPostgres(postgres.Options{})
	before := stacksInUse()
	for range sessions {
		agent, down := connectTo(t, listenLocal(t))
		s := deepSession(t, down, target)
		serving.Add(1)
		go func() {
			defer serving.Done()
			// The gateway waits in Serve, too.
			var gateway [96]byte
			if err := p.Serve(t.Context(), s); !errors.Is(err, context.Canceled) { // the test is over
				t.Errorf("session ended with %v", err)
			}
			runtime.KeepAlive(&gateway)
		}()
		put(t, agent, wire.AppendStartup(nil, []wire.Parameter{{Name: "user", Value: "ann"}}))
		far := acceptOn(t, target)
		get(t, far, make([]byte, 4+4+len("user\x00ann\x00\x00")))
		put(t, far, loggedIn)
		get(t, agent, make([]byte, len(loggedIn)))
		query := []byte("Q\x00\x00\x00\x0dselect 1\x00")
		put(t, agent, query)
		get(t, far, make([]byte, len(query)))
		put(t, far, queried)
		get(t, agent, make([]byte, len(queried)))
		t.Cleanup(func() {
			_ = agent.Close()
			_ = far.Close()
			_ = down.Close()
		})
	}
	for range 6 { // each halves them
		runtime.GC()
	}
	kept := (stacksInUse() - before) / sessions
	if kept > 9<<10 {
		t.Errorf("a waiting session keeps %d bytes of stacks", kept)
	}
}

func stacksInUse() uint64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// deepSession is a session in front of what target accepts, in which decisions and
// records take much of a stack.
func deepSession(t *testing.T, down net.Conn, target *net.TCPListener) *protocol.Session {
	t.Helper()
	return &protocol.Session{
		ID: "session-1", Log: zerolog.Nop(),
		Downstream: transparent.NewConn(down, transparent.Origin{Target: netip.MustParseAddrPort(target.Addr().String())}),
		Resource:   policy.Resource{Name: "db", TLS: policy.TLS{Verify: policy.TLSOff}},
		Decide: func(context.Context, *policy.Operation) (protocol.Ruling, error) {
			deep(1)
			return protocol.Ruling{ID: "op-1"}, nil
		},
		Record: func(protocol.Frame) error {
			deep(1)
			return nil
		},
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", target.Addr().String())
			if err != nil {
				return nil, err
			}
			return socket.New(conn.(*net.TCPConn))
		},
		Credential: func(context.Context) (credential.Credential, bool, error) { return credential.Credential{}, false, nil },
		Mask:       func() *mask.Set { return nil }, Refuses: func(...string) bool { return false },
	}
}

// deep uses 16 KiB of the stack.
//
//go:noinline
func deep(n byte) byte {
	var room [16 << 10]byte
	for i := range room {
		room[i] = n
	}
	return room[int(n)]
}

func listenLocal(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// connectTo returns both ends of a connection to l; down is as the gateway's are.
func connectTo(t *testing.T, l *net.TCPListener) (agent, down net.Conn) {
	t.Helper()
	agent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if down, err = socket.New(acceptOn(t, l)); err != nil {
		t.Fatal(err)
	}
	return agent, down
}

func acceptOn(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	conn, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func put(t *testing.T, conn net.Conn, p []byte) {
	t.Helper()
	if _, err := conn.Write(p); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, conn net.Conn, p []byte) {
	t.Helper()
	if _, err := io.ReadFull(conn, p); err != nil {
		t.Fatal(err)
	}
}
