package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/record"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestNothingGoesToTheTargetBeforeItsDecisionIsOnDisk(t *testing.T) {
	s := &session{gateway: &Gateway{}} // its audit log settles nothing
	ours, target := net.Pipe()
	conn := &counted{Conn: ours, up: &s.up, down: &s.down, settle: s.settle}
	heard := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(target) // what there was until the end
		heard <- string(b)
	}()
	if _, err := conn.Write([]byte("before ")); err != nil {
		t.Errorf("without a decision: %v", err)
	}
	s.announced.Store(1)
	n, err := conn.Write([]byte("behind"))
	var denial *protocol.Denial
	if n != 0 || !errors.As(err, &denial) || denial.Reason != protocol.ReasonAudit {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if got := <-heard; got != "before " || s.up.Load() != int64(len(got)) {
		t.Errorf("the target got %q, %d bytes were counted", got, s.up.Load())
	}
}

// TestDecisionsOfOneFlightAreSettledTogether counts what a session of several
// decisions leaves to be settled, and when.
func TestDecisionsOfOneFlightAreSettledTogether(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	read := func() policy.Operation { return policy.Operation{Verb: "read", Effects: []string{"read"}} }
	r := newRig(t, nil)
	log, err := audit.OpenLog(filepath.Join(r.state, "strict"), audit.Options{Durability: record.Sync})
	if err != nil {
		t.Fatal(err)
	}
	r.state, r.Audit = filepath.Join(r.state, "strict"), log
	defer log.Close()
	target := listener.Addr().String()
	file, err := policy.Parse("test.yaml", []byte(strings.ReplaceAll(testPolicy, "192.0.2.1:7000", target)))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(1, file)
	if err != nil {
		t.Fatal(err)
	}
	r.Engine = func() *policy.Engine { return engine }
	agent, down := net.Pipe()
	defer agent.Close()
	s := r.open(transparent.NewConn(down, originTo(target)), func(error) {})
	s.proto, s.agent = line{}, "ci"
	decide := func() {
		op := read()
		if _, err := s.Decide(t.Context(), &op); err != nil {
			t.Fatal(err)
		}
	}
	decide()
	if got := s.announced.Load(); got != 0 {
		t.Errorf("without a connection to the target, event %d was announced only", got)
	}
	conn, err := s.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	decide()
	decide()
	if announced, settled := s.announced.Load(), s.settled.Load(); announced == 0 || settled != 0 {
		t.Errorf("before anything goes to the target, %d is announced and %d settled", announced, settled)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if announced, settled := s.announced.Load(), s.settled.Load(); announced != settled {
		t.Errorf("when something went to the target, %d was announced and %d settled", announced, settled)
	}
	before := s.settled.Load()
	if err := s.reassess(t.Context()); err != nil {
		t.Fatal(err)
	}
	if announced, settled := s.announced.Load(), s.settled.Load(); announced == before || announced != settled {
		t.Errorf("after a new policy, %d is announced and %d settled", announced, settled)
	}
}
