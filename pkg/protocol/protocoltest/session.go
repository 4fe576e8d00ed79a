package protocoltest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// SessionID is the ID of every fake session.
const SessionID = "session-1"

// gateway is a fake of all that a session has functions for. It keeps what it
// was asked.
type gateway struct {
	table table
	dial  func() (net.Conn, error)

	mu         sync.Mutex
	operations []entry
	frames     []protocol.Frame
	dials      int
}

func (g *gateway) session(down net.Conn, s settings, masks *mask.Set) *protocol.Session {
	agent := &process.Process{
		ID:    process.ID{PID: 4711, Start: 93042117},
		Image: &process.Image{Exe: "/usr/bin/agent", Argv: []string{"agent"}},
		Root:  process.ID{PID: 4711, Start: 93042117},
	}
	origin := transparent.Origin{
		Target:  netip.MustParseAddrPort("192.0.2.10:7777"),
		Process: agent.ID,
		Root:    agent.Root,
	}
	return &protocol.Session{
		ID:         SessionID,
		Downstream: transparent.NewConn(down, origin),
		Process:    agent,
		Principal:  identity.Principal{Issuer: "test", Subject: "agent"},
		Resource:   s.resource,
		Observe:    s.observe,
		Log:        zerolog.Nop(),
		Decide:     g.decide,
		Deny:       func(protocol.Ruling, *policy.Operation, *protocol.Denial) error { return nil },
		Dial:       func(context.Context) (net.Conn, error) { return g.dialOnce() },
		Secure:     func(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, nil },
		Credential: func(context.Context) (credential.Credential, bool, error) {
			if s.credential == nil {
				return credential.Credential{}, false, nil
			}
			return *s.credential, true, nil
		},
		Learn:  func(names.Answer) {},
		Mask:   func() *mask.Set { return masks },
		Record: g.record,
	}
}

func (g *gateway) decide(ctx context.Context, op *policy.Operation) (protocol.Ruling, error) {
	if err := ctx.Err(); err != nil {
		return protocol.Ruling{}, &protocol.Denial{ID: SessionID, Rule: "default", Reason: protocol.ReasonInternal}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.table.decide(op)
	g.operations = append(g.operations, operationEntry(op, d))
	id := "op-" + strconv.Itoa(len(g.operations))
	if d.Verdict != policy.Allow {
		return protocol.Ruling{}, protocol.NewDenial(id, d, op.Reason)
	}
	return protocol.Ruling{ID: id, Decision: d}, nil
}

var (
	errNoUpstream = errors.New("dial origin: the conversation has no upstream")
	errDialTwice  = errors.New("dial origin: it was dialled before")
)

func (g *gateway) dialOnce() (net.Conn, error) {
	g.mu.Lock()
	g.dials++
	dials := g.dials
	g.mu.Unlock()
	if g.dial == nil {
		return nil, errNoUpstream
	}
	if dials > 1 {
		return nil, errDialTwice
	}
	return g.dial()
}

func (g *gateway) record(f protocol.Frame) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frames = append(g.frames, cloneFrame(f))
	return nil
}

// cloneFrame copies what the protocol may use again after Record.
func cloneFrame(f protocol.Frame) protocol.Frame {
	f.Columns = slices.Clone(f.Columns)
	f.Rows = slices.Clone(f.Rows)
	for i, row := range f.Rows {
		f.Rows[i] = slices.Clone(row)
		for j, cell := range row {
			if cell != nil {
				value := *cell
				f.Rows[i][j] = &value
			}
		}
	}
	if f.Outcome != nil {
		outcome := *f.Outcome
		f.Outcome = &outcome
	}
	return f
}

func operationEntry(op *policy.Operation, d policy.Decision) entry {
	e := entry{words: []string{d.Verdict.String(), quote(op.Verb)}}
	e.add("effects", op.Effects...)
	var objects []string
	for _, o := range op.Objects {
		name := o.Kind + ":" + o.Name
		if o.Write {
			name += "!"
		}
		objects = append(objects, name)
	}
	e.add("objects", objects...)
	e.add("text", op.Text)
	e.add("params", op.Parameters...)
	e.add("rule", d.Rule)
	e.add("reason", d.Reason)
	e.add("detail", op.Reason)
	return e
}

// frameEntries renders frames, with neighbouring pieces of a table joined.
func frameEntries(frames []protocol.Frame) []entry {
	var entries []entry
	var table *protocol.Frame
	for _, f := range frames {
		op := f.Op
		if op == "" {
			op = "-"
		}
		if f.Kind != protocol.FrameTable {
			table = nil
			entries = append(entries, plainFrame(op, f))
			continue
		}
		if table == nil || table.Op != f.Op || !slices.Equal(table.Columns, f.Columns) {
			words := []string{op, "rows"}
			for _, c := range f.Columns {
				words = append(words, strconv.Quote(c))
			}
			entries = append(entries, entry{words: words})
		}
		table = &f
		for _, cells := range f.Rows {
			entries = append(entries, rowEntry(op, cells))
		}
	}
	return entries
}

func rowEntry(op string, cells []*string) entry {
	words := []string{op, "row"}
	for _, cell := range cells {
		if cell == nil {
			words = append(words, "NULL")
			continue
		}
		words = append(words, strconv.Quote(*cell))
	}
	return entry{words: words}
}

func plainFrame(op string, f protocol.Frame) entry {
	e := entry{words: []string{op, string(f.Kind)}}
	if f.Kind == protocol.FrameNotice || f.Text != "" {
		e.words = append(e.words, strconv.Quote(f.Text))
	}
	if f.Outcome == nil {
		return e
	}
	e.add("tag", f.Outcome.Tag)
	e.add("code", f.Outcome.Code)
	e.add("error", f.Outcome.Error)
	for _, n := range []struct {
		key   string
		value uint64
	}{{"rows", f.Outcome.Rows}, {"bytes", f.Outcome.Bytes}, {"masked", f.Outcome.Masked}} {
		if n.value != 0 {
			e.add(n.key, fmt.Sprint(n.value))
		}
	}
	return e
}

func newCredential(user, secret string) *credential.Credential {
	return &credential.Credential{Name: "test", Username: user, Secret: credential.NewSecret([]byte(secret))}
}
