package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// A denial has to look like an error of the server's own at that place. Each
// conversation is held twice: with the server itself, where a statement really
// fails, and through the gate, where the policy denies it. Every message has to
// be the same, byte for byte, but for the words of that one error, and so has
// what the tables hold afterwards.

// planned is in the text of every statement that has to fail. It names a function
// that raises an error, and nothing else: no table and no column.
const planned = "planned_failure"

const semanticsSchema = `
create table if not exists sem (id int primary key, body text);
create or replace function planned_failure() returns bool language plpgsql volatile as $$ begin raise exception 'planned_failure'; end $$;
grant all on sem to agent;
create table if not exists sem_wide (id int, body text);
truncate sem_wide;
insert into sem_wide select i, repeat('x', 100) from generate_series(1, 500) i;
grant all on sem_wide to agent;`

// turn is what the agent sends at once, and how long it listens before the next.
type turn struct {
	send  []pgproto3.FrontendMessage
	until string // the types of messages of which each ends the turn once
	// denies: the policy denies what is planned to fail from here on.
	denies bool
}

// conversation is what is said, with a place for what fails.
type conversation struct {
	name string
	// fails is what fails on the server, denied is what the gate denies.
	fails, denied string
	// late: the policy denies only from the turn that says so.
	late  bool
	turns func(bad string) []turn
	want  string // the rows of sem, in front of the one that every conversation adds at its end
}

type frontend = []pgproto3.FrontendMessage

func queryOf(text string) *pgproto3.Query { return &pgproto3.Query{String: text} }

// ask is a turn of one Query.
func ask(text string) turn { return turn{send: frontend{queryOf(text)}, until: "Z"} }

// run is a statement in the extended protocol, without Sync.
func run(text string) frontend {
	return frontend{
		&pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{},
	}
}

func insert(id int) string { return fmt.Sprintf("insert into sem values (%d, 'row')", id) }

func messagesOf(parts ...any) frontend {
	var all frontend
	for _, p := range parts {
		switch p := p.(type) {
		case pgproto3.FrontendMessage:
			all = append(all, p)
		case frontend:
			all = append(all, p...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return all
}

// pipeline is a turn that sends everything at once, and waits for its Syncs.
func pipeline(syncs int, parts ...any) turn {
	return turn{send: messagesOf(parts...), until: strings.Repeat("Z", syncs)}
}

var syncOf = &pgproto3.Sync{}

func TestADenialIsWhatAnErrorOfTheServerWouldHaveBeen(t *testing.T) {
	need(t)
	if _, err := shared.server.Exec(testDatabase, semanticsSchema); err != nil {
		t.Fatal(err)
	}
	oid, err := shared.server.Exec(testDatabase, "select 'planned_failure'::regproc::oid")
	if err != nil {
		t.Fatal(err)
	}
	function, err := strconv.ParseUint(oid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conversations(uint32(function)) {
		t.Run(c.name, func(t *testing.T) {
			direct, before := c.hold(t, need(t), nil)
			for name, masks := range map[string]*mask.Set{
				"":                nil,
				" with masks":     mustMask(t, ssnRule()),
				" with detectors": mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"}),
			} {
				g := newGate(t, func(g *gate) { g.masks = masks })
				gated, after := c.hold(t, g.addr, g)
				if diff := cmp.Diff(told(t, direct, masks.Empty()), told(t, gated, masks.Empty())); diff != "" {
					t.Errorf("what the agent gets%s (-from the server +through the gate):\n%s", name, diff)
				}
				if before != after || after != strings.TrimSpace(c.want+" 99") {
					t.Errorf("sem holds %q%s, %q without the gate, want %q", after, name, before, c.want+" 99")
				}
			}
		})
	}
}

// utterance is a message that came, in answer to which turn.
type utterance struct {
	turn int
	typ  byte
	body []byte
}

// hold holds the conversation with what listens at addr, and returns all that
// came back, and what the table holds. Where g is set, addr is the gate's.
func (c *conversation) hold(t *testing.T, addr string, g *gate) (all []utterance, rows string) {
	t.Helper()
	admin, err := pgconn.Connect(t.Context(), dsn(need(t), superuser, adminPassword))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), "truncate sem").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if g == nil {
		all = c.talk(t, addr, c.fails, func() {})
	} else {
		denying := !c.late
		g.set(func() {
			g.decide = func(op *policy.Operation) *protocol.Denial {
				g.mu.Lock()
				defer g.mu.Unlock()
				if !denying || op.Verb != "function_call" && !strings.Contains(op.Text, c.denied) {
					return nil
				}
				return &protocol.Denial{Rule: "no-" + planned, Reason: policy.ReasonRule}
			}
		})
		all = c.talk(t, addr, c.denied, func() { g.set(func() { denying = true }) })
	}
	checkPlanned(t, all, g != nil)
	left, err := admin.Exec(t.Context(), "select coalesce(string_agg(id::text, ' ' order by id), '') from sem").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all, string(left[0].Rows[0][0])
}

func (c *conversation) talk(t *testing.T, addr, bad string, denyNow func()) (all []utterance) {
	t.Helper()
	conn := login(t, addr)
	defer conn.Close()
	for i, step := range append(c.turns(bad), ask("rollback; "+insert(99))) {
		if step.denies {
			denyNow()
		}
		say(t, conn, step.send)
		for waiting := step.until; waiting != ""; {
			typ, body, err := hear(conn)
			if err != nil {
				t.Fatalf("turn %d: %v, after %s", i, err, strings.Join(told(t, all, true), "\n"))
			}
			all = append(all, utterance{i, typ, body})
			if at := strings.IndexByte(waiting, typ); at >= 0 {
				waiting = waiting[:at] + waiting[at+1:]
			}
		}
	}
	say(t, conn, frontend{&pgproto3.Terminate{}})
	if typ, body, err := hear(conn); !errors.Is(err, io.EOF) {
		t.Errorf("behind the end came %c %q, %v", typ, body, err)
	}
	return all
}

func login(t *testing.T, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, dsn(addr, "agent", "agent-password"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return h.Conn
}

func say(t *testing.T, conn net.Conn, messages frontend) {
	t.Helper()
	var raw []byte
	for _, m := range messages {
		var err error
		if raw, err = m.Encode(raw); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
}

func hear(conn net.Conn) (typ byte, body []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(header[1:])-4)
	_, err = io.ReadFull(conn, body)
	return header[0], body, err
}

// told renders messages without losing a byte, but for the error that was
// planned: of that one only its place counts, and which fields a denial has.
// Where masks are on, what other errors say is withheld, and which line of the
// server found that there is no such portal differs, as its rows are asked for
// first; exact is false there.
func told(t *testing.T, all []utterance, exact bool) (lines []string) {
	t.Helper()
	for _, m := range all {
		line := fmt.Sprintf("turn %d: %c %q", m.turn, m.typ, m.body)
		if m.typ == 'E' {
			fields, order := fieldsOf(m.body)
			switch {
			case strings.Contains(line, planned):
				line = fmt.Sprintf("turn %d: the planned error", m.turn)
			case !exact:
				line = fmt.Sprintf("turn %d: E %s %s of the fields %s", m.turn, fields['S'], fields['C'], order)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func fieldsOf(body []byte) (fields map[byte]string, order string) {
	fields = map[byte]string{}
	for _, f := range strings.Split(string(body), "\x00") {
		if f != "" {
			fields[f[0]] = f[1:]
			order += f[:1]
		}
	}
	return fields, order
}

// checkPlanned checks that what was planned to fail did, and, if denied is set,
// that it was the gate that said so, with the fields that a denial has. What a
// server says beyond them is where in its own source the error was raised (F, L,
// R), where in the text it is (P, q, p, W), of which the server saw another one,
// and which object it is about (s, t, c, d, n): nothing of that would be true.
func checkPlanned(t *testing.T, all []utterance, denied bool) {
	t.Helper()
	failed := 0
	for _, m := range all {
		fields, order := fieldsOf(m.body)
		if m.typ != 'E' || !strings.Contains(fields['M'], planned) {
			continue
		}
		failed++
		switch {
		case fields['S'] != "ERROR" || fields['V'] != "ERROR":
			t.Errorf("severity of the planned error %q", fields)
		case denied != (fields['C'] == "42501"):
			t.Errorf("denied is %v, the error is %q", denied, fields)
		case denied && order != "SVCMDH":
			t.Errorf("a denial has the fields %s: %q", order, fields)
		case denied && (!strings.HasPrefix(fields['M'], "headgate: ") || !strings.Contains(fields['D'], "no-"+planned) || !strings.Contains(fields['H'], "op-")):
			t.Errorf("a denial says %q", fields)
		}
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
}
