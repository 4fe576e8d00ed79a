package protocoltest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// patience is how long a party waits for what its script demands; a lax one
// waits the shorter time and then goes on.
const (
	patience    = 30 * time.Second
	laxPatience = time.Second
)

// party plays the agent or the upstream by a script.
type party struct {
	name   string
	conn   net.Conn
	script []step
	// lax parties follow the script as far as it goes, and complain of nothing.
	lax bool
	// limit ends the party's connection, with the action last, once so many
	// bytes were sent. Negative is no limit.
	limit int
	last  action

	// received is all that the party read.
	received []byte
	// complaint is the first thing that went against the script.
	complaint string
	// ended says that the party saw the end of the other's stream.
	ended bool
}

var (
	errTruncated = errors.New("the limit of bytes is reached")
	errOff       = errors.New("the script was left")
)

// play follows the script to its end, closes the connection and returns.
func (p *party) play() {
	finished := false
	for _, s := range p.script {
		err := p.step(s)
		if errors.Is(err, errTruncated) {
			p.leave()
			return
		}
		if err != nil {
			p.complain(err)
			break
		}
		finished = s.action == hangUp || s.action == abort || s.action == awaitEnd || s.action == awaitReset
	}
	if !finished {
		p.finish()
	}
	// A reset by the other side is not this party's concern.
	_ = p.conn.Close()
}

func (p *party) step(s step) error {
	switch s.action {
	case send:
		return p.send(s.bytes)
	case receive:
		return p.receive(s.bytes)
	case halfClose:
		return closeWrite(p.conn)
	case hangUp:
		return p.conn.Close()
	case abort:
		return resetConn(p.conn)
	case awaitEnd:
		return p.awaitEnd(false)
	default:
		return p.awaitEnd(true)
	}
}

func (p *party) send(b []byte) error {
	if p.limit < 0 {
		return p.write(b)
	}
	if len(b) >= p.limit {
		return errors.Join(errTruncated, p.write(b[:p.limit]))
	}
	p.limit -= len(b)
	return p.write(b)
}

func (p *party) write(b []byte) error {
	if err := p.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, err := p.conn.Write(b); err != nil {
		return fmt.Errorf("send %d bytes: %w", len(b), err)
	}
	return nil
}

// receive reads until want is there, or until what came can't become it.
func (p *party) receive(want []byte) error {
	start := len(p.received)
	for {
		got := p.received[start:]
		if p.lax && len(got) > 0 {
			return nil
		}
		if !bytes.HasPrefix(want, got) {
			return errOff
		}
		if len(got) == len(want) {
			return nil
		}
		limit := len(want) - len(got)
		if p.lax {
			limit = 64 << 10
		}
		err := p.read(limit)
		if p.lax && errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for %d more bytes: %w", len(want)-len(got), err)
		}
	}
}

// read reads once and keeps what it read.
func (p *party) read(limit int) error {
	wait := patience
	if p.lax {
		wait = laxPatience
	}
	if err := p.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	chunk := make([]byte, limit)
	n, err := p.conn.Read(chunk)
	p.received = append(p.received, chunk[:n]...)
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	p.ended = p.ended || isEnd(err)
	return err
}

// awaitEnd reads to the end of the stream, before which nothing may come.
func (p *party) awaitEnd(reset bool) error {
	start := len(p.received)
	var err error
	for err == nil {
		err = p.read(64 << 10)
	}
	switch {
	case len(p.received) > start && !p.lax:
		return errOff
	case !isEnd(err):
		return fmt.Errorf("wait for the end of the stream: %w", err)
	case reset && isTCP(p.conn) && !errors.Is(err, syscall.ECONNRESET):
		return errors.New("the connection ended in order, want a reset")
	}
	return nil
}

// finish is what a party does whose script says nothing about its end.
func (p *party) finish() {
	if p.name == "agent" && p.complaint == "" {
		if err := closeWrite(p.conn); err != nil {
			p.complain(err)
		}
	}
	if err := p.awaitEnd(false); err != nil {
		p.complain(err)
	}
}

// leave ends a truncated party.
func (p *party) leave() {
	p.lax = true
	if p.last == halfClose {
		// The other side may have reset the connection by now.
		_ = closeWrite(p.conn)
		// Truncation judges nothing of what follows.
		_ = p.awaitEnd(false)
	}
	_ = p.conn.Close()
}

func (p *party) complain(err error) {
	if p.complaint == "" && !p.lax {
		p.complaint = fmt.Sprintf("%s: %v", p.name, err)
	}
}

func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// lingerer is a connection that can be reset.
type lingerer interface{ SetLinger(sec int) error }

func isTCP(conn net.Conn) bool {
	_, ok := conn.(lingerer)
	return ok
}

func closeWrite(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func resetConn(conn net.Conn) error {
	if memory, ok := conn.(*end); ok {
		return memory.reset()
	}
	if tcp, ok := conn.(lingerer); ok {
		return errors.Join(tcp.SetLinger(0), conn.Close())
	}
	return errors.ErrUnsupported
}
