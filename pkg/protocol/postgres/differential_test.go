package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/protocol/protocoltest"
)

// facts are all that a session tells: to both sides, to who decides and to the
// record.
type facts struct {
	ToAgent, ToTarget []byte
	Operations        []policy.Operation
	Denials           []protocol.Denial
	Frames            map[string][]protocol.Frame // by operation: two goroutines record
	Err               string

	mu sync.Mutex
}

func (f *facts) operation(op *policy.Operation) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := *op
	kept.Effects, kept.Objects, kept.Parameters = slices.Clone(op.Effects), slices.Clone(op.Objects), slices.Clone(op.Parameters)
	kept.Facts = nil // they look the operation up again
	f.Operations = append(f.Operations, kept)
	return len(f.Operations)
}

func (f *facts) denial(d *protocol.Denial) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Denials = append(f.Denials, *d)
}

func (f *facts) frame(frame protocol.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Frames == nil {
		f.Frames = map[string][]protocol.Frame{}
	}
	rows := make([][]*string, len(frame.Rows))
	for i, row := range frame.Rows {
		for _, cell := range row {
			if cell != nil {
				value := *cell
				cell = &value
			}
			rows[i] = append(rows[i], cell)
		}
	}
	frame.Rows = rows
	if frame.Outcome != nil { // it is not for who records to keep
		outcome := *frame.Outcome
		frame.Outcome = &outcome
	}
	f.Frames[frame.Op] = append(f.Frames[frame.Op], frame)
}

// overheard is a protocol whose first session's facts are kept.
type overheard struct {
	*postgres.Postgres
	once  sync.Once
	facts *facts
}

func (o *overheard) Serve(ctx context.Context, s *protocol.Session) error {
	o.once.Do(func() {
		decide, record := s.Decide, s.Record
		s.Decide = func(ctx context.Context, op *policy.Operation) (protocol.Ruling, error) {
			o.facts.operation(op)
			return decide(ctx, op)
		}
		s.Record = func(f protocol.Frame) error {
			o.facts.frame(f)
			return record(f)
		}
	})
	return o.Postgres.Serve(ctx, s)
}

// The suite compares all bytes with those of the conversation, so what is left is
// what it need not say.
func TestConversationsAreTheSameWithoutShortcuts(t *testing.T) {
	files, err := filepath.Glob("../../../testdata/postgres/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("find conversations: %d, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600); err != nil {
				t.Fatal(err)
			}
			var told []*facts
			for _, s := range []protocol.Shortcuts{protocol.ShortcutsTaken, protocol.ShortcutsAvoided} {
				first := &facts{}
				told = append(told, first)
				kept := first
				protocoltest.Run(t, func() protocol.Protocol {
					o := &overheard{facts: kept, Postgres: postgres.New(postgres.Options{Token: func() string { return token }, Key: ourKey, Shortcuts: s})}
					kept = &facts{} // only the first is whole
					return o
				}, trace{}, dir)
			}
			same(t, told[0], told[1])
		})
	}
}

func same(t *testing.T, taken, avoided *facts) {
	t.Helper()
	for _, side := range []struct {
		name string
		a, b []byte
	}{{"agent", taken.ToAgent, avoided.ToAgent}, {"target", taken.ToTarget, avoided.ToTarget}} {
		if bytes.Equal(side.a, side.b) {
			continue
		}
		at := 0
		for at < min(len(side.a), len(side.b)) && side.a[at] == side.b[at] {
			at++
		}
		near := func(p []byte) []byte { return p[max(0, at-40):min(len(p), at+80)] }
		t.Errorf("the %s got other bytes, %d and %d, from byte %d:\nwith shortcuts    %q\nwithout shortcuts %q",
			side.name, len(side.a), len(side.b), at, near(side.a), near(side.b))
	}
	if d := cmp.Diff(taken.Operations, avoided.Operations); d != "" {
		t.Errorf("other operations (-with +without shortcuts):\n%s", d)
	}
	if d := cmp.Diff(taken.Denials, avoided.Denials); d != "" {
		t.Errorf("other denials (-with +without shortcuts):\n%s", d)
	}
	if d := cmp.Diff(taken.Frames, avoided.Frames); d != "" {
		t.Errorf("other frames (-with +without shortcuts):\n%s", d)
	}
	if taken.Err != avoided.Err {
		t.Errorf("it ended with %q, without shortcuts with %q", taken.Err, avoided.Err)
	}
}

// TestRandomSessionsAreTheSameWithoutShortcuts runs each of many sessions three
// times: with shortcuts in one piece, and cut in two ways, once without them.
// HEADGATE_SHORTCUTS_SESSIONS makes it more of them, HEADGATE_SHORTCUTS_SEED
// starts elsewhere.
func TestRandomSessionsAreTheSameWithoutShortcuts(t *testing.T) {
	sessions, seed := number(t, "HEADGATE_SHORTCUTS_SESSIONS", 150), number(t, "HEADGATE_SHORTCUTS_SEED", 1)
	sets := []*mask.Set{
		nil,
		mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"}),
		mustMask(t, mask.Rule{Name: "d", Detect: mask.Detectors(), With: "keep-last-4"}),
		mustMask(t, mask.Rule{Name: "c", Columns: []string{"*.customers.ssn", "*.customers.note"}, With: "keep-last-4"}),
		mustMask(t, mask.Rule{Name: "c", Columns: []string{"*.*.ssn"}, Detect: mask.Detectors(), With: "constant", Constant: "x"}),
	}
	var values []*postgres.Postgres
	for _, s := range []protocol.Shortcuts{protocol.ShortcutsTaken, protocol.ShortcutsTaken, protocol.ShortcutsAvoided} {
		value := postgres.New(postgres.Options{Token: func() string { return token }, Key: ourKey, Shortcuts: s})
		if err := value.Warm(); err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
	}
	var rows, masked, denied, bytes int
	for i := seed; i < seed+sessions && !t.Failed(); i++ {
		var told []*facts
		for j, value := range values {
			p := &play{seed: uint64(i), masks: sets[i%len(sets)], facts: &facts{}, cut: rand.New(rand.NewPCG(uint64(i), uint64(j)))}
			if j == 0 {
				p.cut = nil
			}
			synctest.Test(t, func(t *testing.T) { p.run(t, value) })
			told = append(told, p.facts)
		}
		same(t, told[0], told[1])
		same(t, told[0], told[2])
		if t.Failed() {
			t.Logf("seed %d", i)
		}
		denied, bytes = denied+len(told[0].Denials), bytes+len(told[0].ToAgent)
		for _, frames := range told[0].Frames {
			for _, f := range frames {
				if f.Outcome != nil {
					rows, masked = rows+int(f.Outcome.Rows), masked+int(f.Outcome.Masked)
				}
			}
		}
	}
	t.Logf("%d sessions: %d rows, %d values masked, %d operations denied, %d bytes to agents", sessions, rows, masked, denied, bytes)
	if !t.Failed() && (rows < sessions || masked < sessions/2 || denied < sessions/4) {
		t.Error("too little happens in the sessions")
	}
}

// play is one session of an agent that asks what a seed says with a target that
// answers what the seed and the text say.
type play struct {
	seed  uint64
	masks *mask.Set
	facts *facts
	cut   *rand.Rand // nil: nothing is cut
}

func (p *play) run(t *testing.T, value *postgres.Postgres) {
	heard := newFacade(p)
	conn := connect(t, func(c *pipes) {
		c.session.Mask = func() *mask.Set { return p.masks }
		c.session.Decide = p.decide
		c.session.Deny = func(_ protocol.Ruling, _ *policy.Operation, d *protocol.Denial) error {
			p.facts.denial(d)
			return nil
		}
		c.session.Record = func(f protocol.Frame) error {
			p.facts.frame(f)
			return nil
		}
	})
	conn.serve(t.Context(), value)
	over := make(chan struct{})
	answer, write := p.pieces(1), p.pieces(2)
	go func() {
		defer close(over)
		heard.serve(conn.target, answer)
	}()
	for _, batch := range newAsker(p.seed).batches() {
		go func() { _ = write(conn.agent, batch) }() // who has left does not read it
		synctest.Wait()                              // all that comes of it has come
	}
	_ = conn.agent.Close()
	err := conn.wait()
	_ = conn.target.Close()
	<-over
	p.facts.ToAgent, p.facts.ToTarget = conn.heard.Bytes(), heard.heard.Bytes()
	if err != nil {
		p.facts.Err = err.Error()
	}
}

func (p *play) decide(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
	id := fmt.Sprintf("op-%d", p.facts.operation(op))
	if len(op.Effects) == 0 || slices.Contains(op.Effects, statement.Drop) || slices.Contains(op.Effects, statement.Unknown) {
		d := &protocol.Denial{ID: id, Rule: "r", Reason: policy.ReasonRule, Message: "Not here."}
		p.facts.denial(d)
		return protocol.Ruling{}, d
	}
	return protocol.Ruling{ID: id}, nil
}

// forbids reports whether what does this may be denied: by decide, or for a mask.
func forbids(s statement.Statement) bool { return s.Does(statement.DDL) || s.Does(statement.Unknown) }

// pieces returns what writes bytes as the play cuts them.
func (p *play) pieces(stream uint64) func(w io.Writer, raw []byte) error {
	if p.cut == nil {
		return func(w io.Writer, raw []byte) error { _, err := w.Write(raw); return err }
	}
	random := rand.New(rand.NewPCG(p.cut.Uint64(), stream))
	most := []int{1, 7, 300, 5000, 200_000}[random.IntN(5)]
	return func(w io.Writer, raw []byte) error {
		for len(raw) > 0 {
			// No large message is cut into thousands: that takes too long.
			n := min(len(raw), max(1+random.IntN(most), len(raw)/200))
			if _, err := w.Write(raw[:n]); err != nil {
				return err
			}
			raw = raw[n:]
		}
		return nil
	}
}

// asker makes what an agent says, from a seed.
type asker struct{ *rand.Rand }

func newAsker(seed uint64) asker { return asker{rand.New(rand.NewPCG(seed, 99))} }

func (s asker) pick(choices ...string) string { return choices[s.IntN(len(choices))] }

// batches are what it says before it waits each time. The last one is its farewell.
func (s asker) batches() [][]byte {
	batches := [][]byte{wire.AppendStartup(nil, []wire.Parameter{{Name: "user", Value: "agent"}, {Name: "database", Value: "db"}})}
	for range 2 + s.IntN(8) {
		batches = append(batches, s.more()...)
	}
	return append(batches, encoded(&pgproto3.Terminate{}))
}

func (s asker) more() [][]byte {
	switch s.IntN(10) {
	case 0, 1, 2, 3:
		return [][]byte{encoded(&pgproto3.Query{String: s.text()})}
	case 4:
		return [][]byte{encoded(&pgproto3.Query{String: s.text() + "; " + s.text()})}
	case 5:
		return [][]byte{encoded(&pgproto3.FunctionCall{Function: uint32(s.IntN(9))})}
	case 6:
		return [][]byte{encoded(&pgproto3.Query{String: s.pick("copy customers to stdout", "copy (select note from t) to stdout csv")})}
	default:
		return s.extended()
	}
}

// extended asks in the extended protocol: all at once, unless the Parse fails,
// because it is a matter of time then what is known of its name.
func (s asker) extended() (batches [][]byte) {
	name, messages, pipelined := s.pick("", "", "a", "b"), []pgproto3.Message{}, false
	if s.IntN(4) > 0 {
		text := s.text()
		messages, pipelined = append(messages, &pgproto3.Parse{Name: name, Query: text}), !broken(text) && !slices.ContainsFunc(statement.Parse(text), forbids)
	}
	if s.IntN(3) == 0 {
		messages = append(messages, &pgproto3.Describe{ObjectType: 'S', Name: name})
	}
	messages = append(messages, &pgproto3.Bind{PreparedStatement: name, ResultFormatCodes: []int16{int16(s.IntN(2))}})
	if s.IntN(2) == 0 {
		messages = append(messages, &pgproto3.Describe{ObjectType: 'P'})
	}
	messages = append(messages, &pgproto3.Execute{}, &pgproto3.Sync{})
	if pipelined {
		return [][]byte{encoded(messages...)}
	}
	for _, m := range messages {
		batches = append(batches, encoded(m))
	}
	return batches
}

// text is a statement: of the forms that are known again, and of those that only
// look like it.
func (s asker) text() string {
	n := fmt.Sprint(s.IntN(2000) - 20)
	word := s.pick("'abc'", "'x y'", "'4111 1111 1111 1111'", "'it''s'", `'\'`, "'é'", "E'a'", "''", "$$a$$", "'a' 'b'", "'a'\n'b'", "n")
	table := s.pick("customers", "t", "public.customers", `"customers"`, "pg_class")
	column := s.pick("ssn", "note", "id", "*", "ssn || ''", "count(*)", "note as ssn", "lower(note)")
	gap := s.pick(" ", " ", " ", "\n", "  ", "/**/", " -- x\n")
	switch s.IntN(12) {
	case 0, 1, 2, 3:
		return "select " + column + " from" + gap + table + " where id" + s.pick("=", " = ", "<", ">=", " in (1, ", " between 1 and (") + n + s.pick("", ";", ")", " or note = "+word)
	case 4:
		return "select " + column + " from " + table + " where note = " + word + " limit " + n
	case 5:
		return "select " + n + ", " + word + s.pick("", " as ssn", " from "+table, " order by 1", " order by "+n)
	case 6:
		return "update " + table + " set note = " + word + ", n = n + " + n + " where id = " + n
	case 7:
		return "insert into " + table + " (id, note) values (" + n + "," + gap + word + ")"
	case 8:
		return "delete from " + table + " where id =" + gap + n
	case 9:
		return s.pick("begin", "commit", "set application_name = "+word, "show all", "", ";", "select", "selec 1")
	case 10:
		return "drop table " + table
	default:
		return "select " + column + " from " + table + " where id > " + n + " and note like " + word + s.pick("", " offset "+n, " fetch first row only")
	}
}
