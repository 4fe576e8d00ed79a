package transparent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// recorded is a source of origins that can be changed.
type recorded struct {
	mu     sync.Mutex
	origin Origin
	err    error
	asked  []uint64 // namespaces
}

func (r *recorded) DatagramOrigin(_ netip.AddrPort, netns uint64) (Origin, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, netns)
	return r.origin, r.err
}

func (r *recorded) become(change func(*Origin)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.origin)
}

func listenDatagrams(t *testing.T, origins DatagramOrigins) *Datagrams {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	d := NewDatagrams(udp, origins)
	t.Cleanup(func() { d.Close() })
	return d
}

func dialDatagrams(t *testing.T, d *Datagrams) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t *testing.T, agent net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(agent, text); err != nil {
		t.Fatal(err)
	}
}

func mustAccept(t *testing.T, d *Datagrams) *Conn {
	t.Helper()
	c, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// keepAccepting reads the socket until it is closed, and keeps what is new.
func keepAccepting(d *Datagrams) <-chan *Conn {
	flows := make(chan *Conn, 100)
	go func() {
		defer close(flows)
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			flows <- c
		}
	}()
	return flows
}

func framed(text string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(text)))) + text
}

func hear(t *testing.T, c io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(framed(want)))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != framed(want) {
		t.Fatalf("read %q (%v), want %q", got, err, framed(want))
	}
}

func TestFlowCarriesTheDatagramsOfItsSourceAndAnswersThere(t *testing.T) {
	origins := &recorded{origin: knownOrigin}
	d := listenDatagrams(t, origins)
	d.Netns = 4711
	one, two := dialDatagrams(t, d), dialDatagrams(t, d)
	say(t, one, "one")
	first := mustAccept(t, d)
	flows := keepAccepting(d)
	say(t, two, "two")
	second := <-flows
	say(t, one, "one more")
	hear(t, first, "one")
	hear(t, first, "one more")
	hear(t, second, "two")
	want := knownOrigin
	want.Transport = UDP
	if first.Origin != want {
		t.Errorf("origin %+v, want %+v", first.Origin, want)
	}
	if first.RemoteAddr().String() != one.LocalAddr().String() {
		t.Errorf("the flow comes from %v, want %v", first.RemoteAddr(), one.LocalAddr())
	}
	say(t, second, framed("an answer")[:3])
	say(t, second, framed("an answer")[3:])
	buffer := make([]byte, 100)
	if n, err := two.Read(buffer); err != nil || string(buffer[:n]) != "an answer" {
		t.Errorf("the agent heard %q (%v)", buffer[:n], err)
	}
	origins.mu.Lock()
	defer origins.mu.Unlock()
	if !slices.Equal(origins.asked, []uint64{4711, 4711, 4711}) {
		t.Errorf("asked in namespaces %v, want once per datagram in 4711", origins.asked)
	}
}

func TestDatagramWithoutOriginIsDroppedAndNeverReturned(t *testing.T) {
	for name, origins := range map[string]DatagramOrigins{
		"no source of origins": nil,
		"no record":            &recorded{err: errors.New("no record")},
		"zero record":          &recorded{},
		"no process":           &recorded{origin: Origin{Target: knownOrigin.Target}},
	} {
		t.Run(name, func(t *testing.T) {
			d := listenDatagrams(t, origins)
			refused := make(chan error, 1)
			d.Refused = func(_ net.Addr, cause error) { refused <- cause }
			flows := keepAccepting(d)
			say(t, dialDatagrams(t, d), "x")
			if err := <-refused; err == nil {
				t.Error("refused without a cause")
			}
			d.Close()
			if c, ok := <-flows; ok {
				t.Errorf("returned a flow with %+v", c.Origin)
			}
			if d.Refusals() != 1 {
				t.Errorf("%d refusals", d.Refusals())
			}
		})
	}
}

// Whoever gets a port next must neither be taken for the one before nor get
// the answers to it.
func TestAnotherOriginBeginsAnotherFlow(t *testing.T) {
	for name, change := range map[string]func(*Origin){
		"target":  func(o *Origin) { o.Target = netip.MustParseAddrPort("192.0.2.2:53") },
		"process": func(o *Origin) { o.Process.Start++ },
		"image":   func(o *Origin) { o.Exec++ },
	} {
		t.Run(name, func(t *testing.T) {
			origins := &recorded{origin: knownOrigin}
			d := listenDatagrams(t, origins)
			agent := dialDatagrams(t, d)
			say(t, agent, "one")
			first := mustAccept(t, d)
			hear(t, first, "one")
			origins.become(change)
			say(t, agent, "two")
			second := mustAccept(t, d)
			hear(t, second, "two")
			if n, err := first.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the first flow read %d bytes, %v, want its end", n, err)
			}
			if _, err := io.WriteString(first, framed("late")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("an answer to the one before: %v", err)
			}
			first.Close()
			say(t, second, framed("in time"))
			buffer := make([]byte, 100)
			if n, err := agent.Read(buffer); err != nil || string(buffer[:n]) != "in time" {
				t.Errorf("the agent heard %q (%v)", buffer[:n], err)
			}
		})
	}
}

func TestFlowsAndWhatWaitsInThemAreBounded(t *testing.T) {
	origins := &recorded{origin: knownOrigin}
	d := listenDatagrams(t, origins)
	d.Flows, d.Queue = 1, 2
	one, two := dialDatagrams(t, d), dialDatagrams(t, d)
	say(t, one, "1")
	first := mustAccept(t, d)
	flows := keepAccepting(d)
	for _, text := range []string{"2", "3", "4"} {
		say(t, one, text)
	}
	say(t, two, "x")
	for d.Dropped() < 3 {
		select {
		case <-flows:
			t.Fatal("there is a flow above the bound")
		default:
			runtime.Gosched()
		}
	}
	hear(t, first, "1")
	hear(t, first, "2")
	if err := first.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third datagram waited: %v", err)
	}
	if got := d.waiting.Load(); got != 0 {
		t.Errorf("%d bytes are said to wait", got)
	}
}

func TestFlowHonoursDeadlines(t *testing.T) {
	d := listenDatagrams(t, &recorded{origin: knownOrigin})
	agent := dialDatagrams(t, d)
	say(t, agent, "one")
	c := mustAccept(t, d)
	hear(t, c, "one")
	if err := c.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		woken <- err
	}()
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the reader was woken with %v", err)
	}
	if err := c.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, framed("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write after its deadline: %v", err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	flows := keepAccepting(d)
	say(t, agent, "two")
	hear(t, c, "two")
	c.Close()
	if err := c.SetReadDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("deadline of a closed flow: %v", err)
	}
	say(t, agent, "three")
	hear(t, <-flows, "three")
}

func TestClosedListenerEndsEveryFlow(t *testing.T) {
	d := listenDatagrams(t, &recorded{origin: knownOrigin})
	say(t, dialDatagrams(t, d), "one")
	c := mustAccept(t, d)
	hear(t, c, "one")
	woken := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		woken <- err
	}()
	d.Close()
	if err := <-woken; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the reader was woken with %v", err)
	}
	if _, err := d.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
}

func TestFillLooksIntoAFlowWithoutConsumingIt(t *testing.T) {
	d := listenDatagrams(t, &recorded{origin: knownOrigin})
	say(t, dialDatagrams(t, d), "headgate")
	c := mustAccept(t, d)
	prefix, err := c.Fill()
	if err != nil || string(prefix) != framed("headgate") {
		t.Fatalf("peeked %q (%v)", prefix, err)
	}
	hear(t, c, "headgate")
	if err := c.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("half-close of a flow: %v", err)
	}
}

// In a restart, what is accepted is answered, and what is not waits.
func TestInterruptedAcceptLeavesTheSocketToTheNext(t *testing.T) {
	d := listenDatagrams(t, &recorded{origin: knownOrigin})
	agent := dialDatagrams(t, d)
	say(t, agent, "one")
	c := mustAccept(t, d)
	if err := d.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	say(t, agent, "two")
	if _, err := d.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("accept: %v", err)
	}
	hear(t, c, "one")
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d bytes, %v, want the end", n, err)
	}
	say(t, c, framed("answer"))
	buffer := make([]byte, 100)
	if n, err := agent.Read(buffer); err != nil || string(buffer[:n]) != "answer" {
		t.Errorf("the agent heard %q (%v)", buffer[:n], err)
	}
	if err := d.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	hear(t, mustAccept(t, d), "two")
}

// Nobody says that an agent has closed its socket.
func TestIdleFlowComesToItsEnd(t *testing.T) {
	d := listenDatagrams(t, &recorded{origin: knownOrigin})
	d.Idle = 20 * time.Millisecond
	agent := dialDatagrams(t, d)
	say(t, agent, "one")
	c := mustAccept(t, d)
	hear(t, c, "one")
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d bytes, %v, want the end", n, err)
	}
	say(t, agent, "two")
	hear(t, mustAccept(t, d), "two")
}

// For the race detector: agents, sessions, closings and changes of origin.
func TestFlowsRunBesideEachOther(t *testing.T) {
	origins := &recorded{origin: knownOrigin}
	d := listenDatagrams(t, origins)
	d.Flows = 8
	var sessions, agents sync.WaitGroup
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { echo(c) })
		}
	}()
	for i := range 16 {
		agent := dialDatagrams(t, d)
		if err := agent.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		agents.Go(func() {
			for j := range 50 {
				// Both may be lost: that is what is tried.
				_, _ = fmt.Fprintf(agent, "%d-%d", i, j)
				_, _ = agent.Read(make([]byte, 100))
				if j%10 == 0 {
					origins.become(func(o *Origin) { o.Process.PID++ })
				}
			}
		})
	}
	agents.Wait()
	d.Close()
	<-accepting
	sessions.Wait()
	if len(d.flows) != 0 || d.waiting.Load() != 0 {
		t.Errorf("%d flows and %d bytes are left", len(d.flows), d.waiting.Load())
	}
}

// echo answers a few messages and closes.
func echo(c *Conn) {
	defer c.Close()
	for range 5 {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, payload); err != nil {
			return
		}
		if _, err := c.Write(append(length[:], payload...)); err != nil {
			return
		}
	}
}
