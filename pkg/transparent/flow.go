package transparent

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/upstream/datagram"
)

var _ datagram.Reader = (*flow)(nil)

// flow is the datagrams from one address: a connection of messages.
type flow struct {
	owner  *Datagrams
	from   netip.AddrPort
	origin Origin

	mu       sync.Mutex
	changed  sync.Cond // on mu: whatever a reader waits for
	queue    [][]byte
	readEnd  error // what reading returns once the queue is empty
	over     error // what reading returns at once; writing is over too
	idle     *time.Timer
	readBy   *time.Timer
	readLate bool // whether the read deadline has passed
	writeBy  time.Time
}

func newFlow(owner *Datagrams, from netip.AddrPort, origin Origin) *flow {
	f := &flow{owner: owner, from: from, origin: origin}
	f.changed.L = &f.mu
	f.idle = time.AfterFunc(orDefault(owner.Idle, DefaultIdle), func() {
		owner.forget(f)
		f.endReading()
	})
	return f
}

// put copies a datagram into the queue, unless a bound is reached.
func (f *flow) put(payload []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	size := int64(len(payload))
	if f.over != nil || len(f.queue) >= orDefault(f.owner.Queue, DefaultQueue) || f.owner.waiting.Load()+size > maxWaiting {
		f.owner.dropped.Add(1)
		return false
	}
	f.owner.waiting.Add(size)
	f.queue = append(f.queue, bytes.Clone(payload))
	f.touch()
	f.changed.Broadcast()
	return true
}

// touch says that the flow is in use. mu is held and the flow is not over.
func (f *flow) touch() { f.idle.Reset(orDefault(f.owner.Idle, DefaultIdle)) }

// ReadDatagram waits for the next datagram, which is the caller's.
func (f *flow) ReadDatagram() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.over != nil:
			return nil, f.over
		case f.readLate:
			return nil, os.ErrDeadlineExceeded
		case len(f.queue) > 0:
			payload := f.queue[0]
			f.queue[0], f.queue = nil, f.queue[1:]
			f.owner.waiting.Add(-int64(len(payload)))
			return payload, nil
		case f.readEnd != nil:
			return nil, f.readEnd
		}
		f.changed.Wait()
	}
}

// Read reads one datagram; what does not fit is lost.
func (f *flow) Read(p []byte) (int, error) {
	payload, err := f.ReadDatagram()
	return copy(p, payload), err
}

// Write sends one datagram to where the flow comes from.
func (f *flow) Write(p []byte) (int, error) {
	f.mu.Lock()
	over, by := f.over, f.writeBy
	if over == nil {
		f.touch()
	}
	f.mu.Unlock()
	switch {
	case over != nil:
		return 0, net.ErrClosed
	case !by.IsZero() && !time.Now().Before(by):
		return 0, os.ErrDeadlineExceeded
	}
	return f.owner.udp.WriteToUDPAddrPort(p, f.from)
}

// endReading lets the reader have what is in the queue, and then io.EOF.
func (f *flow) endReading() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readEnd = io.EOF
	f.changed.Broadcast()
}

// end ends both directions; the first cause stays.
func (f *flow) end(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != nil {
		return
	}
	f.over = cause
	for _, payload := range f.queue {
		f.owner.waiting.Add(-int64(len(payload)))
	}
	f.queue = nil
	f.idle.Stop()
	f.setReadBy(time.Time{})
	f.changed.Broadcast()
}

// Close forgets the flow: what comes from its address later begins a new one.
func (f *flow) Close() error {
	f.owner.forget(f)
	f.end(net.ErrClosed)
	return nil
}

// LocalAddr returns the address of the listener.
func (f *flow) LocalAddr() net.Addr { return f.owner.udp.LocalAddr() }

// RemoteAddr returns where the flow comes from.
func (f *flow) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(f.from) }

// SetDeadline sets both deadlines.
func (f *flow) SetDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != nil {
		return net.ErrClosed
	}
	f.writeBy = t
	f.setReadBy(t)
	return nil
}

// SetReadDeadline wakes readers that wait when t has come.
func (f *flow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != nil {
		return net.ErrClosed
	}
	f.setReadBy(t)
	return nil
}

// SetWriteDeadline bounds when a write may begin. None takes long: the datagram
// goes to this host's own loopback.
func (f *flow) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != nil {
		return net.ErrClosed
	}
	f.writeBy = t
	return nil
}

// setReadBy is SetReadDeadline with mu held.
func (f *flow) setReadBy(t time.Time) {
	if f.readBy != nil {
		f.readBy.Stop()
		f.readBy = nil
	}
	f.readLate = !t.IsZero() && !time.Now().Before(t)
	if t.IsZero() || f.readLate {
		f.changed.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		// One that was replaced while it fired says nothing any more.
		if f.readBy == timer {
			f.readLate = true
			f.changed.Broadcast()
		}
	})
	f.readBy = timer
}
