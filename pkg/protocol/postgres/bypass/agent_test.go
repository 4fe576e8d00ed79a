package bypass

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

const (
	patience = 30 * time.Second
	pause    = 150 * time.Millisecond // after the last answer that is awaited
)

// tape keeps everything that is read through a connection.
type tape struct {
	net.Conn
	mu    sync.Mutex
	bytes []byte
}

func (t *tape) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mu.Lock()
	t.bytes = append(t.bytes, p[:n]...)
	t.mu.Unlock()
	return n, err //nolint:wrapcheck // it stands for the connection
}

// frame is one message from the other side.
type frame struct {
	typ  byte
	body []byte
}

// agent is one session of an attacker.
type agent struct {
	tape   *tape
	conn   net.Conn // nil once it is over
	pid    uint32
	key    []byte
	parsed int // how much of the tape is in frames
	frames []frame
}

// connect opens a session at addr. A refusal is an answer like others: it is on
// the tape.
func connect(ctx context.Context, addr, database string, startup map[string]string) (*agent, error) {
	config, err := pgconn.ParseConfig(fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", pgtest.Admin, pgtest.AdminPassword, addr, database))
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	a := &agent{}
	for name, value := range startup {
		if name != "raw" {
			config.RuntimeParams[name] = value
		}
	}
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		a.tape = &tape{Conn: conn}
		return a.tape, err //nolint:wrapcheck // it stands for the dialer
	}
	if startup["raw"] != "" {
		a.conn, err = config.DialFunc(ctx, "tcp", addr)
		return a, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		var refused *pgconn.PgError
		if errors.As(err, &refused) {
			a.frames = append(a.frames, frame{'E', []byte("C" + refused.Code + "\x00\x00")})
			a.parsed = len(a.tape.bytes)
			return a, nil
		}
		return a, fmt.Errorf("connect: %w", err)
	}
	h, err := conn.Hijack()
	if err != nil {
		return a, fmt.Errorf("take connection: %w", err)
	}
	a.conn, a.pid, a.key = h.Conn, h.PID, h.SecretKey
	a.parsed = len(a.tape.bytes)
	return a, nil
}

// encode makes the messages of a step. ready is the number of answers that end
// with a ReadyForQuery.
func (s *step) encode(mode string, funcs template.FuncMap) (out []byte, ready int, err error) {
	messages := s.Send
	if messages == nil && !s.Cancel {
		messages = textMessages(s.Text, mode)
	}
	for i := range messages {
		m := &messages[i]
		if m.Query != nil || m.Do == "sync" || m.Call != 0 {
			ready++
		}
		if out, err = m.append(out, funcs); err != nil {
			return nil, 0, err
		}
	}
	if s.Ready != nil {
		ready = *s.Ready
	}
	return out, ready, nil
}

// textMessages are those of a step that is only a text.
func textMessages(text, mode string) []message {
	if mode == "simple" {
		return []message{{Query: &text}}
	}
	empty := ""
	return []message{{Parse: &text}, {Bind: &empty, Formats: []int16{1}}, {Execute: &empty}, {Do: "sync"}}
}

func (m *message) append(out []byte, funcs template.FuncMap) ([]byte, error) {
	var err error
	text := func(s string) string {
		filled, e := fill(s, funcs)
		err = errors.Join(err, e)
		return filled
	}
	var send pgproto3.FrontendMessage
	switch {
	case m.Query != nil:
		send = &pgproto3.Query{String: text(*m.Query)}
	case m.Parse != nil:
		send = &pgproto3.Parse{Name: text(m.Name), Query: text(*m.Parse)}
	case m.Bind != nil:
		bind := &pgproto3.Bind{PreparedStatement: text(*m.Bind), DestinationPortal: text(m.Portal), ResultFormatCodes: m.Formats}
		for _, arg := range m.Args {
			bind.Parameters = append(bind.Parameters, []byte(text(arg)))
		}
		send = bind
	case m.Execute != nil:
		send = &pgproto3.Execute{Portal: text(*m.Execute), MaxRows: m.Rows}
	case m.Describe != "":
		send = &pgproto3.Describe{ObjectType: m.Describe[0], Name: text(m.Name)}
	case m.Close != "":
		send = &pgproto3.Close{ObjectType: m.Close[0], Name: text(m.Name)}
	case m.Data != nil:
		send = &pgproto3.CopyData{Data: []byte(text(*m.Data))}
	case m.Fail != nil:
		send = &pgproto3.CopyFail{Message: text(*m.Fail)}
	case m.Call != 0:
		send = m.call(text)
	case m.Raw != "":
		raw, e := hex.DecodeString(strings.ReplaceAll(m.Raw, " ", ""))
		return append(out, raw...), errors.Join(err, e)
	default:
		if send = signals[m.Do]; send == nil {
			return nil, fmt.Errorf("a message that is none: %+v", *m)
		}
	}
	out, e := send.Encode(out)
	return out, errors.Join(err, e)
}

func (m *message) call(text func(string) string) *pgproto3.FunctionCall {
	call := &pgproto3.FunctionCall{Function: m.Call}
	for _, arg := range m.Args {
		call.Arguments = append(call.Arguments, []byte(text(arg)))
	}
	return call
}

var signals = map[string]pgproto3.FrontendMessage{
	"sync": &pgproto3.Sync{}, "flush": &pgproto3.Flush{}, "done": &pgproto3.CopyDone{}, "terminate": &pgproto3.Terminate{},
}

// run sends a step and reads what comes back.
func (a *agent) run(out []byte, ready int) error {
	if a.conn == nil {
		return nil
	}
	sent := make(chan error, 1)
	go func() {
		_, err := a.conn.Write(out)
		sent <- err
	}()
	err := a.await(ready)
	if err != nil || a.conn == nil {
		return err
	}
	select {
	case err = <-sent:
	case <-time.After(patience):
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return fmt.Errorf("send step: %w", err)
	}
	return nil
}

// await reads up to so many ReadyForQuery. With none to await it reads until
// nothing comes for a while.
func (a *agent) await(ready int) error {
	buffer := make([]byte, 1<<16)
	wait := patience
	if ready == 0 {
		wait = pause
	}
	for {
		if err := a.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		_, err := a.conn.Read(buffer)
		if n := a.parse(); n > 0 {
			ready -= n
			if ready <= 0 {
				return nil
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && ready == 0:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("await answer: %w", err)
		case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "reset by peer"):
			a.end()
			return nil
		default:
			return fmt.Errorf("read answer: %w", err)
		}
	}
}

// parse takes whole messages from the tape, and counts ReadyForQuery.
func (a *agent) parse() (ready int) {
	a.tape.mu.Lock()
	defer a.tape.mu.Unlock()
	for {
		rest := a.tape.bytes[a.parsed:]
		if len(rest) < 5 {
			return ready
		}
		size := int(binary.BigEndian.Uint32(rest[1:])) + 1
		if size < 5 || size > len(rest) {
			return ready
		}
		a.frames = append(a.frames, frame{rest[0], rest[5:size]})
		if rest[0] == 'Z' {
			ready++
		}
		a.parsed += size
	}
}

// end closes the session, politely if it is still there.
func (a *agent) end() {
	if a.conn == nil {
		return
	}
	out, err := (&pgproto3.Terminate{}).Encode(nil)
	if err == nil {
		_, _ = a.conn.Write(out) // it may be over
	}
	_ = a.conn.Close()
	a.conn = nil
}

// cancel sends a CancelRequest for the session, over a connection of its own.
func (a *agent) cancel(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("connect to cancel: %w", err)
	}
	defer conn.Close()
	out := binary.BigEndian.AppendUint32(nil, uint32(12+len(a.key)))
	out = binary.BigEndian.AppendUint32(out, 80877102)
	out = binary.BigEndian.AppendUint32(out, a.pid)
	if _, err := conn.Write(append(out, a.key...)); err != nil {
		return fmt.Errorf("send cancel request: %w", err)
	}
	_, _ = io.Copy(io.Discard, conn) // it ends when the request was taken
	return nil
}
