package protocoltest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

func (s *suite) detectBounded(t *testing.T) {
	p, opening := s.newProtocol(), s.c.opening()
	before := protocol.More
	for n := 1; n <= len(opening); n++ {
		before = checkMatch(t, p, opening[:n], before)
	}
	if want := s.c.detect; want != nil && before != *want {
		t.Errorf("Match of the opening is %q, want %q", matchWord(before), matchWord(*want))
	}
	for _, tail := range tails {
		full := append(bytes.Clone(opening), tail.bytes(transparent.MaxPeek)...)[:max(transparent.MaxPeek, len(opening))]
		if got := p.Match(full[:transparent.MaxPeek]); got == protocol.More {
			t.Errorf("Match is more at transparent.MaxPeek bytes of the opening followed by %s", tail.name)
		}
	}
}

// checkMatch checks one answer against the one for a shorter prefix.
func checkMatch(t *testing.T, p protocol.Protocol, prefix []byte, before protocol.Match) protocol.Match {
	t.Helper()
	given := bytes.Clone(prefix)
	got := p.Match(given)
	if !bytes.Equal(given, prefix) {
		t.Errorf("Match changed the prefix of %d bytes", len(prefix))
	}
	if again := p.Match(given); again != got {
		t.Errorf("Match of %d bytes is first %q and then %q", len(prefix), matchWord(got), matchWord(again))
	}
	if before != protocol.More && got != before {
		t.Errorf("Match of %d bytes is %q after it was %q for fewer", len(prefix), matchWord(got), matchWord(before))
	}
	if got == protocol.More && len(prefix) >= transparent.MaxPeek {
		t.Errorf("Match of %d bytes is still more", len(prefix))
	}
	return got
}

func (s *suite) detectConsumesNothing(t *testing.T) {
	opening := s.c.opening()
	for name, cut := range map[string]func(int) int{
		"whole":    func(n int) int { return n },
		"one byte": func(int) int { return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			inner, outer := newPipe(cut, nil, nil)
			if _, err := outer.Write(opening); err != nil {
				t.Fatal(err)
			}
			if err := outer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			conn := transparent.NewConn(inner, transparent.Origin{})
			// What was found is the business of other tests.
			_, _ = protocol.Detect(t.Context(), conn, []protocol.Protocol{s.newProtocol()}, time.Minute)
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(opening, got) {
				t.Errorf("after Detect %d bytes of %d are left (%v), or they are others", len(got), len(opening), err)
			}
		})
	}
}

// tail is a source of bytes that never ends.
type tail struct {
	name string
	next func(i int) byte
}

func (t tail) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = t.next(i)
	}
	return b
}

var tails = []tail{
	{"zeros", func(int) byte { return 0 }},
	{"ones", func(int) byte { return 0xff }},
	{"letters", func(int) byte { return 'a' }},
	{"spaces", func(int) byte { return ' ' }},
	{"line feeds", func(int) byte { return '\n' }},
	{"counting", func(i int) byte { return byte(i) }},
}

// endless is a connection on which the agent never stops to send.
type endless struct {
	net.Conn
	tail tail
	read int
	step int
}

func (e *endless) Read(p []byte) (int, error) {
	n := min(len(p), e.step)
	for i := range p[:n] {
		p[i] = e.tail.next(e.read)
		e.read++
	}
	return n, nil
}

func (e *endless) SetReadDeadline(time.Time) error { return nil }

// checkEndless checks that detection ends, by its bound and not by a clock.
func checkEndless(t *testing.T, p protocol.Protocol) {
	for _, tail := range tails {
		for _, step := range []int{1, transparent.MaxPeek} {
			t.Run(fmt.Sprintf("%s, %d at a time", tail.name, step), func(t *testing.T) {
				before := protocol.More
				all := tail.bytes(transparent.MaxPeek)
				for n := 1; n <= len(all); n += 1 + n/16 {
					before = checkMatch(t, p, all[:n], before)
				}
				source := &endless{tail: tail, step: step}
				conn := transparent.NewConn(source, transparent.Origin{})
				// Whether it was recognised doesn't matter, only that it ends.
				_, _ = protocol.Detect(t.Context(), conn, []protocol.Protocol{p}, time.Hour)
				if source.read > transparent.MaxPeek {
					t.Errorf("Detect read %d bytes, more than transparent.MaxPeek", source.read)
				}
			})
		}
	}
}
