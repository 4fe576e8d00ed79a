package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/transparent"
)

const (
	cardNumber = "4111111111111111" // a detector finds it wherever it is
	forbidden  = "forbidden_table"  // the policy denies what names it
	// maxAllocated bounds what one session may allocate, all in all. The largest
	// message that it may hold is a fraction of it.
	maxAllocated = 96 << 20
)

// FuzzHostileSides lets a program of bytes drive an agent, and another one a
// target that answers what reaches it: mostly as a server does, so that sessions
// get far, and now and then as none would. Whatever they do, the session ends,
// nothing that the policy denies reaches the target, and no number that a mask
// hides reaches the agent.
func FuzzHostileSides(f *testing.F) {
	all := make([]byte, 2*agentMoves)
	for i := range all {
		all[i] = byte(i)
	}
	f.Add(all, []byte{})
	f.Add(all, []byte{0, 160, 0, 170, 0, 180, 0, 186, 0})
	f.Add([]byte{2, 5, 7, 13, 4, 6, 8, 8, 13}, []byte{0, 0, 211, 0})
	f.Add([]byte{0, 1, 0, 19, 15, 16, 0, 20, 0, 18, 0}, []byte{0, 0, 0, 196, 201, 206})
	f.Add([]byte{22, 23, 24, 25, 21, 24, 25, 3, 13, 25, 29, 30, 0}, []byte{219, 1, 2, 3})
	f.Add([]byte{2, 5, 7, 14, 2, 5, 7, 13}, []byte{223})
	check := hostility(f)
	f.Fuzz(func(t *testing.T, agent, target []byte) {
		if allocated := check(t, agent, target); allocated > maxAllocated {
			t.Errorf("the session allocated %d bytes", allocated)
		}
	})
}

// The parser's sandbox is slow under the instrumentation of the fuzzer, so random
// programs reach more: some hundreds a second. HEADGATE_HOSTILE_TIME makes it
// longer, as in 10m. What they allocate is not looked at here: other tests of the
// process may still be at their end.
func TestHostileSidesAtRandom(t *testing.T) {
	limit := 3 * time.Second
	if s := os.Getenv("HEADGATE_HOSTILE_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		limit = d
	}
	check, random, sessions := hostility(t), rand.New(rand.NewPCG(4, uint64(limit))), 0
	program := func() []byte {
		p := make([]byte, random.IntN(40))
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		return p
	}
	for end := time.Now().Add(limit); time.Now().Before(end) && !t.Failed(); sessions++ {
		agent, target := program(), program()
		check(t, agent, target)
		if t.Failed() {
			t.Logf("agent %q, target %q", agent, target)
		}
	}
	t.Logf("%d sessions", sessions)
}

// hostility returns what runs a session between two programs, checks it, and tells
// what the process has allocated meanwhile.
func hostility(tb testing.TB) func(t *testing.T, agent, target []byte) (allocated uint64) {
	tb.Helper()
	set := mustMask(tb, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"})
	value := newPostgres(postgres.Options{Token: func() string { return token }, MaxRow: 1 << 20, MaxStatement: 4 << 10, MaxBind: 4 << 10, MaxNames: 4})
	if err := value.Warm(); err != nil {
		tb.Fatal(err)
	}
	return func(t *testing.T, agent, target []byte) (allocated uint64) {
		h := newHostile(t, set)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h.run(value, agent[:min(len(agent), 256)], target[:min(len(target), 256)])
		runtime.ReadMemStats(&after)
		h.checkAgent()
		h.checkTarget()
		return after.TotalAlloc - before.TotalAlloc
	}
}

// hostile is a session between two sides that are not to be trusted.
type hostile struct {
	t                     *testing.T
	agent, mediated       net.Conn
	upstream, target      net.Conn
	session               *protocol.Session
	toldAgent, toldTarget bytes.Buffer
	mu                    sync.Mutex
	allowed               map[string]bool // texts
	judged                int             // operations that were allowed
	copying, skipping     bool            // what the target is doing
}

func newHostile(t *testing.T, set *mask.Set) *hostile {
	h := &hostile{t: t, allowed: map[string]bool{}}
	h.agent, h.mediated = net.Pipe()
	h.upstream, h.target = net.Pipe()
	h.session = &protocol.Session{
		ID: "session-1", Downstream: transparent.NewConn(h.mediated, transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432")}),
		Process: &process.Process{}, Log: zerolog.Nop(), Resource: policy.Resource{TLS: policy.TLS{Verify: policy.TLSOff}},
		Deny: func(protocol.Ruling, *policy.Operation, *protocol.Denial) error { return nil },
		Decide: func(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(op.Effects) == 0 || strings.Contains(op.Text, forbidden) || op.Verb == "function_call" && h.judged%2 == 0 {
				return protocol.Ruling{}, &protocol.Denial{ID: "op", Rule: "r", Reason: policy.ReasonRule}
			}
			h.allowed[op.Text] = true
			h.judged++
			return protocol.Ruling{ID: "op"}, nil
		},
		Dial: func(context.Context) (net.Conn, error) { return h.upstream, nil },
		Credential: func(context.Context) (credential.Credential, bool, error) {
			return credential.Credential{}, false, nil
		},
		Mask:   func() *mask.Set { return set },
		Record: func(protocol.Frame) error { return nil },
	}
	return h
}

func (h *hostile) run(value *postgres.Postgres, agent, target []byte) {
	h.t.Helper()
	done, both := make(chan error, 1), sync.WaitGroup{}
	go func() { // the gateway's part: what Serve leaves is closed
		err := value.Serve(h.t.Context(), h.session)
		_, _ = h.mediated.Close(), h.upstream.Close()
		done <- err
	}()
	both.Go(func() { h.beTarget(target) })
	both.Go(func() { _, _ = io.Copy(&h.toldAgent, h.agent) })
	h.beAgent(agent)
	// An agent may wait for ever in the middle of a message: that is its own matter.
	defer time.AfterFunc(time.Second, func() { _ = h.agent.Close() }).Stop()
	select {
	case err := <-done:
		var p *protocol.Panic
		if errors.As(err, &p) {
			h.t.Errorf("%v\n%s", p, p.Stack)
		}
	case <-time.After(20 * time.Second):
		stacks := make([]byte, 1<<20)
		h.t.Fatalf("session did not end\n%s", stacks[:runtime.Stack(stacks, true)])
	}
	_, _ = h.agent.Close(), h.target.Close()
	both.Wait()
}

func encoded(messages ...pgproto3.Message) []byte {
	var out []byte
	for _, m := range messages {
		var err error
		if out, err = m.(interface {
			Encode([]byte) ([]byte, error)
		}).Encode(out); err != nil {
			panic(err) // none of ours is too large
		}
	}
	return out
}

// agentMoves is how many things an agent can do.
const agentMoves = 34

// beAgent carries a program out: each byte is a move. It ends with the session's
// half of what it said.
func (h *hostile) beAgent(program []byte) {
	write := func(raw []byte) bool { _, err := h.agent.Write(raw); return err == nil }
	opening := &pgproto3.StartupMessage{ProtocolVersion: 196608, Parameters: map[string]string{"user": "agent"}}
	if !write(encoded(opening)) {
		return
	}
	for i, b := range program {
		if !write(h.move(int(b)%agentMoves, i, program[i:])) {
			return
		}
	}
	write(encoded(&pgproto3.Sync{}, &pgproto3.Terminate{}))
}

func (h *hostile) move(move, i int, rest []byte) []byte {
	query := func(text string) []byte { return encoded(&pgproto3.Query{String: text}) }
	text := fmt.Sprintf("select body from t%d", i)
	moves := [agentMoves]func() []byte{
		func() []byte { return query(text) },
		func() []byte { return query("drop table " + forbidden) },
		func() []byte { return encoded(&pgproto3.Parse{Query: text}) },
		func() []byte { return encoded(&pgproto3.Parse{Name: "a", Query: "select * from " + forbidden}) },
		func() []byte { return encoded(&pgproto3.Parse{Name: string('a' + byte(i%3)), Query: text}) },
		func() []byte { return encoded(&pgproto3.Bind{}) },
		func() []byte {
			return encoded(&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "a", ResultFormatCodes: []int16{1}})
		},
		func() []byte { return encoded(&pgproto3.Execute{}) },
		func() []byte { return encoded(&pgproto3.Execute{Portal: "p", MaxRows: 1}) },
		func() []byte { return encoded(&pgproto3.Describe{ObjectType: 'S', Name: "a"}) },
		func() []byte { return encoded(&pgproto3.Describe{ObjectType: 'P'}) },
		func() []byte { return encoded(&pgproto3.Close{ObjectType: 'S', Name: "a"}) },
		func() []byte { return encoded(&pgproto3.Close{ObjectType: 'P', Name: "p"}) },
		func() []byte { return encoded(&pgproto3.Sync{}) },
		func() []byte { return encoded(&pgproto3.Flush{}) },
		func() []byte { return encoded(&pgproto3.CopyData{Data: []byte("drop table " + "x")}) },
		func() []byte { return encoded(&pgproto3.CopyDone{}) },
		func() []byte { return encoded(&pgproto3.CopyFail{Message: "no"}) },
		func() []byte { return encoded(&pgproto3.FunctionCall{Function: 7}) },
		func() []byte { return query("copy t from stdin") },
		func() []byte { return query("copy t to stdout") },
		func() []byte { return query("begin") },
		func() []byte { return query("prepare q as select * from " + []string{"t", forbidden}[i%2]) },
		func() []byte { return query("execute q") },
		func() []byte { return query("declare c cursor for " + text) },
		func() []byte { return query("fetch 1 from c") },
		func() []byte { return query("set standard_conforming_strings = off") },
		func() []byte { return query(`select 'a\' as x, '; drop table ` + forbidden + `; --'`) },
		func() []byte { return query("select 1; drop table " + forbidden + "; select 2") },
		func() []byte { return query(strings.Repeat(" ", 5<<10) + "drop table " + forbidden) },
		func() []byte { return rest[:min(len(rest), 9)] },
		func() []byte { return []byte{"QPBdFES"[i%7], 0x3f, 0xff, 0xff, 0xff, 'x'} }, // nearly a gigabyte, of which nothing follows
		func() []byte { return []byte{"QPBdFES"[i%7], 0xff, 0xff, 0xff, 0xff} },
		func() []byte { return encoded(&pgproto3.Terminate{}) },
	}
	return moves[move]()
}

// checkAgent checks what the agent got: messages that a server sends, and nothing
// that is hidden.
func (h *hostile) checkAgent() {
	h.t.Helper()
	told := h.toldAgent.Bytes()
	if at := bytes.Index(told, []byte(cardNumber)); at >= 0 {
		h.t.Errorf("the agent got %q", told[max(0, at-100):min(len(told), at+50)])
	}
	for len(told) >= 5 {
		length := int(binary.BigEndian.Uint32(told[1:]))
		if !strings.ContainsRune("RKSZTDCIENA123nstHGdcVv", rune(told[0])) || length < 4 {
			h.t.Errorf("the agent got no message: %q", told[:min(len(told), 40)])
			return
		}
		told = told[min(len(told), 1+length):]
	}
}

// checkTarget checks what reached the target: messages that an agent sends, and
// nothing that was not judged.
func (h *hostile) checkTarget() {
	h.t.Helper()
	told := h.toldTarget.Bytes()
	if bytes.Contains(told, []byte(forbidden)) {
		h.t.Errorf("what is denied reached the target: %q", told)
	}
	ran := 0
	for first := true; len(told) >= 8; first = false {
		if first {
			told = told[min(len(told), int(binary.BigEndian.Uint32(told))):]
			continue
		}
		length := int(binary.BigEndian.Uint32(told[1:]))
		if !strings.ContainsRune("QPBEDCSHFdcfXp", rune(told[0])) || length < 4 {
			h.t.Errorf("the target got no message: %q", told[:min(len(told), 40)])
			return
		}
		message := told[:min(len(told), 1+length)]
		told = told[len(message):]
		if bytes.Contains(message, []byte("headgate_"+token)) {
			continue
		}
		switch message[0] {
		case wire.Query, wire.Parse, wire.Execute, wire.FunctionCall:
			ran++
		}
		if message[0] == wire.Query {
			text := string(bytes.TrimRight(message[5:], "\x00"))
			if !h.allowed[text] && !strings.Contains(text, ";") && strings.Contains(text, " ") {
				h.t.Errorf("a text was not judged: %q", text)
			}
		}
	}
	if ran > h.judged {
		h.t.Errorf("%d messages reached the target that run or define something, %d were allowed", ran, h.judged)
	}
}
