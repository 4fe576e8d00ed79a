package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// patience bounds every wait for something that is certain to come.
const patience = 20 * time.Second

// fixture is an attached kernel side with a proxy that answers every
// connection. The test process is its daemon.
type fixture struct {
	*Kernel
	dir  string // the cgroup that is attached to
	jobs string // a cgroup below it, for helpers
	// port is that of the proxy, on 127.0.0.1 and ::1.
	port   uint16
	served chan served
	asked  chan asked // datagrams to the resolver
	stop   func()
}

// served is what the proxy saw of one connection.
type served struct {
	origin transparent.Origin
	err    error
	claim  claim
}

// claim is what the other side of a connection says of itself.
type claim struct {
	Target string
	PID    int
}

func privileges(t testing.TB) {
	t.Helper()
	for _, c := range RequiredCapabilities {
		testenv.Need(t, c.Number)
	}
}

// attach makes the cgroups, moves the test process into one of its own, and
// opens the kernel side.
func attach(t *testing.T, o Options) *fixture {
	t.Helper()
	privileges(t)
	f := &fixture{dir: testenv.Cgroup(t), served: make(chan served, 4096), asked: make(chan asked, 4096)}
	f.jobs = filepath.Join(f.dir, "jobs")
	must(t, cgroup.Create(f.jobs))
	leave, err := cgroup.Enter(filepath.Join(f.dir, "daemon"))
	must(t, err)
	t.Cleanup(func() { must(t, leave()) })
	o.CgroupPath = f.dir
	f.open(t, o)
	t.Cleanup(func() { must(t, f.Kernel.Close()) })
	return f
}

func (f *fixture) open(t *testing.T, o Options) {
	t.Helper()
	k, err := Open(o)
	must(t, err)
	f.Kernel = k
	must(t, f.introduce())
	must(t, k.SetDestinations(MetadataDestinations()))
}

// introduce makes the test process the daemon.
func (f *fixture) introduce() error {
	daemon, err := cgroup.ID(filepath.Join(f.dir, "daemon"))
	if err != nil {
		return err
	}
	self, err := f.StartOf(os.Getpid())
	if err != nil {
		return err
	}
	return f.SetDaemon(self, daemon)
}

// listening adds a proxy to [attach], and enrols the jobs cgroup with number 7.
func listening(t *testing.T, o Options) *fixture {
	t.Helper()
	f := attach(t, o)
	f.listen(t)
	id, err := cgroup.ID(f.jobs)
	must(t, err)
	must(t, f.EnrolCgroup(id, 7))
	return f
}

func (f *fixture) listen(t *testing.T) {
	t.Helper()
	f.listenAt(t, testenv.FreePort(t))
}

func (f *fixture) listenAt(t *testing.T, port uint16) {
	t.Helper()
	v4, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	must(t, err)
	f.port = uint16(v4.Addr().(*net.TCPAddr).Port)
	v6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", f.port))
	must(t, err)
	cookie, err := NetnsCookie()
	must(t, err)
	resolvers := f.resolve(t, cookie)
	must(t, f.SetListener(cookie, f.port))
	var loops sync.WaitGroup
	for _, l := range []net.Listener{v4, v6} {
		loops.Go(func() { f.accept(l) })
	}
	f.stop = sync.OnceFunc(func() {
		if err := errors.Join(v4.Close(), v6.Close(), resolvers()); err != nil {
			t.Errorf("close proxy: %v", err)
		}
		loops.Wait()
	})
	t.Cleanup(f.stop)
}

func (f *fixture) accept(l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer c.Close()
			var s served
			s.origin, s.err = f.Origin(c.(*net.TCPConn))
			// Let the other side end first, so that it exits while we look.
			line, err := bufio.NewReader(c).ReadBytes('\n')
			if err == nil {
				err = json.Unmarshal(line, &s.claim)
			}
			if err == nil {
				_, err = c.Write([]byte("ok"))
			}
			s.err = errors.Join(s.err, err)
			f.served <- s
		})
	}
}

func (f *fixture) next(t *testing.T) served {
	t.Helper()
	select {
	case s := <-f.served:
		return s
	case <-time.After(patience):
		t.Fatal("the proxy served nothing")
		return served{}
	}
}

func (f *fixture) count(t *testing.T, name string) uint64 {
	t.Helper()
	all, err := f.Counters()
	must(t, err)
	n, ok := all[name]
	if !ok {
		t.Fatalf("no counter %q", name)
	}
	return n
}

func (f *fixture) wantInflight(t *testing.T, want int) {
	t.Helper()
	if n, err := f.Inflight(); err != nil || n != want {
		t.Errorf("connections in flight: %d (%v), want %d", n, err, want)
	}
}

func (f *fixture) wantCount(t *testing.T, name string, want uint64) {
	t.Helper()
	if got := f.count(t, name); got != want {
		t.Errorf("counter %s = %d, want %d", name, got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// follow keeps a tree up to date from the events until the test ends.
func (f *fixture) follow(t *testing.T) *process.Tree {
	t.Helper()
	tree := process.NewTree(10000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Events(ctx, Observer{Process: tree.Apply}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("events ended with %v", err)
		}
	})
	return tree
}

// ---- helper processes: the test binary again, in another role ----

const roleVariable = "HEADGATE_TEST_ROLE"

// dialed is what became of one connection attempt of a helper.
type dialed struct {
	Target string
	Errno  syscall.Errno
	Peer   string
	Answer string
}

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		m.Run()
		return
	}
	if err := role(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		panic(err) // a status that is not zero
	}
}

var roles = map[string]func([]string) error{
	"dial":   dialRole,
	"crowd":  crowdRole,
	"detach": detachRole,
	"serve":  serveRole,
	"fork":   forkRole,
	"twice":  twiceRole,
	"hold":   holdRole,
	"giveup": giveupRole,
	"listen": listenRole,
	"lend":   lendRole,
	"borrow": borrowRole,
	"thread": threadRole,
	"send":   sendRole,
	"stream": streamRole,
	"socket": socketRole,
	"unix":   unixRole,
	"grow":   growRole,
	"older":  olderRole,
	"say":    sayRole,
	"talk":   talkRole,
	"fill":   fillRole,
}

// helper prepares a helper process in the cgroup dir. It runs with the
// privileges of the test until something changes them.
func helper(t *testing.T, dir, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	if dir != "" {
		testenv.StartIn(t, cmd, dir)
	}
	return cmd
}

// dial lets a helper connect to the targets, one after the other.
func dial(t *testing.T, dir string, targets ...string) []dialed {
	t.Helper()
	return outcome(t, helper(t, dir, "dial", targets...))
}

func outcome(t *testing.T, cmd *exec.Cmd) []dialed {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	var results []dialed
	must(t, json.Unmarshal(out, &results))
	return results
}

func wantErrno(t *testing.T, results []dialed, want syscall.Errno) {
	t.Helper()
	for _, r := range results {
		if r.Errno != want {
			t.Errorf("connect to %s: %v, want %v", r.Target, r.Errno, want)
		}
	}
}

func dialRole(targets []string) error {
	var results []dialed
	for _, target := range targets {
		results = append(results, connect(target))
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

// crowdRole connects to all targets at the same time.
func crowdRole(targets []string) error {
	results := make([]dialed, len(targets))
	var all sync.WaitGroup
	for i, target := range targets {
		all.Go(func() { results[i] = connect(target) })
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(results)
}

// detachRole starts itself again in a session of its own, lets that one start a
// dialling helper, and exits while that one waits for input: a detached
// grandchild. The first argument counts the generations.
func detachRole(args []string) error {
	cmd := exec.Command("/proc/self/exe", args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"=dial")
	if args[0] != "0" {
		cmd.Args = append([]string{cmd.Path, "0"}, args[1:]...)
		cmd.Env = append(os.Environ(), roleVariable+"=detach")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Start()
}

// serveRole dials each target that it reads from its input.
func serveRole([]string) error {
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		if err := out.Encode(connect(in.Text())); err != nil {
			return err
		}
	}
	return in.Err()
}

// forkRole lets a child of its own dial each target that it reads.
func forkRole([]string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		cmd := exec.Command("/proc/self/exe", in.Text())
		cmd.Env = append(os.Environ(), roleVariable+"=dial")
		out, err := cmd.Output()
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(bytes.Trim(out, "[]\n")); err != nil {
			return err
		}
	}
	return in.Err()
}

// holdRole holds a connection and says how it ended.
func holdRole(targets []string) error {
	c, err := net.Dial("tcp", targets[0])
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	} else if !errors.Is(err, unix.ECONNABORTED) { // it may end before Dial has returned
		return err
	}
	if errors.Is(err, unix.ECONNABORTED) {
		err = errors.New("connection aborted")
	}
	_, err = fmt.Print(err)
	return err
}

// obedient is a helper that dials on demand.
type obedient struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	// done ends it; it ends with the test otherwise.
	done func()
}

func obey(t *testing.T, cmd *exec.Cmd) *obedient {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	o := &obedient{cmd: cmd, in: in, out: json.NewDecoder(out)}
	o.done = o.end(t)
	t.Cleanup(o.done)
	return o
}

func (o *obedient) end(t *testing.T) func() {
	return sync.OnceFunc(func() {
		if err := errors.Join(o.in.Close(), o.cmd.Wait()); err != nil {
			t.Errorf("helper: %v", err)
		}
	})
}

func (o *obedient) dial(t *testing.T, target string) dialed {
	t.Helper()
	_, err := fmt.Fprintln(o.in, target)
	must(t, err)
	var d dialed
	must(t, o.out.Decode(&d))
	return d
}

// connect makes one connection with a socket of the target's family (a v4-mapped
// address on a v6 socket), claims it, and waits for the answer.
func connect(target string) dialed {
	d := dialed{Target: target}
	d.Errno = errnoOf(converse(target, &d))
	return d
}

// errnoOf returns the error number inside err, or zero.
func errnoOf(err error) syscall.Errno {
	var n syscall.Errno
	errors.As(err, &n)
	return n
}

func converse(target string, d *dialed) error {
	ap := netip.MustParseAddrPort(target)
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())})
	if ap.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Who does not answer must not hold up the test.
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return err
	}
	if d.Peer, err = peerOf(fd); err != nil {
		return err
	}
	line, err := json.Marshal(claim{target, os.Getpid()})
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, append(line, '\n')); err != nil {
		return err
	}
	answer := make([]byte, 16)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	d.Answer = strings.TrimSpace(string(answer[:n]))
	return nil
}

func peerOf(fd int) (string, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return "", err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String(), nil
	}
	return "", fmt.Errorf("peer has no address of IP")
}
