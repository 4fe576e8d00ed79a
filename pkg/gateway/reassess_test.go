package gateway

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

func compile(t *testing.T, generation uint64, text string) *policy.Engine {
	t.Helper()
	file, err := policy.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(generation, file)
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// Sessions that only relay bytes never ask again: a new policy has to reach them.
func TestNewPolicyEndsSessionsThatItDoesNotLetExist(t *testing.T) {
	observing := strings.Replace(testPolicy, "mode: enforce", "mode: observe", 1)
	observing = strings.Replace(observing, "- {name: reads, effect: allow, ", "- {name: reads, effect: allow, mode: observe, ", 1)
	observing = strings.Replace(observing, "- {name: no-drops, effect: deny, ", "- {name: no-drops, effect: deny, mode: observe, ", 1)
	for name, c := range map[string]struct {
		before, after string
		ends          string // the reason; "" if it goes on
	}{
		"the same policy":      {testPolicy, testPolicy, ""},
		"access is taken away": {testPolicy, strings.Replace(testPolicy, "effect: allow", "effect: deny", 1), policy.ReasonUnmatched},
		"observe to enforce":   {observing, testPolicy, reasonPolicyChanged},
	} {
		t.Run(name, func(t *testing.T) {
			started := make(chan struct{})
			finish := make(chan struct{})
			r := newRig(t, func(ctx context.Context, _ *protocol.Session) error {
				close(started)
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-finish:
					return nil
				}
			})
			engine := compile(t, 1, c.before)
			r.Engine = func() *policy.Engine { return engine }
			_, down := net.Pipe()
			done := make(chan error, 1)
			go func() { done <- r.serve(t.Context(), transparent.NewConn(down, originTo("192.0.2.1:7000"))) }()
			<-started
			next := compile(t, 2, c.after)
			r.Engine = func() *policy.Engine { return next }
			r.Reassess(t.Context())
			if c.ends == "" {
				close(finish)
			}
			err := <-done
			var denial *protocol.Denial
			if c.ends == "" && err != nil || c.ends != "" && (!errors.As(err, &denial) || denial.Reason != c.ends) {
				t.Errorf("the session ended with %v, want reason %q", err, c.ends)
			}
		})
	}
}

// One tree must not use up the sessions that all trees share.
func TestOneTreeCantTakeEverySession(t *testing.T) {
	r := newRig(t, nil)
	r.Limits.Sessions, r.Limits.PerTree = 3, 2
	greedy := &transparent.Origin{Root: agentID, Netns: 1}
	modest := &transparent.Origin{Root: process.ID{PID: agentID.PID + 1, Start: 1}, Netns: 2}
	got := []bool{r.take(greedy), r.take(greedy), r.take(greedy), r.take(modest), r.take(modest)}
	for i, want := range []bool{true, true, false, true, false} {
		if got[i] != want {
			t.Errorf("connection %d: accepted=%v, want %v", i, got[i], want)
		}
	}
	if got := [...]int{r.SessionsIn(1), r.SessionsIn(2), r.SessionsIn(3)}; got != [...]int{2, 1, 0} {
		t.Errorf("sessions by namespace: %v", got)
	}
	r.giveBack(greedy)
	if !r.take(greedy) || r.Sessions() != 3 {
		t.Errorf("after one ended: %d sessions", r.Sessions())
	}
	for range 2 {
		r.giveBack(greedy)
	}
	r.giveBack(modest)
	if r.Sessions() != 0 || len(r.trees) != 0 || len(r.spaces) != 0 {
		t.Errorf("%d sessions of %d trees in %d namespaces left", r.Sessions(), len(r.trees), len(r.spaces))
	}
}

// The daemon must come to its end even if a session doesn't.
func TestDrainDoesNotWaitForEver(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	r := newRig(t, func(context.Context, *protocol.Session) error { <-never; return nil })
	r.Limits.Drain = time.Millisecond
	q := newQueue()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, q) }()
	_, down := net.Pipe()
	q.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
	stop()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
