package kernel

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/process"
)

// soakVariable is how many forks and execs a soak makes.
const (
	soakVariable = "HEADGATE_SOAK"
	soakDefault  = 20_000
)

// soakLimit bounds a helper of a soak of that many forks and execs.
func soakLimit(count int) time.Duration { return time.Minute + time.Duration(count)*5*time.Millisecond }

// compiled builds a program from testdata.
func compiled(t *testing.T, name string) string {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		testenv.Skip(t, "needs gcc")
	}
	path := filepath.Join(t.TempDir(), name)
	out, err := exec.Command(cc, "-static", "-O2", "-pthread", "-Wall", "-Werror", "-o", path, "testdata/"+name+".c").CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// tally is what a helper says that it did. Escaped counts what nothing should
// have let through, Unexpected what went wrong in another way.
type tally struct {
	Forks, Execs                uint64
	Mediated, Refused, Answered uint64
	Escaped, Unexpected         uint64
}

func (a tally) plus(b tally) tally {
	return tally{
		a.Forks + b.Forks, a.Execs + b.Execs,
		a.Mediated + b.Mediated, a.Refused + b.Refused, a.Answered + b.Answered,
		a.Escaped + b.Escaped, a.Unexpected + b.Unexpected,
	}
}

// soak is a tree that does its worst, beside a proxy that checks each origin.
type soak struct {
	*fixture
	program string
	witness uint16
	reached atomic.Uint64 // the witness; only the test itself may
	served  atomic.Uint64
	strange atomic.Uint64 // connections with no origin, or with another's

	mu    sync.Mutex
	roots map[uint32]bool // as the proxy was told
}

// newSoak attaches and serves, for helpers that are testdata/program.c.
func newSoak(t *testing.T, program string) *soak {
	t.Helper()
	s := &soak{program: compiled(t, program), roots: make(map[uint32]bool)}
	s.fixture = attach(t, Options{})
	s.listen(t)
	must(t, s.SetDestinations(s.destinations()))
	return s
}

// destinations mediate the witness at two addresses, and deny it at a third.
func (s *soak) destinations() []Destination {
	prefix := netip.MustParsePrefix
	return append(MetadataDestinations(),
		Destination{Prefix: prefix("127.0.0.2/32"), Port: s.witness, Verdict: Proxy},
		Destination{Prefix: prefix("::1/128"), Port: s.witness, Verdict: Proxy},
		Destination{Prefix: prefix("127.0.0.3/32"), Port: s.witness, Verdict: Deny},
	)
}

// listen starts the witness, the proxy and the resolver.
func (s *soak) listen(t *testing.T) {
	t.Helper()
	s.witness = s.both(t, "0.0.0.0", "::1", s.testify)
	s.port = s.both(t, "127.0.0.1", "::1", s.serve)
	cookie, err := NetnsCookie()
	must(t, err)
	closeResolvers := s.resolve(t, cookie)
	t.Cleanup(func() { must(t, closeResolvers()) })
	must(t, s.SetListener(cookie, s.port))
}

// both serves one port of two addresses until the test ends.
func (s *soak) both(t *testing.T, v4, v6 string, serve func(net.Conn)) uint16 {
	t.Helper()
	l4, err := net.Listen("tcp4", v4+":0")
	must(t, err)
	port := uint16(l4.Addr().(*net.TCPAddr).Port)
	l6, err := net.Listen("tcp6", fmt.Sprintf("[%s]:%d", v6, port))
	must(t, err)
	var all sync.WaitGroup
	for _, l := range []net.Listener{l4, l6} {
		all.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				all.Go(func() { serve(c) })
			}
		})
	}
	t.Cleanup(func() {
		must(t, errors.Join(l4.Close(), l6.Close()))
		all.Wait()
	})
	return port
}

func (s *soak) testify(c net.Conn) {
	defer c.Close()
	s.reached.Add(1)
	// Who has gone need not be told.
	_, _ = c.Write([]byte("w"))
}

// serve compares the pid that a process says with its origin.
func (s *soak) serve(c net.Conn) {
	defer c.Close()
	o, err := s.Origin(c.(*net.TCPConn))
	if err != nil {
		s.strange.Add(1)
		return
	}
	var said [4]byte
	if _, err := io.ReadFull(c, said[:]); err != nil {
		return // given up
	}
	if binary.NativeEndian.Uint32(said[:]) != o.Process.PID || o.Enrolment != 7 || o.Target.Port() != s.witness {
		s.strange.Add(1)
		return
	}
	s.mu.Lock()
	s.roots[o.Root.PID] = true
	s.mu.Unlock()
	s.served.Add(1)
	// Who has gone says so itself.
	_, _ = c.Write([]byte("m"))
}

// start runs a helper as the root of a tree, with no rule that would enrol again
// who lost its mark. It ends when in is closed, or when its work is done.
func (s *soak) start(t *testing.T, limit time.Duration, args ...any) (root uint32, in io.Closer, wait func() tally) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	var argv []string
	for _, a := range args {
		argv = append(argv, fmt.Sprint(a))
	}
	cmd := exec.CommandContext(ctx, s.program, argv...)
	cmd.Stderr = os.Stderr
	testenv.StartIn(t, cmd, s.jobs)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	id, err := s.StartOf(cmd.Process.Pid)
	must(t, err)
	_, err = s.Enrol(ctx, cmd.Process.Pid, id.Start, 7)
	must(t, err)
	_, err = stdin.Write([]byte("+"))
	must(t, err)
	return id.PID, stdin, func() tally {
		t.Helper()
		said, err := io.ReadAll(stdout)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatalf("helper %v: %v", args, err)
		}
		var n tally
		must(t, json.Unmarshal(said, &n))
		return n
	}
}

// run makes count forks and execs while connections go on, and returns what was
// done.
func (s *soak) run(t *testing.T, count, padding int) tally {
	t.Helper()
	var churned, others tally
	var waits []func() tally
	roots := make(map[uint32]bool)
	before := s.served.Load()
	root, in, traffic := s.start(t, soakLimit(count), "traffic", s.witness, s.port)
	roots[root] = true
	for range 2 {
		root, _, wait := s.start(t, soakLimit(count), "churn", count/2, s.witness, padding)
		roots[root] = true
		waits = append(waits, wait)
	}
	for _, wait := range waits {
		churned = churned.plus(wait())
	}
	must(t, in.Close())
	others = traffic()
	all := churned.plus(others)
	if churned.Forks+churned.Execs < uint64(count) {
		t.Errorf("the helpers made %d forks and %d execs, want %d", churned.Forks, churned.Execs, count)
	}
	if leaves := churned.Mediated + churned.Refused; leaves < uint64(count)/50 {
		t.Errorf("only %d of the children tried to connect", leaves)
	}
	if others.Mediated == 0 || others.Refused == 0 || others.Answered == 0 {
		t.Errorf("beside it %+v", others)
	}
	if got := s.served.Load() - before; got != all.Mediated {
		t.Errorf("the proxy answered %d connections, the helpers made %d", got, all.Mediated)
	}
	s.wantRoots(t, roots)
	return all
}

func (s *soak) wantRoots(t *testing.T, want map[uint32]bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for root := range s.roots {
		if !want[root] {
			t.Errorf("the proxy was told of root %d, which is none", root)
		}
	}
	clear(s.roots)
}

// wantMediated checks that nothing got past us, and that nothing was refused
// that should not have been.
func (s *soak) wantMediated(t *testing.T, n tally) {
	t.Helper()
	if n.Escaped != 0 || s.reached.Load() != 0 || s.strange.Load() != 0 {
		t.Errorf("%d attempts escaped, the witness was reached %d times, %d connections had no origin or another's",
			n.Escaped, s.reached.Load(), s.strange.Load())
	}
	if n.Unexpected != 0 {
		t.Errorf("%d attempts ended in an unexpected way", n.Unexpected)
	}
	for _, name := range []string{"procs_full", "denied_unmarked", "storage_failed", "inflight_full", "handover_failed", "handover_missed", "diverted"} {
		s.wantCount(t, name, 0)
	}
}

// wantNothingLeft checks that the tables are as they were before the tree.
func (s *soak) wantNothingLeft(t *testing.T) {
	t.Helper()
	procs, err := s.enrolled()
	must(t, err)
	if len(procs) != 0 {
		t.Errorf("%d exited processes are still enrolled", len(procs))
	}
	var marked []int
	for pid, mark := range s.marks {
		if mark != 0 {
			marked = append(marked, pid)
		}
	}
	if len(marked) != 0 {
		t.Errorf("%d pids are still marked, %d the first", len(marked), marked[0])
	}
	s.wantInflight(t, 0)
	if n, err := entries(s.maps.Datagrams); err != nil || n != 0 {
		t.Errorf("%d senders are left over (%v)", n, err)
	}
}

// reader keeps the lineage of a tree, and who of it lives, as events tell.
type reader struct {
	tree   *process.Tree
	living map[process.ID]bool
	events int
	stop   context.CancelFunc
	done   chan error
}

func (s *soak) read(t *testing.T) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{tree: process.NewTree(10_000), living: make(map[process.ID]bool), stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Events(ctx, Observer{Process: r.apply}) }()
	return r
}

func (r *reader) apply(ev process.Event) error {
	r.events++
	switch ev.Kind {
	case process.Fork, process.Enrol:
		r.living[ev.ID] = true
	case process.Exit:
		delete(r.living, ev.ID)
	case process.Exec:
	}
	return r.tree.Apply(ev)
}

// drained waits until the reader has read everything, and ends it.
func (r *reader) drained(t *testing.T, s *soak) {
	t.Helper()
	untilRead(t, s.maps.Events)
	r.stop()
	if err := <-r.done; !errors.Is(err, context.Canceled) {
		t.Errorf("events ended with %v", err)
	}
}

// untilRead waits until a reader has read the whole ring buffer.
func untilRead(t *testing.T, ring *ebpf.Map) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		waiting, err := unread(ring)
		must(t, err)
		if waiting == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes of %v are not read", waiting, ring)
		}
	}
}

// unread returns how many bytes wait for the reader. The kernel shows both
// positions of a ring buffer, each on a page of its own.
func unread(ring *ebpf.Map) (uint64, error) {
	page := os.Getpagesize()
	consumer, err := unix.Mmap(ring.FD(), 0, page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map ring buffer: %w", err)
	}
	producer, err := unix.Mmap(ring.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("map ring buffer: %w", err), unix.Munmap(consumer))
	}
	n := binary.NativeEndian.Uint64(producer) - binary.NativeEndian.Uint64(consumer)
	return n, errors.Join(unix.Munmap(consumer), unix.Munmap(producer))
}

func TestPrivilegedForksAndExecsLoseNoMark(t *testing.T) {
	count := soakDefault
	if s := os.Getenv(soakVariable); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
	}
	s := newSoak(t, "soak")
	// What the witness is worth: the test itself is exempt, and reaches it.
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.3:%d", s.witness))
	must(t, err)
	said, err := io.ReadAll(c)
	must(t, errors.Join(err, c.Close()))
	if string(said) != "w" || s.reached.Swap(0) != 1 {
		t.Fatalf("the witness says %q", said)
	}

	began := time.Now()
	r := s.read(t)
	read := s.run(t, count/2, 0)
	r.drained(t, s)
	s.wantMediated(t, read)
	s.wantCount(t, "forked", read.Forks)
	s.wantNothingLeft(t)
	lost := s.count(t, "events_lost")
	t.Logf("with a reader: %+v in %v; %d events, %d lost", read, time.Since(began).Round(time.Millisecond), r.events, lost)
	// A slow machine may lose some: then nobody knows who of the rest lives.
	if lost == 0 && len(r.living) != 0 {
		t.Errorf("%d processes live in the tree that the events tell of", len(r.living))
	}

	// Long arguments fill the buffer soon.
	began = time.Now()
	unread := s.run(t, count/2, 4000)
	s.wantMediated(t, unread)
	s.wantCount(t, "forked", read.Forks+unread.Forks)
	s.wantNothingLeft(t)
	nowLost := s.count(t, "events_lost") - lost
	t.Logf("without one: %+v in %v; %d events lost", unread, time.Since(began).Round(time.Millisecond), nowLost)
	if nowLost == 0 {
		t.Error("no event was lost: the buffer never was full")
	}
}

func TestPrivilegedProcessInAPidNamespaceIsAttributed(t *testing.T) {
	f := listening(t, Options{})
	cmd := helper(t, f.jobs, "fork")
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	o := obey(t, cmd)
	if d := o.dial(t, "198.51.100.7:5432"); d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	s := f.next(t)
	must(t, s.err)
	// The init of the namespace is 1 there, and so its child has another pid than
	// here, where nobody but the child is of that tree.
	if int(s.origin.Process.PID) == s.claim.PID || s.claim.PID > 100 {
		t.Errorf("the child has pid %d in its namespace and %d here", s.claim.PID, s.origin.Process.PID)
	}
	if int(s.origin.Root.PID) != cmd.Process.Pid || s.origin.Enrolment != 7 || s.origin.Process == s.origin.Root {
		t.Errorf("process %v with root %v, want a child of %d", s.origin.Process, s.origin.Root, cmd.Process.Pid)
	}
	wantErrno(t, []dialed{o.dial(t, "169.254.169.254:80")}, unix.EPERM)
}
