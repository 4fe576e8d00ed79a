package protocoltest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/protocoltest"
)

// echo is a language of lines: "?" asks and "!" changes, and every line has one
// line as its answer. Its faults are what the suite must find.
type echo struct{ fault string }

func (*echo) Name() string { return "echo" }

func (*echo) Operations() []string { return nil }

func (e *echo) Match(prefix []byte) protocol.Match {
	switch {
	case e.fault == "match wants more for ever":
		return protocol.More
	case e.fault == "match writes":
		prefix[0]++
		return protocol.No
	case e.fault == "match changes its mind" && len(prefix) == 2:
		return protocol.No
	case prefix[0] == '?' || prefix[0] == '!':
		return protocol.Yes
	}
	return protocol.No
}

func (e *echo) Refuse(ctx context.Context, s *protocol.Session, d *protocol.Denial) error {
	switch e.fault {
	case "refuse dials":
		conn, err := s.Dial(ctx)
		return errors.Join(err, conn.Close())
	case "refuse says nothing":
		return nil
	}
	_, err := fmt.Fprintf(s.Downstream, "-%s\n", d.Summary())
	return err
}

func (e *echo) Serve(ctx context.Context, s *protocol.Session) error {
	up, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	if e.fault != "upstream stays open" {
		defer func() { _ = up.Close() }()
	}
	if e.fault == "goroutine stays" {
		go func() { <-make(chan int) }()
	}
	down, answers := bufio.NewReader(s.Downstream), bufio.NewReader(up)
	for {
		line, err := e.readLine(down)
		if err != nil {
			if errors.Is(err, io.EOF) && e.fault != "never returns" {
				return nil
			}
			if e.fault == "never returns" {
				select {}
			}
			return err
		}
		if err := e.exchange(ctx, s, up, answers, line); err != nil {
			return err
		}
	}
}

func (e *echo) readLine(r *bufio.Reader) (string, error) {
	if e.fault != "trusts one read" {
		line, err := r.ReadString('\n')
		if err != nil && e.fault == "completes what is cut" && line != "" {
			return line + "\n", nil
		}
		return line, err
	}
	chunk := make([]byte, 3)
	n, err := io.ReadAtLeast(r, chunk, 1)
	return string(chunk[:n]), err
}

func (e *echo) exchange(ctx context.Context, s *protocol.Session, up net.Conn, answers *bufio.Reader, line string) error {
	if e.fault == "panics on a cut answer" {
		defer func() {}()
	}
	verb := map[byte]string{'?': "ask", '!': "change"}[line[0]]
	if verb == "" {
		verb = policy.Unknown
	}
	op := &policy.Operation{Protocol: "echo", Verb: verb, Effects: []string{verb}, Text: strings.TrimSpace(line)}
	ruling, err := s.Decide(ctx, op)
	if err != nil && e.fault != "ignores denials" {
		_, err := fmt.Fprintf(s.Downstream, "-%s\n", protocol.AsDenial(err, s.ID).Summary())
		return err
	}
	if _, err := io.WriteString(up, line); err != nil {
		return err
	}
	answer, err := answers.ReadString('\n')
	if err != nil {
		if e.fault == "panics on a cut answer" {
			_ = answer[len(answer)+1]
		}
		return err
	}
	if err := s.Record(protocol.Frame{Op: ruling.ID, Kind: protocol.FrameNotice, Text: strings.TrimSpace(answer)}); err != nil {
		return err
	}
	if e.fault == "loses the last byte" {
		answer = answer[:len(answer)-1]
	}
	_, err = io.WriteString(s.Downstream, answer)
	return err
}

func TestSuiteAcceptsACorrectProtocol(t *testing.T) {
	protocoltest.Run(t, func() protocol.Protocol { return &echo{} }, protocoltest.Quoted, "testdata")
}

// faults are the ways in which echo can be wrong, and a part of what the suite
// says about each.
var faults = map[string]string{
	"match wants more for ever": "Match is more at transparent.MaxPeek",
	"match writes":              "Match changed the prefix",
	"match changes its mind":    "after it was",
	"refuse dials":              "Refuse dialled",
	"refuse says nothing":       "neither said anything nor ended",
	"upstream stays open":       "whoever dials closes",
	"goroutine stays":           "goroutines are left behind",
	"never returns":             "it did not return",
	"trusts one read":           "other operations",
	"completes what is cut":     "never receives otherwise",
	"panics on a cut answer":    "panic: ",
	"ignores denials":           "the upstream read something else",
	"loses the last byte":       "the agent read something else",
}

// TestSuiteFindsEveryFault runs the suite in a process of its own for each
// fault, because there it must fail.
func TestSuiteFindsEveryFault(t *testing.T) {
	const variable = "PROTOCOLTEST_FAULT"
	if fault := os.Getenv(variable); fault != "" {
		protocoltest.Run(t, func() protocol.Protocol { return &echo{fault} }, protocoltest.Quoted, "testdata")
		return
	}
	for fault, want := range faults {
		t.Run(fault, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSuiteFindsEveryFault$", "-test.short")
			cmd.Env = append(os.Environ(), variable+"="+fault)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("the suite passed (%v):\n%s", err, out)
			}
			if !bytes.Contains(out, []byte(want)) {
				t.Errorf("the suite failed without saying %q:\n%s", want, out)
			}
		})
	}
}
