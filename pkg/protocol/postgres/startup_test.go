package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/transparent"
)

// pipes is a session over pipes, for tests with a clock of their own.
type pipes struct {
	tb            testing.TB
	session       *protocol.Session
	agent, target net.Conn
	heard         heard // by the agent; valid after wait
	ended         chan error
	reading       chan struct{}
}

// heard keeps what somebody was told, up to limit if there is one.
type heard struct {
	bytes.Buffer
	limit int
}

// connect makes a session. The agent reads all that it is told.
func connect(tb testing.TB, change ...func(*pipes)) *pipes {
	tb.Helper()
	p := &pipes{tb: tb, ended: make(chan error, 1), reading: make(chan struct{})}
	var down, up net.Conn
	p.agent, down = net.Pipe()
	up, p.target = net.Pipe()
	p.session = &protocol.Session{
		ID: "session-1", Downstream: transparent.NewConn(down, transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432")}),
		Process: &process.Process{}, Log: zerolog.Nop(),
		Resource: policy.Resource{Name: "db", TLS: policy.TLS{Verify: policy.TLSOff}},
		Decide: func(context.Context, *policy.Operation) (protocol.Ruling, error) {
			return protocol.Ruling{ID: "op"}, nil
		},
		Dial:   func(context.Context) (net.Conn, error) { return up, nil },
		Secure: func(_ context.Context, c net.Conn) (net.Conn, error) { return c, nil },
		Credential: func(context.Context) (credential.Credential, bool, error) {
			return credential.Credential{}, false, nil
		},
		Mask:   func() *mask.Set { return nil },
		Record: func(protocol.Frame) error { return nil },
	}
	for _, f := range change {
		f(p)
	}
	go func() {
		defer close(p.reading)
		var from io.Reader = p.agent
		if p.heard.limit > 0 {
			from = io.LimitReader(p.agent, int64(p.heard.limit))
		}
		_, _ = io.Copy(&p.heard.Buffer, from) // what was heard before the end is what counts
	}()
	return p
}

// serve starts the session; wait returns how it ended.
func (p *pipes) serve(ctx context.Context, value *postgres.Postgres) {
	go func() {
		err := value.Serve(ctx, p.session)
		_ = p.session.Downstream.Close() // as the gateway does
		p.ended <- err
	}()
}

func (p *pipes) wait() error {
	err := <-p.ended
	_ = p.agent.Close()
	_ = p.target.Close()
	<-p.reading
	return err
}

// says sends a party's messages, which may be more than anybody reads.
func says(conn net.Conn, p []byte) {
	go func() { _, _ = conn.Write(p) }()
}

// hears drops what a party is told.
func hears(conn net.Conn) { go func() { _, _ = io.Copy(io.Discard, conn) }() }

// stalls are the ways in which a session may fail to start.
var stalls = map[string]func(p *pipes){
	"an agent that says nothing": func(*pipes) {},
	"an agent that stops inside its start-up packet": func(p *pipes) {
		says(p.agent, lines(p.tb, `Startup user "agent"`)[:7])
	},
	"an agent that only asks for encryption": func(p *pipes) { says(p.agent, lines(p.tb, "SSLRequest")) },
	"a target that is never reached": func(p *pipes) {
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		p.session.Dial = func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	},
	"a target that does not answer whether it speaks TLS": func(p *pipes) {
		p.session.Resource.TLS.Verify = "full"
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		hears(p.target)
	},
	"a target that does not read": func(p *pipes) { says(p.agent, lines(p.tb, `Startup user "agent"`)) },
	"a target that does not answer": func(p *pipes) {
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		hears(p.target)
	},
	"a target that does not answer our credential": func(p *pipes) {
		p.session.Credential = func(context.Context) (credential.Credential, bool, error) {
			return credential.Credential{Username: "app"}, true, nil
		}
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		hears(p.target)
	},
	"an agent that does not give its password": func(p *pipes) {
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		says(p.target, lines(p.tb, "AuthenticationCleartext"))
		hears(p.target)
	},
	"a target that never is ready": func(p *pipes) {
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		says(p.target, lines(p.tb, "AuthenticationOk"))
		hears(p.target)
	},
	"a target that does not show its catalog": func(p *pipes) {
		set := mustMask(p.tb, ssnRule())
		p.session.Mask = func() *mask.Set { return set }
		says(p.agent, lines(p.tb, `Startup user "agent"`))
		says(p.target, lines(p.tb, "AuthenticationOk", "ReadyForQuery I"))
		hears(p.target)
	},
	"an observed target that does not answer": func(p *pipes) {
		p.session.Observe = true
		says(p.agent, lines(p.tb, "SSLRequest"))
		hears(p.target)
	},
}

func TestASessionThatDoesNotStartEndsInTime(t *testing.T) {
	for name, stall := range stalls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := connect(t)
				stall(p)
				start := time.Now()
				p.serve(t.Context(), newPostgres(postgres.Options{}))
				err := p.wait()
				if took := time.Since(start); took != time.Minute {
					t.Errorf("it took %v, want a minute", took)
				}
				if err == nil || !strings.Contains(err.Error(), "did not start in time") {
					t.Errorf("it ended with %v", err)
				}
				if told := p.heard.String(); !strings.Contains(told, "C57014\x00") || strings.Count(told, "FATAL") != 2 {
					t.Errorf("the agent was told %q", told)
				}
			})
		})
	}
}

func TestASessionThatStartsCanBeEnded(t *testing.T) {
	for name, stall := range stalls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := connect(t)
				stall(p)
				ctx, cancel := context.WithCancelCause(t.Context())
				p.serve(ctx, newPostgres(postgres.Options{}))
				<-time.After(time.Second)
				why := errors.New("daemon stops")
				start := time.Now()
				cancel(why)
				err := p.wait()
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v", took)
				}
				if !errors.Is(err, why) {
					t.Errorf("it ended with %v", err)
				}
			})
		})
	}
}

func TestASessionThatHasStartedHasNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t)
		says(p.agent, lines(t, `Startup user "agent"`))
		says(p.target, lines(t, "AuthenticationOk", "ReadyForQuery I"))
		hears(p.target)
		p.serve(t.Context(), newPostgres(postgres.Options{}))
		<-time.After(time.Hour)
		synctest.Wait()
		select {
		case err := <-p.ended:
			t.Fatalf("it ended with %v", err)
		default:
		}
		if _, err := p.agent.Write(lines(t, "Terminate")); err != nil {
			t.Fatal(err)
		}
		if err := p.wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestAnObservedSessionThatIsRelayedHasNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t)
		p.session.Observe = true
		says(p.agent, lines(t, "SSLRequest"))
		says(p.target, []byte("S"))
		hears(p.target)
		ctx, cancel := context.WithCancelCause(t.Context())
		p.serve(ctx, newPostgres(postgres.Options{}))
		<-time.After(time.Hour)
		if _, err := p.target.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		why := errors.New("daemon stops")
		cancel(why)
		if err := p.wait(); !errors.Is(err, why) {
			t.Errorf("it ended with %v", err)
		}
		if got := p.heard.String(); got != "Shello" {
			t.Errorf("the agent was told %q", got)
		}
	})
}

// dials makes a session reach one target after the other. What a session cancels
// is reached by the way of the one that it cancels.
func dials(p *pipes) (further net.Conn) {
	first, next := p.session.Dial, 0
	up, target := net.Pipe()
	p.session.Dial = func(ctx context.Context) (net.Conn, error) {
		if next++; next == 1 {
			return first(ctx)
		}
		return up, nil
	}
	return target
}

func TestACancelRequestThatIsNeverDoneEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := newPostgres(postgres.Options{Key: ourKey})
		mine := &process.Process{Root: process.ID{PID: 1, Start: 1}}
		running := connect(t)
		running.session.Process = mine
		target := dials(running)
		says(running.agent, lines(t, `Startup user "agent"`))
		says(running.target, lines(t, "AuthenticationOk", `BackendKeyData 7 "abcdef"`, "ReadyForQuery I"))
		hears(running.target)
		running.serve(t.Context(), value)
		synctest.Wait()
		p := connect(t)
		p.session.Process = mine
		says(p.agent, lines(t, `CancelRequest 7 "ours"`))
		want := lines(t, `CancelRequest 7 "abcdef"`)
		got := make([]byte, len(want))
		start := time.Now()
		p.serve(t.Context(), value)
		if _, err := io.ReadFull(target, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the target was told %q (%v)", got, err)
		}
		err := p.wait()
		if took := time.Since(start); took != time.Minute || err == nil {
			t.Errorf("it ended with %v after %v", err, took)
		}
		if p.heard.Len() > 0 {
			t.Errorf("the agent was told %q", p.heard.String())
		}
		_ = running.agent.Close()
		_ = running.wait() // it was cut off
		late := connect(t)
		late.session.Process = mine
		says(late.agent, lines(t, `CancelRequest 7 "ours"`))
		late.session.Dial = nil
		late.serve(t.Context(), value)
		if err := late.wait(); err != nil || late.heard.Len() > 0 {
			t.Errorf("a late request ended with %v, and the agent was told %q", err, late.heard.String())
		}
	})
}

func TestACatalogThatIsNotShownOnOurOwnConnectionRefusesTheSession(t *testing.T) {
	welcome := lines(t, "AuthenticationOk", "ReadyForQuery I")
	for name, talk := range map[string]func(target net.Conn, end <-chan struct{}){
		"no login":  func(net.Conn, <-chan struct{}) {},
		"no answer": func(target net.Conn, _ <-chan struct{}) { says(target, welcome) },
		"notices without an end": func(target net.Conn, end <-chan struct{}) {
			go func() {
				ticks := time.NewTicker(time.Second)
				for p := welcome; ; p = lines(t, `NoticeResponse "Mx"`) {
					if _, err := target.Write(p); err != nil {
						return
					}
					select {
					case <-ticks.C:
					case <-end:
						return
					}
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, end := connect(t), make(chan struct{})
				ours, there := net.Pipe()
				hears(there)
				set := mustMask(t, ssnRule())
				p.session.Mask = func() *mask.Set { return set }
				p.session.Credential = func(context.Context) (credential.Credential, bool, error) {
					return credential.Credential{Username: "app"}, true, nil
				}
				dials, dial := 0, p.session.Dial
				p.session.Dial = func(ctx context.Context) (net.Conn, error) {
					if dials++; dials == 1 {
						return dial(ctx)
					}
					talk(there, end)
					return ours, nil
				}
				says(p.agent, lines(t, `Startup user "agent"`))
				says(p.target, welcome)
				hears(p.target)
				start := time.Now()
				p.serve(t.Context(), newPostgres(postgres.Options{}))
				err := p.wait()
				if took := time.Since(start); took != 15*time.Second {
					t.Errorf("it took %v", took)
				}
				if err == nil || !strings.Contains(err.Error(), "load catalog") || !strings.Contains(p.heard.String(), "it can't be found out what has to be masked") {
					t.Errorf("it ended with %v; the agent was told %q", err, p.heard.String())
				}
				close(end)
				_ = there.Close()
			})
		})
	}
}
