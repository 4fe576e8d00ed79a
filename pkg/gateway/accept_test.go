package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/record"
	"github.com/headgate/headgate/pkg/transparent"
)

// account reads what the audit log says of connections: those that are whole
// sessions by the reason of their end, and the summaries.
func (r *rig) account() (ends map[string]int, refused []audit.Refused) {
	r.t.Helper()
	list, err := audit.Sessions(r.state, audit.Filter{})
	if err != nil {
		r.t.Fatal(err)
	}
	ends = map[string]int{}
	for _, s := range list {
		if s.End == nil {
			r.t.Errorf("session %s has no end", s.ID)
			continue
		}
		ends[s.End.Reason]++
	}
	report, err := audit.Verify(r.state)
	if err != nil || !report.OK() {
		r.t.Errorf("the record: %+v (%v)", report, err)
	}
	for e, err := range record.Read(r.state + "/audit") {
		if err != nil {
			r.t.Fatal(err)
		}
		if e.Kind == audit.KindRefused {
			var one audit.Refused
			if err := json.Unmarshal(e.Body, &one); err != nil {
				r.t.Fatal(err)
			}
			refused = append(refused, one)
		}
	}
	return ends, refused
}

// serving runs Serve until the returned function is called, which waits for it.
func (r *rig) serving(l Accepter) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Serve: %v", err)
		}
	})
}

// A flood at the limit must neither be unheard of nor fill the disk.
func TestEveryAcceptedConnectionIsAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, func(context.Context, *protocol.Session) error {
			<-release
			return nil
		})
		r.Limits.Sessions = 1
		q := newQueue()
		stop := r.serving(q)
		const flood = 100
		for range flood {
			_, down := net.Pipe()
			q.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
		}
		synctest.Wait()
		close(release)
		stop()
		ends, refused := r.account()
		if ends[endDone] != 1 || ends[endLimit] != refusalsPerTree || len(ends) != 2 {
			t.Errorf("sessions in the record by their end: %v", ends)
		}
		want := []audit.Refused{{Agent: "ci", Root: agentID, Reason: endLimit, Count: flood - 1 - refusalsPerTree}}
		if diff := cmp.Diff(want, refused); diff != "" {
			t.Errorf("summaries (-want +got):\n%s", diff)
		}
		if r.Accepted() != flood || r.Unrecorded() != 0 {
			t.Errorf("%d accepted and %d unrecorded of %d", r.Accepted(), r.Unrecorded(), flood)
		}
	})
}

// Trees are not bounded by an agent's good will either.
func TestRefusalsOfManyTreesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.Limits.Sessions = -1
		const trees = 3 * refusalTrees
		var running sync.WaitGroup
		for i := range trees {
			_, down := net.Pipe()
			origin := originTo("192.0.2.1:7000")
			origin.Root = process.ID{PID: uint32(1000 + i), Start: 1}
			r.start(t.Context(), &running, transparent.NewConn(down, origin))
		}
		r.refusals.flush(r.Gateway)
		ends, refused := r.account()
		var more uint64
		for _, one := range refused {
			more += one.Count
		}
		if ends[endLimit] != refusalsPerPeriod || len(refused) > refusalTrees+1 || uint64(ends[endLimit])+more != trees {
			t.Errorf("%d sessions and %d in %d summaries of %d refusals", ends[endLimit], more, len(refused), trees)
		}
	})
}

// A summary must come although nothing else happens, and then it starts anew.
func TestSummaryOfRefusalsComesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.Limits.Sessions = -1
		var running sync.WaitGroup
		for range 2 {
			for range refusalsPerTree + 3 {
				_, down := net.Pipe()
				r.start(t.Context(), &running, transparent.NewConn(down, originTo("192.0.2.1:7000")))
			}
			<-time.After(refusalPeriod)
			synctest.Wait()
		}
		ends, refused := r.account()
		if ends[endLimit] != 2*refusalsPerTree || len(refused) != 2 || refused[0].Count != 3 || refused[1].Count != 3 {
			t.Errorf("%d sessions and summaries %+v", ends[endLimit], refused)
		}
	})
}

func TestWhatCantBeRecordedIsCounted(t *testing.T) {
	r := newRig(t, func(context.Context, *protocol.Session) error {
		t.Error("the connection was served")
		return nil
	})
	if err := r.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	q := newQueue()
	stop := r.serving(q)
	for i := range 10 {
		if i == 5 {
			stop()
			r.Limits.Sessions = -1
			stop = r.serving(q)
		}
		_, down := net.Pipe()
		q.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
	}
	for range refusalsPerTree {
		_, down := net.Pipe()
		q.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
	}
	stop()
	if r.Accepted() != 15 || r.Unrecorded() != 15 {
		t.Errorf("%d accepted, %d unrecorded, want 15 each", r.Accepted(), r.Unrecorded())
	}
}

func TestSessionThatLosesTheRecordIsCounted(t *testing.T) {
	var r *rig
	r = newRig(t, func(context.Context, *protocol.Session) error { return r.Audit.Close() })
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err == nil || r.Unrecorded() != 1 {
		t.Errorf("ended with %v, %d unrecorded", err, r.Unrecorded())
	}
}

// known is a source of origins that knows everybody.
type known struct{}

func (known) Origin(syscall.Conn) (transparent.Origin, error) {
	return originTo("192.0.2.1:7000"), nil
}

func listenTCP(t *testing.T) *transparent.Listener {
	t.Helper()
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := transparent.NewListener(tcp, known{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func greet(_ context.Context, s *protocol.Session) error {
	_, err := io.WriteString(s.Downstream, "served")
	return err
}

// ask connects and returns what the agent hears until the end.
func ask(l *transparent.Listener) (string, error) {
	c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	heard, err := io.ReadAll(c)
	return string(heard), err
}

// In a live restart agents wait, and lose nothing.
func TestConnectionBetweenTwoServesIsServedByTheSecond(t *testing.T) {
	r := newRig(t, greet)
	l := listenTCP(t)
	stop := r.serving(l)
	if heard, err := ask(l); heard != "served" {
		t.Fatalf("before: heard %q (%v)", heard, err)
	}
	stop()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("between: %v", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	stop = r.serving(l)
	defer stop()
	if heard, err := io.ReadAll(c); err != nil || string(heard) != "served" {
		t.Errorf("after: heard %q (%v)", heard, err)
	}
}

func TestNoConnectionIsLostInManyRestarts(t *testing.T) {
	r := newRig(t, greet)
	l := listenTCP(t)
	var agents sync.WaitGroup
	var asked atomic.Int64
	for range 4 {
		agents.Go(func() {
			for range 50 {
				if heard, err := ask(l); heard != "served" {
					t.Errorf("heard %q (%v)", heard, err)
				}
				asked.Add(1)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		agents.Wait()
	}()
	for running := true; running; {
		before := asked.Load()
		stop := r.serving(l)
		for running && asked.Load() < before+10 {
			select {
			case <-over:
				running = false
			case <-time.After(time.Millisecond):
			}
		}
		stop()
	}
	ends, _ := r.account()
	if ends[endDone] != 200 || r.Accepted() != 200 {
		t.Errorf("%d accepted, in the record by their end: %v", r.Accepted(), ends)
	}
}

// last yields one connection when it is interrupted.
type last struct {
	conn chan *transparent.Conn
	over chan struct{}
}

func (l *last) Accept() (*transparent.Conn, error) {
	<-l.over
	select {
	case c := <-l.conn:
		return c, nil
	default:
		return nil, os.ErrDeadlineExceeded
	}
}

func (l *last) SetDeadline(t time.Time) error {
	if !t.IsZero() {
		close(l.over)
	}
	return nil
}

func TestConnectionAcceptedAtTheEndIsServed(t *testing.T) {
	r := newRig(t, greet)
	agent, down := net.Pipe()
	l := &last{conn: make(chan *transparent.Conn, 1), over: make(chan struct{})}
	l.conn <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
	stop := r.serving(l)
	if err := agent.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string)
	go func() {
		b, _ := io.ReadAll(agent)
		heard <- string(b)
	}()
	stop()
	if got := <-heard; got != "served" {
		t.Errorf("the agent heard %q", got)
	}
}

// hesitant takes a moment to be interrupted, and fails meanwhile.
type hesitant struct {
	ended       <-chan struct{}
	interrupted atomic.Bool
}

func (h *hesitant) Accept() (*transparent.Conn, error) {
	<-h.ended
	return nil, errors.New("something else")
}

func (h *hesitant) SetDeadline(t time.Time) error {
	if !t.IsZero() {
		<-time.After(time.Second)
		h.interrupted.Store(true)
	}
	return nil
}

// The next one who serves the listener must not be interrupted by the end of
// the one before.
func TestInterruptionIsOverWhenServeIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, greet)
		ctx, cancel := context.WithCancel(t.Context())
		l := &hesitant{ended: ctx.Done()}
		done := make(chan error, 1)
		go func() { done <- r.Serve(ctx, l) }()
		cancel()
		err := <-done
		before := l.interrupted.Load() // it may not have come to an interruption at all
		<-time.After(time.Minute)
		if err != nil || l.interrupted.Load() != before {
			t.Errorf("Serve returned %v, and was interrupted behind that", err)
		}
	})
}

func TestServeTellsThatItsListenerWasClosed(t *testing.T) {
	r := newRig(t, greet)
	l := listenTCP(t)
	done := make(chan error, 1)
	go func() { done <- r.Serve(t.Context(), l) }()
	if heard, err := ask(l); heard != "served" {
		t.Fatalf("heard %q (%v)", heard, err)
	}
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

// One listener's end, as of a container's, is not that of the others' sessions.
func TestEndOfOneListenerLeavesTheOthersAlone(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{})
	r := newRig(t, func(ctx context.Context, _ *protocol.Session) error {
		close(started)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r.Limits.Drain = time.Hour
	busy := newQueue()
	stopBusy := r.serving(busy)
	_, down := net.Pipe()
	busy.conns <- transparent.NewConn(down, originTo("192.0.2.1:7000"))
	<-started
	stopIdle := r.serving(newQueue())
	stopIdle()
	if r.Sessions() != 1 {
		t.Errorf("%d sessions go on", r.Sessions())
	}
	close(release)
	stopBusy()
	if ends, _ := r.account(); ends[endDone] != 1 {
		t.Errorf("in the record by their end: %v", ends)
	}
}
