package transparent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/pkg/upstream/datagram"
)

// Defaults of the bounds of [Datagrams].
const (
	DefaultFlows = 4096
	DefaultQueue = 32
	DefaultIdle  = time.Minute
	// maxWaiting bounds all datagrams that wait in a listener, in bytes.
	maxWaiting = 16 << 20
)

// DatagramOrigins tells the origin of redirected datagrams. It is implemented
// by pkg/kernel.
type DatagramOrigins interface {
	// DatagramOrigin returns what the kernel recorded last for the socket that
	// sends from this address in the network namespace of that cookie. Any error
	// means that the datagram was not redirected by us and must not be served.
	DatagramOrigin(from netip.AddrPort, netns uint64) (Origin, error)
}

// Datagrams accepts redirected UDP flows: what comes from one address is one
// flow, as long as its origin stays the same. A flow is a [Conn] whose bytes are
// datagrams, each behind its length; see package datagram. It has no half-close.
//
// Its methods may be called concurrently. The exported fields are set before the
// first Accept.
type Datagrams struct {
	udp     *net.UDPConn
	origins DatagramOrigins

	// Netns is the cookie of the network namespace in which the socket is.
	Netns uint64
	// Flows bounds the flows, and Queue the datagrams that wait in one; zero
	// means DefaultFlows and DefaultQueue. What is above a bound is dropped, the
	// newest first, as UDP may.
	Flows, Queue int
	// Idle is for how long nothing has to cross a flow until it is over for
	// reading: nobody says when an agent has closed its socket. Zero means
	// DefaultIdle.
	Idle time.Duration
	// Refused, if set, is told of every datagram that had no origin and was
	// dropped. It is called from Accept and must not block.
	Refused func(remote net.Addr, cause error)

	refusals, dropped atomic.Uint64
	waiting           atomic.Int64 // bytes in the queues of all flows

	accepting sync.Mutex
	buffer    []byte // of Accept

	mu     sync.Mutex
	flows  map[netip.AddrPort]*flow
	closed bool
}

// NewDatagrams returns a listener that owns udp, which is bound to a loopback
// address: Close closes it.
func NewDatagrams(udp *net.UDPConn, origins DatagramOrigins) *Datagrams {
	return &Datagrams{
		udp: udp, origins: origins,
		buffer: make([]byte, datagram.MaxSize), flows: map[netip.AddrPort]*flow{},
	}
}

// Accept waits for the first datagram of the next flow. Meanwhile it hands
// datagrams to the flows that it returned before: nobody else reads the socket.
// For each datagram it asks for the origin anew, since source ports are used
// again; another origin ends the flow and begins a new one.
//
// The error is that of the socket. When the deadline has passed, all flows are
// at their end for reading ([io.EOF]) after what they have waiting, and can
// still be answered; what comes later waits in the socket for the next Accept.
func (d *Datagrams) Accept() (*Conn, error) {
	d.accepting.Lock()
	defer d.accepting.Unlock()
	for {
		n, from, err := d.udp.ReadFromUDPAddrPort(d.buffer)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				d.endFlows((*flow).endReading)
			}
			return nil, fmt.Errorf("accept: %w", err)
		}
		origin, err := d.originOf(from)
		if err != nil {
			d.refuse(from, err)
			continue
		}
		if f := d.deliver(from, &origin, d.buffer[:n]); f != nil {
			return NewConn(datagram.NewConn(f), origin), nil
		}
	}
}

func (d *Datagrams) originOf(from netip.AddrPort) (Origin, error) {
	if d.origins == nil {
		return Origin{}, errors.New("look up origin: no source of origins")
	}
	origin, err := d.origins.DatagramOrigin(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), d.Netns)
	if err != nil {
		return Origin{}, err
	}
	origin.Transport = UDP
	return origin, origin.complete()
}

func (d *Datagrams) refuse(from netip.AddrPort, cause error) {
	d.refusals.Add(1)
	if d.Refused != nil {
		d.Refused(net.UDPAddrFromAddrPort(from), cause)
	}
}

// deliver puts a datagram into its flow, and returns the flow if it is new.
func (d *Datagrams) deliver(from netip.AddrPort, origin *Origin, payload []byte) *flow {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.flows[from]
	if f != nil && f.origin.sameAsker(origin) {
		f.put(payload)
		return nil
	}
	if f != nil {
		// Somebody else has the port now, and must not get answers to this one.
		f.end(io.EOF)
		delete(d.flows, from)
	}
	if d.closed || len(d.flows) >= orDefault(d.Flows, DefaultFlows) {
		d.dropped.Add(1)
		return nil
	}
	f = newFlow(d, from, *origin)
	if !f.put(payload) {
		f.end(net.ErrClosed)
		return nil
	}
	d.flows[from] = f
	return f
}

func orDefault[T int | time.Duration](n, otherwise T) T {
	if n <= 0 {
		return otherwise
	}
	return n
}

func (d *Datagrams) forget(f *flow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flows[f.from] == f {
		delete(d.flows, f.from)
	}
}

func (d *Datagrams) endFlows(how func(*flow)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.flows {
		how(f)
	}
	clear(d.flows)
}

// Refusals counts the datagrams that had no origin and were dropped.
func (d *Datagrams) Refusals() uint64 { return d.refusals.Load() }

// Dropped counts the datagrams that were above one of the bounds.
func (d *Datagrams) Dropped() uint64 { return d.dropped.Load() }

// SetDeadline makes Accept fail with [os.ErrDeadlineExceeded] from t on, until
// it is set again; the zero time means never.
func (d *Datagrams) SetDeadline(t time.Time) error { return d.udp.SetReadDeadline(t) }

// Addr returns the address that the socket is bound to.
func (d *Datagrams) Addr() net.Addr { return d.udp.LocalAddr() }

// Close closes the socket and ends all flows, for reading and for writing.
func (d *Datagrams) Close() error {
	err := d.udp.Close()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.endFlows(func(f *flow) { f.end(net.ErrClosed) })
	return err
}
