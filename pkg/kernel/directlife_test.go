package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/internal/testenv"
)

func TestPrivilegedFlowsAreSeenFromTheirBeginning(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	must(t, f.SetDestinations(directTo(o.port, 8, Direct)))
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"} {
		k := f.talk(t)
		k.ok(o.at(host))
		c := o.accept(t)
		k.exchange(c, 3, 4)
		before := f.flows(t)[8]
		if before.Begun != 1 {
			t.Errorf("%s: %d flows are open", host, before.Begun)
		}
		k.end()
		wantEnd(t, c)
		must(t, c.Close())
		f.wantFlows(t, map[uint64]DirectFlows{8: {Flows: before.Flows + 1, Up: before.Up + 3, Down: before.Down + 4}})
	}
	f.wantCount(t, "direct_lost", 0)
}

// Sums of durations are large where many connections are open at a time: as
// nanoseconds they would be negative after 292 years of them.
func TestPrivilegedFlowsLastAsLongAsTheirConnections(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	must(t, f.SetDestinations(directTo(o.port, 8, Direct)))
	const thousandYears = uint64(1000 * 365 * 24 * 3600 * 1e6)
	far := make([]bpf.HeadgateDirectTotal, len(perCPU(t, f)))
	for i := range far {
		far[i].Microseconds = thousandYears
	}
	must(t, f.maps.DirectTotals.Put(uint64(8), far))
	k := f.talk(t)
	begin := time.Now()
	k.ok(o.at("127.0.0.1"))
	c := o.accept(t)
	open := time.Now()
	<-time.After(20 * time.Millisecond)
	atLeast := uint64(time.Since(open).Microseconds())
	k.ok("close")
	wantEnd(t, c)
	must(t, c.Close())
	all, err := f.DirectFlows()
	must(t, err)
	atMost := uint64(time.Since(begin).Microseconds())
	if got := all[8].Microseconds - thousandYears*uint64(len(far)); all[8].Flows != 1 || got < atLeast || got > atMost {
		t.Errorf("%d flows took %d µs, want %d to %d", all[8].Flows, got, atLeast, atMost)
	}
}

// Who has the socket from an agent goes on with the agent's connection, also when
// the agent is no more.
func TestPrivilegedFlowEndsWithTheLastWhoHoldsIt(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	must(t, f.SetDestinations(directTo(o.port, 8, Direct)))
	k := f.talk(t)
	k.ok(o.at("127.0.0.1"))
	c := o.accept(t)
	k.exchange(c, 10, 20)
	fd := k.borrow()
	k.end()
	f.wantFlows(t, map[uint64]DirectFlows{8: {Begun: 1}})
	n, err := unix.Write(fd, make([]byte, 100))
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, n))
	must(t, errors.Join(err, unix.Close(fd)))
	wantEnd(t, c)
	must(t, c.Close())
	f.wantFlows(t, map[uint64]DirectFlows{8: {Flows: 1, Up: 110, Down: 20}})
}

func TestPrivilegedDataOfTheSYNCounts(t *testing.T) {
	f := listening(t, Options{})
	testenv.Netns(t, func() {
		// Both sides, all sockets, no cookies: Documentation/networking/ip-sysctl.rst.
		must(t, os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("1543"), 0o644))
		o := newOther(t)
		must(t, f.SetDestinations(directTo(o.port, 8, Direct)))
		total := DirectFlows{}
		for _, steps := range [][]string{
			{"fastopen=" + o.address("127.0.0.1")},
			{"fastopen=" + o.address("[::1]")},
			{"deferred=" + o.address("127.0.0.1"), "write=5"},
		} {
			k := f.talk(t)
			k.ok(steps...)
			c := o.accept(t)
			if !hadDataInSYN(t, c) {
				t.Error("the SYN had no data")
			}
			k.exchange(c, 2, 20)
			k.end()
			_, err := io.ReadFull(c, make([]byte, 5))
			must(t, err)
			wantEnd(t, c)
			must(t, c.Close())
			total.Flows, total.Up, total.Down = total.Flows+1, total.Up+7, total.Down+20
			f.wantFlows(t, map[uint64]DirectFlows{8: total})
		}
		// Nobody answers the SYN's data but with a reset.
		must(t, f.SetDestinations(directTo(1, 8, Direct)))
		k := f.talk(t)
		if got := k.do("fastopen=127.0.0.1:1"); got != unix.ECONNREFUSED.Error() {
			t.Errorf("connect: %s", got)
		}
		k.end()
		f.wantFlows(t, map[uint64]DirectFlows{8: total})
	})
}

func hadDataInSYN(t *testing.T, c *net.TCPConn) bool {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	const synData = 32 // TCPI_OPT_SYN_DATA of linux/tcp.h
	had := false
	must(t, raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		must(t, err)
		had = info.Options&synData != 0
	}))
	return had
}

func TestPrivilegedWhatAnAgentAcceptsCountsNoFlow(t *testing.T) {
	f := listening(t, Options{})
	must(t, f.SetDestinations([]Destination{{Prefix: netip.MustParsePrefix("255.255.255.255/32"), Verdict: Direct, Rule: 7}}))
	k := f.talk(t)
	// The rule is noted for the socket, and no connection came of it.
	if got := k.do("connect=255.255.255.255:9"); got != unix.ENETUNREACH.Error() {
		t.Fatalf("connect: %s", got)
	}
	there := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	k.ok("bind="+there, "listen")
	c, err := net.Dial("tcp4", there)
	must(t, err)
	k.ok("accept")
	_, err = c.Write(make([]byte, 9))
	must(t, err)
	k.ok("read=9", "write=9", "close")
	must(t, c.Close())
	k.end()
	f.wantFlows(t, map[uint64]DirectFlows{})
}

// What cannot be counted goes all the same, and the counter says so.
func TestPrivilegedFlowsThatNoTotalTakesAreCountedAsLost(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	none := make([]bpf.HeadgateDirectTotal, len(perCPU(t, f)))
	must(t, f.maps.DirectTotals.Delete(OtherRules))
	for rule := range uint64(f.maps.DirectTotals.MaxEntries()) {
		must(t, f.maps.DirectTotals.Put(rule+1, none))
	}
	must(t, f.SetDestinations(directTo(o.port, 5000, Direct)))
	k := f.talk(t)
	k.ok(o.at("127.0.0.1"))
	k.exchange(o.accept(t), 5, 6)
	k.end()
	f.wantFlows(t, map[uint64]DirectFlows{})
	f.wantCount(t, "direct_lost", 1)
}

// Connections end on several processors at a time, in their agents and in
// interrupts, while totals are read.
func TestPrivilegedFlowsOfACrowdAreAllCounted(t *testing.T) {
	f := listening(t, Options{})
	o := newOther(t)
	must(t, f.SetDestinations(directTo(o.port, 8, Direct)))
	const each, crowds = 100, 4
	must(t, o.SetDeadline(time.Now().Add(2*patience)))
	var up atomic.Uint64
	var serving sync.WaitGroup
	serving.Go(func() {
		for range each * crowds {
			c, err := o.AcceptTCP()
			if err != nil {
				t.Error(err)
				return
			}
			serving.Go(func() {
				line, err := bufio.NewReader(c).ReadBytes('\n')
				up.Add(uint64(len(line)))
				_, failed := c.Write([]byte("ok"))
				if err := errors.Join(err, failed, c.Close()); err != nil {
					t.Error(err)
				}
			})
		}
	})
	targets := slices.Repeat([]string{o.address("127.0.0.1"), o.address("[::1]")}, each/2)
	for range crowds {
		cmd := helper(t, f.jobs, "crowd", targets...)
		serving.Go(func() { wantErrno(t, outcome(t, cmd), 0) })
	}
	var last DirectFlows
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; last.Flows < each*crowds && !t.Failed(); <-tick.C {
		all, err := f.DirectFlows()
		must(t, err)
		now := all[8]
		if now.Begun < last.Begun || now.Flows < last.Flows || now.Up < last.Up || now.Down < last.Down || now.Microseconds < last.Microseconds {
			t.Errorf("after %+v came %+v", last, now)
		}
		last = now
	}
	serving.Wait()
	f.wantFlows(t, map[uint64]DirectFlows{8: {Flows: each * crowds, Up: up.Load(), Down: 2 * each * crowds}})
}
