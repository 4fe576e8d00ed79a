package postgres_test

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

const mebi = 1 << 20

// large returns a message of about size bytes whose body begins with head.
func large(typ byte, head string, size int) []byte {
	out, mark := wire.Begin(nil, typ)
	out = append(out, head...)
	return wire.Finish(append(out, make([]byte, size)...), mark)
}

// bindOf returns a Bind with one parameter of that size.
func bindOf(size int) []byte {
	out, mark := wire.Begin(nil, wire.Bind)
	out = append(out, 0, 0, 0, 0, 0, 1)
	out = binary.BigEndian.AppendUint32(out, uint32(size))
	return wire.Finish(append(append(out, make([]byte, size)...), 0, 0), mark)
}

// started makes a session that is past its start.
func started(t *testing.T, value *postgres.Postgres, change ...func(*pipes)) *pipes {
	t.Helper()
	p := connect(t, change...)
	says(p.agent, lines(t, `Startup user "agent"`))
	says(p.target, lines(t, "AuthenticationOk", "ReadyForQuery I"))
	p.serve(t.Context(), value)
	start := make([]byte, len(lines(t, `Startup user "agent"`)))
	if n, err := p.target.Read(start); err != nil || n != len(start) {
		t.Fatalf("the target read %d bytes (%v)", n, err)
	}
	synctest.Wait()
	return p
}

// wantLimit waits for a session that has to end with 54000 after some time.
func wantLimit(t *testing.T, p *pipes, after time.Duration, words string) {
	t.Helper()
	start := time.Now()
	err := p.wait()
	if took := time.Since(start); took != after {
		t.Errorf("it took %v, want %v", took, after)
	}
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("it ended with %v, want %s", err, words)
	}
	if told := p.heard.String(); !strings.Contains(told, "C54000\x00") {
		t.Errorf("the agent was told %q", told)
	}
}

func TestLargeMessagesOfAllSessionsShareOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := newPostgres(postgres.Options{MaxMemory: 4 * mebi})
		stalled := started(t, value)
		says(stalled.agent, bindOf(3 * mebi)[:mebi])
		synctest.Wait()
		second := started(t, value)
		says(second.agent, bindOf(3*mebi))
		small := started(t, value)
		hears(small.target)
		says(small.agent, bindOf(mebi/2))
		wantLimit(t, second, 10*time.Second, "no memory for a large message")
		select {
		case err := <-small.ended:
			t.Errorf("a session with small messages ended: %v", err)
		default:
		}
		wantLimit(t, stalled, 50*time.Second, "took too long")
		// What they held is free again.
		third := started(t, value)
		hears(third.target)
		if _, err := third.agent.Write(bindOf(3 * mebi)); err != nil {
			t.Error(err)
		}
		for _, p := range []*pipes{small, third} {
			if _, err := p.agent.Write(lines(t, "Terminate")); err != nil {
				t.Error(err)
			}
			if err := p.wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
		}
	})
}

func TestATargetThatDoesNotTakeALargeMessageEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := started(t, newPostgres(postgres.Options{}))
		says(p.agent, bindOf(3*mebi))
		wantLimit(t, p, time.Minute, "took too long")
	})
}

func TestALargeRowThatStopsHalfWayEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"})
		p := started(t, newPostgres(postgres.Options{}), func(p *pipes) {
			p.session.Mask = func() *mask.Set { return set }
		})
		hears(p.target)
		if _, err := p.agent.Write(lines(t, `Query "select 1"`)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		head := lines(t, `RowDescription "a:0:0:25:0"`)
		says(p.target, append(head, large(wire.DataRow, "\x00\x01", 3*mebi)[:mebi]...))
		synctest.Wait()
		wantLimit(t, p, time.Minute, "took too long")
	})
}

func TestAnAgentThatDoesNotReadALargeRowEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"})
		p := started(t, newPostgres(postgres.Options{}), func(p *pipes) {
			p.session.Mask = func() *mask.Set { return set }
			p.heard.limit = 100
		})
		hears(p.target)
		if _, err := p.agent.Write(lines(t, `Query "select 1"`)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		value := binary.BigEndian.AppendUint32([]byte{0, 1}, 3*mebi)
		says(p.target, append(lines(t, `RowDescription "a:0:0:25:0"`), large(wire.DataRow, string(value), 3*mebi)...))
		start := time.Now()
		err := <-p.ended
		if took := time.Since(start); took > time.Minute+10*time.Second || err == nil || !strings.Contains(err.Error(), "took too long") {
			t.Errorf("it ended with %v after %v", err, took)
		}
		for _, c := range []net.Conn{p.agent, p.target} {
			_ = c.Close()
		}
	})
}
