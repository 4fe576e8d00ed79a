package protocoltest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/headgate/headgate/pkg/protocol"
)

// Run plays every conversation in the folder dir and checks what the package
// comment lists. It fails if there is none. newProtocol returns a new value for
// each playing; it is called outside of simulated time.
func Run(t *testing.T, newProtocol func() protocol.Protocol, codec Codec, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("find conversations in %s: there are none (%v)", dir, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatalf("read conversation: %v", err)
			}
			c, err := parse(archive, codec)
			if err != nil {
				t.Fatalf("parse conversation %s: %v", name, err)
			}
			(&suite{newProtocol: newProtocol, codec: codec, c: c}).run(t)
		})
	}
	t.Run("TestDetectBounded", func(t *testing.T) { checkEndless(t, newProtocol()) })
}

// suite is all that is checked of one conversation.
type suite struct {
	newProtocol func() protocol.Protocol
	codec       Codec
	c           *conversation
}

func (s *suite) run(t *testing.T) {
	whole := s.whole(t)
	if t.Failed() {
		return // all else would only say it again
	}
	t.Run("Loopback", s.loopback)
	t.Run("TestFragmentation", func(t *testing.T) { s.fragmentation(t, whole) })
	t.Run("TestTruncation", s.truncation)
	t.Run("TestDetectConsumesNothing", s.detectConsumesNothing)
	t.Run("TestDetectBounded", s.detectBounded)
	t.Run("TestZeroValueDenies", s.zeroValueDenies)
}

func (s *suite) whole(t *testing.T) *outcome {
	out := playInBubble(t, s.newProtocol(), s.c, mode{})
	s.check(t, out)
	return out
}

// check compares an outcome with the conversation.
func (s *suite) check(t *testing.T, out *outcome) {
	t.Helper()
	for _, b := range out.broken {
		t.Error(b)
	}
	if out.agent == nil {
		return
	}
	s.compare(t, "operations", s.c.operations, out.operations)
	if s.c.frames != nil {
		s.compare(t, "frames", s.c.frames, out.frames)
	}
	wantDown, wantUp := total(s.c.agent, receive), total(s.c.upstream, receive)
	if got := out.agent.received; !bytes.Equal(wantDown, got) {
		t.Errorf("the agent read something else (-want +got):\n%s", diff(s.codec.Decode(wantDown), s.codec.Decode(got)))
	}
	if got := out.upstream.received; !bytes.Equal(wantUp, got) {
		t.Errorf("the upstream read something else (-want +got):\n%s", diff(decodeUp(s.codec, wantUp), decodeUp(s.codec, got)))
	}
	for _, p := range []*party{out.agent, out.upstream} {
		if p.complaint != "" {
			t.Error(p.complaint)
		}
	}
	switch {
	case s.c.upstream == nil && out.dials > 0:
		t.Errorf("it dialled, but the conversation has no upstream")
	case s.c.upstream != nil && out.dials == 0:
		t.Errorf("it did not dial, but the conversation has an upstream")
	case out.dials > 1:
		t.Errorf("it dialled %d times, want once", out.dials)
	}
}

func (s *suite) compare(t *testing.T, what string, want, got []entry) {
	t.Helper()
	wanted, had := lines(want, got)
	if !cmp.Equal(wanted, had) {
		t.Errorf("other %s (-want +got):\n%s", what, diff(wanted, had))
	}
}

// diff never says that there is no difference: two byte strings may differ
// although a codec shows them alike.
func diff(want, got []string) string {
	if d := cmp.Diff(want, got); d != "" {
		return d
	}
	return fmt.Sprintf("(only in what the codec does not show)\n%s", strings.Join(got, "\n"))
}

func (s *suite) fragmentation(t *testing.T, whole *outcome) {
	cuts := map[string]func(int) int{"one byte": func(int) int { return 1 }}
	for seed := range uint64(8) {
		cuts[fmt.Sprintf("random cuts, seed %d", seed)] = randomCut(seed)
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			out := playInBubble(t, s.newProtocol(), s.c, mode{cut: cut})
			s.check(t, out)
			if d := cmp.Diff(texts(whole.operations), texts(out.operations)); d != "" {
				t.Errorf("other operations than in one piece (-whole +cut):\n%s", d)
			}
			if d := cmp.Diff(texts(whole.frames), texts(out.frames)); d != "" {
				t.Errorf("other frames than in one piece (-whole +cut):\n%s", d)
			}
		})
	}
}

// randomCut may be asked by both sides of a session at once.
func randomCut(seed uint64) func(int) int {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, seed))
	return func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return 1 + random.IntN(n)
	}
}

func texts(entries []entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.String())
	}
	return out
}

// stride leaves out offsets of long conversations in short mode.
func stride(n int) int {
	if testing.Short() {
		return 1 + n/64
	}
	return 1 + n/2048
}

func (s *suite) truncation(t *testing.T) {
	for name, truncated := range map[string]truncation{"agent": truncateAgent, "upstream": truncateUpstream} {
		script := s.c.agent
		if truncated == truncateUpstream {
			script = s.c.upstream
		}
		sent := len(total(script, send))
		for _, last := range []action{halfClose, hangUp} {
			for limit := 0; limit < sent && !t.Failed(); limit += stride(sent) {
				out := playInBubble(t, s.newProtocol(), s.c, mode{truncate: truncated, limit: limit, last: last})
				for _, b := range out.broken {
					t.Errorf("%s ends after %d bytes: %s", name, limit, b)
				}
				if err := s.allowedPrefix(out.upstream.received); err != nil {
					t.Errorf("%s ends after %d bytes: %v", name, limit, err)
				}
			}
		}
	}
}

// allowedPrefix checks that the upstream received nothing that it doesn't
// receive in the whole conversation.
func (s *suite) allowedPrefix(got []byte) error {
	want := total(s.c.upstream, receive)
	if bytes.HasPrefix(want, got) {
		return nil
	}
	if f, ok := s.codec.(Farewell); ok {
		if rest, cut := bytes.CutSuffix(got, f.Farewell()); cut && bytes.HasPrefix(want, rest) {
			return nil
		}
	}
	return fmt.Errorf("the upstream received what it never receives otherwise (-otherwise +now):\n%s",
		diff(decodeUp(s.codec, want), decodeUp(s.codec, got)))
}

func (s *suite) zeroValueDenies(t *testing.T) {
	t.Run("operations", func(t *testing.T) {
		if s.c.settings.observe || len(s.c.operations) == 0 {
			return // nothing but the connection is decided in this conversation
		}
		out := playInBubble(t, s.newProtocol(), s.c, mode{denyAll: true})
		for _, b := range out.broken {
			t.Error(b)
		}
		if err := s.inspect(out.upstream.received); err != nil {
			t.Errorf("every operation is denied, but %v:\n%s", err,
				strings.Join(decodeUp(s.codec, out.upstream.received), "\n"))
		}
	})
	t.Run("connection", func(t *testing.T) { s.refuse(t) })
}

func (s *suite) inspect(up []byte) error {
	if i, ok := s.codec.(Inspector); ok {
		return i.Inspect(up)
	}
	if len(up) > 0 {
		return fmt.Errorf("the upstream received %d bytes", len(up))
	}
	return nil
}

// refuse checks Refuse, also at one byte per read.
func (s *suite) refuse(t *testing.T) {
	for name, cut := range map[string]func(int) int{"whole": nil, "one byte": func(int) int { return 1 }} {
		t.Run(name, func(t *testing.T) {
			out := playInBubble(t, s.newProtocol(), s.c, mode{refuse: true, cut: cut})
			for _, b := range out.broken {
				t.Error(b)
			}
			if out.dials > 0 {
				t.Error("Refuse dialled")
			}
			if len(out.operations) > 0 {
				t.Error("Refuse asked for a decision, and there has been one")
			}
			if len(out.agent.received) == 0 && !out.hungUp {
				t.Error("Refuse neither said anything nor ended the connection")
			}
			if want := s.c.refusal; want != nil && !bytes.Equal(want, out.agent.received) {
				t.Errorf("another refusal (-want +got):\n%s", diff(s.codec.Decode(want), s.codec.Decode(out.agent.received)))
			}
		})
	}
}
