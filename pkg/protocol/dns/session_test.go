package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// stage is a session without a network. Its upstream is a function.
type stage struct {
	t       *testing.T
	agent   net.Conn
	session *protocol.Session
	served  chan error

	mu      sync.Mutex
	frames  []protocol.Frame
	learned []names.Answer
	dials   int
}

// begin starts Serve over a pipe. Every query is allowed, and upstream is called
// for each connection that is dialled, with the end that the server has.
func begin(t *testing.T, d *DNS, transport transparent.Transport, upstream func(net.Conn)) *stage {
	t.Helper()
	agent, down := net.Pipe()
	g := &stage{t: t, agent: agent, served: make(chan error, 1)}
	g.session = &protocol.Session{
		ID: "session-1", Log: zerolog.Nop(),
		Downstream: transparent.NewConn(down, transparent.Origin{Transport: transport}),
		Decide: func(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
			return protocol.Ruling{ID: op.Text, Decision: policy.Decision{Verdict: policy.Allow}}, nil
		},
		Dial: func(context.Context) (net.Conn, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.dials++; upstream == nil {
				return nil, errors.New("there is no upstream")
			}
			up, server := net.Pipe()
			go func() {
				defer func() { _ = server.Close() }()
				upstream(server)
			}()
			return up, nil
		},
		Learn: func(a names.Answer) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.learned = append(g.learned, a)
		},
		Record: func(f protocol.Frame) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.frames = append(g.frames, f)
			return nil
		},
	}
	g.serveBy(d)
	return g
}

// serveBy calls Serve once the test is ready for it: when it first waits.
func (g *stage) serveBy(d *DNS) {
	ready := make(chan struct{})
	g.t.Cleanup(func() { _ = g.agent.Close() })
	go func() {
		<-ready
		err := d.Serve(g.t.Context(), g.session)
		_ = g.session.Downstream.Close()
		g.served <- err
	}()
	var once sync.Once
	g.agent = &eager{Conn: g.agent, start: func() { once.Do(func() { close(ready) }) }}
}

// eager calls start when it is first used.
type eager struct {
	net.Conn
	start func()
}

func (e *eager) Write(p []byte) (int, error) { e.start(); return e.Conn.Write(p) }
func (e *eager) Read(p []byte) (int, error)  { e.start(); return e.Conn.Read(p) }
func (e *eager) Close() error                { e.start(); return e.Conn.Close() }

// say sends lines of the codec.
func say(t *testing.T, conn net.Conn, lines ...string) {
	t.Helper()
	for _, line := range lines {
		b, err := codec{}.Encode(line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Errorf("send %s: %v", line, err)
		}
	}
}

// hear reads one message.
func hear(t *testing.T, conn net.Conn) *dns.Msg {
	t.Helper()
	m, err := receive(conn)
	if err != nil {
		t.Fatalf("read message: %v", err)
	}
	return m
}

func receive(conn net.Conn) (*dns.Msg, error) {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	m := &dns.Msg{}
	return m, m.Unpack(b)
}

// reply answers a query.
func reply(conn net.Conn, q *dns.Msg, records ...string) error {
	m := (&dns.Msg{}).SetReply(q)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			return err
		}
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(framed(b))
	return err
}

// echo answers every query with no records.
func echo(conn net.Conn) {
	for {
		q, err := receive(conn)
		if err != nil || reply(conn, q) != nil {
			return
		}
	}
}

func wantRcode(t *testing.T, m *dns.Msg, want int) {
	t.Helper()
	if m.Rcode != want {
		t.Errorf("the answer is %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[want])
	}
}

// explained returns the text of an answer's Extended DNS Error.
func explained(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}

func TestAddressesAreLearnedBeforeTheAgentHasThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := begin(t, New(Options{}), transparent.UDP, func(conn net.Conn) {
			q, err := receive(conn)
			if err == nil {
				err = reply(conn, q, "www.example. 90 IN CNAME a.example.", "a.example. 60 IN A 192.0.2.1", "a.example. 120 IN A 192.0.2.2")
			}
			if err != nil {
				t.Error(err)
			}
		})
		say(t, g.agent, "query 7 A WWW.example.")
		synctest.Wait() // the answer is on its way, and nobody has read it
		want := []names.Answer{{
			Name: "www.example", Aliases: []string{"a.example"}, TTL: time.Minute,
			Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
		}}
		if d := cmp.Diff(want, g.learned, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("other answers were learned (-want +got):\n%s", d)
		}
		wantRcode(t, hear(t, g.agent), dns.RcodeSuccess)
	})
}

func TestAnUpstreamThatWentStaleIsDialledOnceMore(t *testing.T) {
	for transport, dials := range map[transparent.Transport]int{transparent.TCP: 2, transparent.UDP: 1} {
		t.Run(transport.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connections := 0
				g := begin(t, New(Options{}), transport, func(conn net.Conn) {
					if connections++; connections > 1 {
						echo(conn)
						return
					}
					q, err := receive(conn)
					if err != nil || reply(conn, q) != nil {
						t.Error("the first query did not come")
					}
					_, _ = receive(conn) // and closes as if it had not seen it
				})
				say(t, g.agent, "query 1 A a.example.")
				wantRcode(t, hear(t, g.agent), dns.RcodeSuccess)
				say(t, g.agent, "query 2 A b.example.")
				if transport == transparent.TCP {
					wantRcode(t, hear(t, g.agent), dns.RcodeSuccess)
				} else {
					wantRcode(t, hear(t, g.agent), dns.RcodeServerFailure)
				}
				if g.dials != dials {
					t.Errorf("it dialled %d times, want %d", g.dials, dials)
				}
			})
		})
	}
}

func TestAQueryIsSentTwiceAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Each connection serves another query than "b", and is lost then.
		g := begin(t, New(Options{}), transparent.TCP, func(conn net.Conn) {
			served := false
			for !served {
				q, err := receive(conn)
				if err != nil {
					return
				}
				if served = q.Question[0].Name != "b.example."; served {
					err = reply(conn, q)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		say(t, g.agent, "query 1 A a.example.")
		wantRcode(t, hear(t, g.agent), dns.RcodeSuccess)
		synctest.Wait() // the first connection is lost
		say(t, g.agent, "query 2 A b.example.")
		for range 2 {
			synctest.Wait()
			say(t, g.agent, "query 1 A a.example.")
			wantRcode(t, hear(t, g.agent), dns.RcodeSuccess)
		}
		wantRcode(t, hear(t, g.agent), dns.RcodeServerFailure)
		if g.dials != 3 {
			t.Errorf("it dialled %d times, want 3", g.dials)
		}
	})
}

func TestAnOriginThatCannotBeReachedIsAFailureOfThatQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := begin(t, New(Options{}), transparent.UDP, nil)
		for range 2 {
			say(t, g.agent, "query 1 A a.example. edns")
			m := hear(t, g.agent)
			wantRcode(t, m, dns.RcodeServerFailure)
			if got, want := explained(m), "headgate: upstream could not be reached"; got != want {
				t.Errorf("the agent reads %q, want %q", got, want)
			}
		}
		if g.dials != 2 {
			t.Errorf("it dialled %d times, want once for each query", g.dials)
		}
	})
}

func TestADecisionThatTakesLongHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := begin(t, New(Options{}), transparent.UDP, echo)
		person := make(chan struct{})
		allow := g.session.Decide
		g.session.Decide = func(ctx context.Context, op *policy.Operation) (protocol.Ruling, error) {
			if op.Objects[0].Name == "held.example" {
				<-person
			}
			return allow(ctx, op)
		}
		say(t, g.agent, "query 1 A held.example.", "query 2 A free.example.")
		if m := hear(t, g.agent); m.Id != 2 {
			t.Errorf("the first answer is that of query %d, want 2", m.Id)
		}
		synctest.Wait()
		<-time.After(time.Hour) // simulated: longer than any session is idle
		say(t, g.agent, "query 3 A free.example.")
		if m := hear(t, g.agent); m.Id != 3 {
			t.Errorf("query %d got an answer, want 3", m.Id)
		}
		close(person)
		if m := hear(t, g.agent); m.Id != 1 || m.Rcode != dns.RcodeSuccess {
			t.Errorf("query 1 got %v", m)
		}
	})
}

func TestIdleSessionsEnd(t *testing.T) {
	for transport, idle := range map[transparent.Transport]time.Duration{transparent.UDP: 15 * time.Second, transparent.TCP: 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			g := begin(t, New(Options{}), transport, echo)
			say(t, g.agent, "query 1 A a.example.")
			hear(t, g.agent)
			answered := time.Now()
			if err := <-g.served; err != nil {
				t.Errorf("%s: Serve returned %v", transport, err)
			}
			if took := time.Since(answered); took != idle {
				t.Errorf("%s: the session ended %v after its last answer, want %v", transport, took, idle)
			}
		})
	}
}

func TestQueriesInFlightAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 4
		var mu sync.Mutex
		deciding := 0
		g := begin(t, New(Options{InFlight: bound}), transparent.TCP, nil)
		release := make(chan struct{})
		g.session.Decide = func(context.Context, *policy.Operation) (protocol.Ruling, error) {
			mu.Lock()
			deciding++
			mu.Unlock()
			<-release
			return protocol.Ruling{}, &protocol.Denial{ID: "op"}
		}
		go func() {
			for i := range 10 {
				say(t, g.agent, fmt.Sprintf("query %d A a.example.", i))
			}
		}()
		<-time.After(time.Minute) // simulated
		synctest.Wait()
		if deciding != bound {
			t.Errorf("%d queries are in flight, want %d", deciding, bound)
		}
		close(release)
		for range 10 {
			wantRcode(t, hear(t, g.agent), dns.RcodeRefused)
		}
	})
}

func TestWhatCannotBeRecordedDoesNotPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := begin(t, New(Options{}), transparent.TCP, echo)
		full := errors.New("disk is full")
		g.session.Record = func(protocol.Frame) error { return full }
		say(t, g.agent, "query 1 A a.example.")
		if m, err := receive(g.agent); err == nil {
			t.Errorf("the agent got an answer: %v", m)
		}
		if err := <-g.served; !errors.Is(err, full) {
			t.Errorf("Serve returned %v, want the cause", err)
		}
	})
}

func TestAForgerHasFewGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := 0
		g := begin(t, New(Options{QueryID: func() uint16 { return 0xffff }}), transparent.UDP, func(conn net.Conn) {
			q, err := receive(conn)
			for ; err == nil && wrote < 1<<16; wrote++ {
				q.Id = uint16(wrote)
				err = reply(conn, q, "a.example. 60 IN A 198.51.100.1")
			}
		})
		say(t, g.agent, "query 1 A a.example.")
		wantRcode(t, hear(t, g.agent), dns.RcodeServerFailure)
		if len(g.learned) > 0 {
			t.Errorf("%v was learned", g.learned)
		}
		if synctest.Wait(); wrote > maxStrays+1 { // the last one found nobody
			t.Errorf("%d guesses were read", wrote)
		}
	})
}

func TestIDsAreNewAndDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []uint16
		all := make(chan struct{})
		g := begin(t, New(Options{QueryID: func() uint16 { return 77 }}), transparent.UDP, func(conn net.Conn) {
			defer close(all)
			for range 3 {
				q, err := receive(conn)
				if err != nil {
					t.Error(err)
					return
				}
				ids = append(ids, q.Id)
			}
		})
		say(t, g.agent, "query 1 A a.example.", "query 1 A a.example.", "query 1 A a.example.")
		<-all
		if !slices.Equal(ids, []uint16{77, 78, 79}) {
			t.Errorf("the ids are %d", ids)
		}
		for range 3 {
			hear(t, g.agent)
		}
	})
	seen := map[uint16]bool{}
	for range 64 {
		seen[randomID()] = true
	}
	if len(seen) < 56 {
		t.Errorf("64 ids have %d values", len(seen))
	}
}

func TestAPanicEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := begin(t, New(Options{}), transparent.TCP, echo)
		g.session.Record = func(protocol.Frame) error { panic("a bug") }
		say(t, g.agent, "query 1 A a.example.")
		var broken *protocol.Panic
		if err := <-g.served; !errors.As(err, &broken) {
			t.Errorf("Serve returned %v, want a panic", err)
		}
	})
}

func TestWhatIsHeldUpEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := begin(t, New(Options{}), transparent.TCP, echo)
		g.session.Decide = func(ctx context.Context, _ *policy.Operation) (protocol.Ruling, error) {
			<-ctx.Done()
			return protocol.Ruling{}, ctx.Err()
		}
		say(t, g.agent, "query 1 A a.example.")
		synctest.Wait()
		_ = g.session.Downstream.Close() // reads fail, and not with an orderly end
		if err := <-g.served; err == nil {
			t.Error("Serve returned no error")
		}
	})
}

func TestARefusalFitsIntoADatagram(t *testing.T) {
	for transport, limit := range map[transparent.Transport]int{transparent.UDP: 600, transparent.TCP: maxOwn} {
		for _, before := range []string{"", "x"} { // so that one of them is cut inside a character
			synctest.Test(t, func(t *testing.T) { refuseAtLength(t, transport, limit, before) })
		}
	}
}

func refuseAtLength(t *testing.T, transport transparent.Transport, limit int, before string) {
	g := begin(t, New(Options{}), transport, nil)
	g.session.Decide = func(context.Context, *policy.Operation) (protocol.Ruling, error) {
		return protocol.Ruling{}, &protocol.Denial{ID: "op-1", Rule: "r", Reason: policy.ReasonRule, Message: before + strings.Repeat("é", 2000)}
	}
	q := (&dns.Msg{}).SetQuestion(strings.Repeat("a123456789.", 20), dns.TypeA).SetEdns0(600, false)
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.agent.Write(framed(b)); err != nil {
		t.Fatal(err)
	}
	m := hear(t, g.agent)
	if size := m.Len(); size > limit || size < limit-1 {
		t.Errorf("%s: the refusal has %d bytes, want %d or one less", transport, size, limit)
	}
	if text := explained(m); !strings.HasPrefix(text, `headgate: denied by rule "r"`) || !utf8.ValidString(text) {
		t.Errorf("%s: the agent reads %q", transport, text)
	}
}
