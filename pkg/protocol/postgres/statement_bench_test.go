package postgres

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgproto3/v2"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/gateway"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/transparent"
)

// BenchmarkStatement measures what one statement of pgbench -S costs in user space
// with everything on: a policy of 100 rules, masks, catalog, audit log, recording,
// metrics. There is no socket and no second goroutine in it.
func BenchmarkStatement(b *testing.B) {
	for _, mode := range []string{"simple", "extended", "prepared"} {
		b.Run(mode, func(b *testing.B) {
			l := newLoop(b)
			l.program(mode)
			l.turn()
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				l.turn()
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// processorTime is what the process has used, its collector included.
func processorTime(tb testing.TB) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// loop drives an exchange from one goroutine: the agent's messages of a turn, then
// the target's answers to them.
type loop struct {
	tb            testing.TB
	x             *exchange
	engine        *policy.Engine // what the gateway asks
	agent, target *turns
	gate          *gateway.Gateway
}

// turns yields what one side says in each turn, no more at a time.
type turns struct {
	say  [][]byte
	rest []byte
	next int
}

func (t *turns) Read(p []byte) (int, error) {
	if len(t.rest) == 0 {
		t.rest = t.say[t.next]
		t.next = (t.next + 1) % len(t.say)
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// turn fails unless everything that was asked was answered.
func (l *loop) turn() {
	ctx := l.tb.Context()
	for more := true; more; more = l.x.fromAgent.Buffered() {
		typ, length, err := l.x.fromAgent.Next()
		if err == nil && l.x.consulting(typ) {
			err = l.x.settle(ctx)
		}
		if err == nil {
			err = l.x.handle(ctx, typ, length)
		}
		if err != nil {
			l.tb.Fatal(err)
		}
	}
	if err := l.x.toTarget.Flush(); err != nil {
		l.tb.Fatal(err)
	}
	for more := true; more; more = l.x.fromTarget.Buffered() {
		typ, length, err := l.x.fromTarget.Next()
		if err == nil {
			err = l.x.answer(ctx, typ, length)
		}
		if err != nil {
			l.tb.Fatal(err)
		}
	}
	if err := l.x.toAgent.Flush(); err != nil {
		l.tb.Fatal(err)
	}
	if len(l.x.pending.queue) > 0 {
		l.tb.Fatalf("%d requests were not answered", len(l.x.pending.queue))
	}
}

// program makes the sides say what they do for pgbench -S in a mode.
func (l *loop) program(mode string) {
	const accounts = 20_000
	description := &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
		{Name: []byte("abalance"), TableOID: accountsOID, TableAttributeNumber: 3, DataTypeOID: 23, DataTypeSize: 4, TypeModifier: -1},
	}}
	for i := range accounts {
		aid := fmt.Sprint(1 + i*48_271%999_983)
		data := []pgproto3.Message{
			description, &pgproto3.DataRow{Values: [][]byte{fmt.Append(nil, i%5000-2500)}},
			&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
		}
		name, up := "", []byte(nil)
		switch mode {
		case "simple":
			l.says(encode(nil, &pgproto3.Query{String: "SELECT abalance FROM pgbench_accounts WHERE aid = " + aid + ";"}), data...)
			continue
		case "extended":
			up = encode(nil, &pgproto3.Parse{Query: preparedText})
			data = append([]pgproto3.Message{&pgproto3.ParseComplete{}, &pgproto3.BindComplete{}}, data...)
		case "prepared":
			if name = "P0_1"; i == 0 {
				l.prepare(name)
			}
			data = append([]pgproto3.Message{&pgproto3.BindComplete{}}, data...)
		}
		up = encode(up, &pgproto3.Bind{PreparedStatement: name, Parameters: [][]byte{[]byte(aid)}, ResultFormatCodes: []int16{0}})
		up = encode(up, &pgproto3.Describe{ObjectType: 'P'})
		up = encode(up, &pgproto3.Execute{})
		l.says(encode(up, &pgproto3.Sync{}), data...)
	}
}

const preparedText = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;"

// says adds one turn.
func (l *loop) says(agent []byte, target ...pgproto3.Message) {
	var down []byte
	for _, m := range target {
		down = encode(down, m)
	}
	l.agent.say, l.target.say = append(l.agent.say, agent), append(l.target.say, down)
}

// prepare has the statement prepared in a turn of its own.
func (l *loop) prepare(name string) {
	l.says(encode(encode(nil, &pgproto3.Parse{Name: name, Query: preparedText}), &pgproto3.Sync{}),
		&pgproto3.ParseComplete{}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	l.turn()
	l.agent.say, l.agent.next, l.target.say, l.target.next = nil, 0, nil, 0
}

// accountsOID is the table of pgbench in the catalog.
const accountsOID = 16500

func newLoop(tb testing.TB) *loop {
	tb.Helper()
	l := &loop{tb: tb, agent: &turns{}, target: &turns{}, engine: hundredRules(tb, 1, "")}
	p := New(Options{})
	if err := p.Warm(); err != nil {
		tb.Fatal(err)
	}
	s := l.open(p)
	x := &exchange{postgres: p, session: s, pending: newPending(), clock: time.NewTimer(time.Hour)}
	x.pending.idle, x.pending.transaction = true, 'I'
	x.database = p.known.enter(newPlace(s.Downstream.Origin.Target, 0, "bench"))
	x.load = func(context.Context) (*catalog.Catalog, error) { return accounts(tb), nil }
	x.entry = x.database.entry(account{resource: s.Resource.Name, database: "bench"})
	secret := credential.Credential{Name: "shop", Username: "app", Secret: credential.NewSecret([]byte("agent-password-93XvTz"))}
	x.secrets = newSecrets(nil, secret, login.Outcome{}, func(protocol.FindingKind) error { return nil })
	x.fromAgent, x.toTarget = wire.NewReader(l.agent, agentLimits), wire.NewWriter(io.Discard)
	x.fromTarget, x.toAgent = wire.NewReader(l.target, targetLimits), wire.NewWriter(io.Discard)
	l.x = x
	if err := x.entry.await(tb.Context(), x.load); err != nil {
		tb.Fatal(err)
	}
	return l
}

// accounts is the catalog of a database with the table of pgbench.
func accounts(tb testing.TB) *catalog.Catalog {
	tb.Helper()
	c := catalog.New()
	for i, name := range []string{"aid", "bid", "abalance", "filler"} {
		row := [][]byte{[]byte("c"), fmt.Append(nil, accountsOID), fmt.Append(nil, i+1), []byte("public"), []byte("pgbench_accounts"), []byte(name), []byte("r")}
		if err := c.Add(dataRow(tb, row...)[5:]); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// hundredRules is the policy of pkg/internal/bench, and more.
func hundredRules(tb testing.TB, generation uint64, more string) *policy.Engine {
	tb.Helper()
	var text strings.Builder
	text.WriteString(`
version: 1
agents:
  - {name: ci}
  - {name: other}
resources:
  - {name: plain, protocol: postgres, hosts: ["192.0.2.1:5432"], tls: {verify: off}}
  - {name: masked, protocol: postgres, hosts: ["192.0.2.2:5432"], tls: {verify: off}}
masks:
  - {name: ids, resources: [masked], columns: ["*.*.ssn"], with: keep-last-4}
  - {name: people, resources: [masked], detect: [pan, email, ssn], with: keep-last-4}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
rules:
  - {name: work, effect: allow, resources: [plain, masked], operations: [select, set, show, transaction]}
`)
	for i := 1; i < 100; i++ {
		effect := []string{"allow", "deny"}[i%2]
		who := []string{
			fmt.Sprintf("principals: ['group:team-%d', 'group:on-call-%d']", i, i),
			"agents: [other]",
			"message: Ask the people who own the data.",
		}[i%3]
		verbs := []string{"drop", "truncate", "delete", "insert, update", "ddl", "copy_in, copy_out"}[i%6]
		if i%3 == 2 {
			effect = "deny"
		}
		fmt.Fprintf(&text, "  - {name: rule-%03d, effect: %s, resources: [plain, masked], operations: [%s], %s}\n", i, effect, verbs, who)
	}
	text.WriteString(more)
	file, err := policy.Parse("bench.yaml", []byte(text.String()))
	if err != nil {
		tb.Fatal(err)
	}
	engine, err := policy.Compile(generation, file)
	if err != nil {
		tb.Fatal(err)
	}
	return engine
}

// captive hands out the gateway's sessions, instead of serving them.
type captive struct {
	*Postgres
	sessions chan *protocol.Session
}

func (c captive) Serve(ctx context.Context, s *protocol.Session) error {
	c.sessions <- s
	<-ctx.Done()
	return nil
}

// lone is one connection for a gateway.
type lone struct {
	conns chan *transparent.Conn
	over  context.Context
}

func (l lone) SetDeadline(time.Time) error { return nil }

func (l lone) Accept() (*transparent.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.over.Done():
		return nil, net.ErrClosed
	}
}

type allProcesses struct{ one *process.Process }

func (p allProcesses) Wait(context.Context, process.ID, uint64) (*process.Process, error) {
	return p.one, nil
}

// open returns a session as the gateway makes it, until the test ends.
func (l *loop) open(p *Postgres) *protocol.Session {
	l.tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "headgate-statement-")
	if err != nil {
		dir = l.tb.TempDir()
	}
	log, err := audit.OpenLog(dir, audit.Options{})
	if err != nil {
		l.tb.Fatal(err)
	}
	id := process.ID{PID: 42, Start: 4242}
	proto := captive{p, make(chan *protocol.Session, 1)}
	l.gate, err = gateway.New(gateway.Options{
		Engine:    func() *policy.Engine { return l.engine },
		Protocols: []protocol.Protocol{proto}, Opaque: proto,
		Processes:  allProcesses{&process.Process{ID: id, Root: id, Image: &process.Image{Exe: "/usr/bin/pgbench", Argv: []string{"pgbench", "-S"}}}},
		Agent:      func(uint32) (string, bool) { return "ci", true },
		Principals: &identity.Binder{}, Audit: log, Log: zerolog.Nop(), Metrics: metrics.New("test"),
		Limits: gateway.Limits{Drain: time.Millisecond, RecordBytes: -1}, // recording: statements
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	conns := lone{make(chan *transparent.Conn, 1), ctx}
	agent, down := net.Pipe()
	conns.conns <- transparent.NewConn(down, transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.2:5432"), Process: id, Root: id, Enrolment: 1})
	done := make(chan struct{})
	serving, end := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		_ = l.gate.Serve(serving, conns) // it ends by the error of a closed listener
	}()
	l.tb.Cleanup(func() {
		cancel()
		end()
		agent.Close()
		<-done
		log.Close()
		if err := os.RemoveAll(dir); err != nil {
			l.tb.Error(err)
		}
	})
	return <-proto.sessions
}
