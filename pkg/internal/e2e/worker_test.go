package e2e

import (
	"bufio"
	"cmp"
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

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/record"
)

// bareRig is a rig without a database, for what is not about one.
type bareRig struct {
	*rig
	errand string
}

// newBareRig starts a daemon with this policy, in which {dir} and {cgroup} are
// the rig's directory and, below the mount point, its cgroup.
func newBareRig(t *testing.T, policy string) *bareRig {
	t.Helper()
	r := prepareBareRig(t)
	r.policy(policy)
	r.start()
	return r
}

// prepareBareRig does all of newBareRig but write the policy and start.
func prepareBareRig(t *testing.T) *bareRig {
	t.Helper()
	testenv.Need(t, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN)
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs a network namespace of its own; scripts/test.sh privileged makes one")
	}
	r := &bareRig{rig: &rig{t: t, server: &pgtest.Cluster{}}}
	r.bin, r.client = programs(t)
	var err error
	r.dir, err = os.MkdirTemp("", "headgate-e2e")
	check(t, err)
	check(t, os.Chmod(r.dir, 0o755))
	t.Cleanup(func() { check(t, os.RemoveAll(r.dir)) })
	mount, err := cgroup.Mount()
	check(t, err)
	name := fmt.Sprintf("headgate-e2e-%d", os.Getpid())
	r.cgroup, r.pins = filepath.Join(mount, name), filepath.Join("/sys/fs/bpf", name)
	r.state, r.socket = filepath.Join(r.dir, "state"), filepath.Join(r.dir, "control.sock")
	check(t, cgroup.Create(r.cgroup))
	t.Cleanup(r.cleanup)
	r.config = r.write("headgate.yaml", fmt.Sprintf(`
version: 1
intercept: {cgroup: %q, pin_dir: %q, port: %d, heartbeat: 10s}
policies: %q
state: %q
control: {socket: %q}
metrics: {listen: "127.0.0.1:%d"}
`, r.cgroup, r.pins, freePort(t), filepath.Join(r.dir, "policies"), r.state, r.socket, r.scrapePort()))
	r.errand = filepath.Join(r.dir, "errand")
	build := exec.Command("go", "build", "-o", r.errand, "./testdata/errand")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build errand: %v\n%s", err, text)
	}
	return r
}

func (r *bareRig) policy(text string) {
	r.t.Helper()
	r.write("policies/policy.yaml", strings.NewReplacer("{dir}", r.dir, "{cgroup}", "/"+filepath.Base(r.cgroup)).Replace(text))
}

// reload puts another policy in force.
func (r *bareRig) reload(text string) {
	r.t.Helper()
	r.policy(text)
	_, err := control.NewClient(r.socket).Reload(r.t.Context())
	check(r.t, err)
}

// cgroupOf makes a cgroup of the rig's, for the time of the test.
func (r *bareRig) cgroupOf(name string) string {
	r.t.Helper()
	path := filepath.Join(r.cgroup, name)
	check(r.t, cgroup.Create(path))
	r.t.Cleanup(func() {
		if err := cgroup.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.t.Errorf("remove cgroup: %v", err)
		}
	})
	return path
}

// whereabouts says where a worker starts.
type whereabouts struct {
	cgroup  string // the path of an existing one; empty: where the test is
	uid     uint32
	run     string // the agent that headgate run makes it; empty: none
	program string // a copy of the errand; empty: the errand
}

// worker is a process that runs errands.
type worker struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	pid   int
}

// worker starts an errand, behind the words of prefix.
func (r *bareRig) worker(at whereabouts, prefix ...string) *worker {
	r.t.Helper()
	argv := append(prefix, cmp.Or(at.program, r.errand))
	if at.run != "" {
		argv = append([]string{r.bin, "run", "--socket", r.socket, "--agent", at.run, "--"}, argv...)
	}
	w := &worker{t: r.t, cmd: exec.Command(argv[0], argv[1:]...), lines: make(chan string, 1)}
	w.cmd.Dir, w.cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: at.uid, Gid: at.uid}}
	if at.cgroup != "" {
		dir, err := os.Open(at.cgroup)
		check(r.t, err)
		defer dir.Close()
		w.cmd.SysProcAttr.UseCgroupFD, w.cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	var err error
	w.in, err = w.cmd.StdinPipe()
	check(r.t, err)
	out, err := w.cmd.StdoutPipe()
	check(r.t, err)
	w.cmd.Stderr = w.cmd.Stdout
	check(r.t, w.cmd.Start())
	r.t.Cleanup(w.stop)
	go func() {
		defer close(w.lines)
		text := bufio.NewScanner(out)
		for text.Scan() {
			w.lines <- text.Text()
		}
	}()
	w.started()
	return w
}

// started waits until the errand says its pid.
func (w *worker) started() {
	w.t.Helper()
	if line := w.hear(); line != "" {
		if _, err := fmt.Sscanf(line, "ok %d", &w.pid); err != nil {
			w.t.Fatalf("%v does not start: %q", w.cmd.Args, line)
		}
	}
}

// hear returns the next line.
func (w *worker) hear() string {
	w.t.Helper()
	select {
	case line, ok := <-w.lines:
		if !ok {
			w.t.Errorf("%v ended", w.cmd.Args)
		}
		return line
	case <-time.After(20 * time.Second):
		w.t.Fatalf("%v says nothing", w.cmd.Args)
		return ""
	}
}

// do runs an errand and returns what it came to.
func (w *worker) do(words ...string) string {
	w.t.Helper()
	if err := w.tell(words...); err != nil {
		w.t.Fatalf("%v: %v", words, err)
	}
	return w.hear()
}

// tell asks for an errand and does not wait.
func (w *worker) tell(words ...string) error {
	_, err := fmt.Fprintln(w.in, strings.Join(words, " "))
	return err
}

// want fails the test unless an errand comes to that.
func (w *worker) want(outcome string, words ...string) {
	w.t.Helper()
	if got := w.do(words...); got != outcome {
		w.t.Errorf("%v: %q, want %q", words, got, outcome)
	}
}

// wantSoon is want for an outcome that takes its time; before it, only
// meanwhile may be seen.
func (w *worker) wantSoon(outcome, meanwhile string, words ...string) {
	w.t.Helper()
	got := ""
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		if got = w.do(words...); got == outcome {
			return
		}
		if got != meanwhile {
			break
		}
	}
	w.t.Errorf("%v: %q, want %q after %q", words, got, outcome, meanwhile)
}

// stop ends the worker and all that it started that still has its output open.
func (w *worker) stop() {
	// Whichever of these comes second finds nobody.
	_ = w.in.Close()
	late := time.AfterFunc(5*time.Second, func() { _ = w.cmd.Process.Kill() })
	defer late.Stop()
	for range w.lines {
		continue // what nobody waited for
	}
	_ = w.cmd.Wait()
}

// greeting serves connections at an address of the network namespace ns, or of
// the test's own if that is empty, and greets each. It ends with the test, or when
// the returned function is called.
func greeting(t *testing.T, ns, address, text string) (stop func()) {
	t.Helper()
	var l net.Listener
	inside(t, ns, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// Who hears it tells.
				_, _ = io.WriteString(c, text+"\n")
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	stop = sync.OnceFunc(func() { l.Close() })
	t.Cleanup(stop)
	return stop
}

// echoing answers datagrams as greeting does connections.
func echoing(t *testing.T, address, text string) {
	t.Helper()
	p, err := net.ListenPacket("udp", address)
	check(t, err)
	t.Cleanup(func() { p.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			_, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			// Who hears it tells.
			_, _ = p.WriteTo([]byte(text), from)
		}
	}()
}

// events returns the bodies of the record's entries of a kind.
func events[T any](r *bareRig, kind string) []T {
	r.t.Helper()
	var list []T
	for entry, err := range record.Read(filepath.Join(r.state, "audit")) {
		if errors.Is(err, record.ErrTorn) {
			break // it is being written
		}
		check(r.t, err)
		if entry.Kind != kind {
			continue
		}
		var one T
		check(r.t, json.Unmarshal(entry.Body, &one))
		list = append(list, one)
	}
	return list
}

// within waits until something is so.
func within(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	ask := time.NewTicker(10 * time.Millisecond)
	defer ask.Stop()
	for deadline := time.Now().Add(limit); !is(); <-ask.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", limit, what)
		}
	}
}

// soonEvent waits for an event that is as wanted.
func soonEvent[T any](r *bareRig, kind, what string, wanted func(T) bool) (found T) {
	r.t.Helper()
	within(r.t, 10*time.Second, what, func() bool {
		for _, e := range events[T](r, kind) {
			if wanted(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// opened waits for the session of a process to a target.
func (r *bareRig) opened(pid int, target string) audit.SessionOpen {
	r.t.Helper()
	to := netip.MustParseAddrPort(target)
	return soonEvent(r, audit.KindSessionOpen, fmt.Sprintf("a session of pid %d to %s", pid, target), func(s audit.SessionOpen) bool {
		return int(s.Origin.Process.PID) == pid && s.Origin.Target == to
	})
}

// refusal waits for the event of a refusal, or of what was only observed.
func (r *bareRig) refusal(pid int, kind, target string, observed bool) audit.EscapeAttempt {
	r.t.Helper()
	return soonEvent(r, audit.KindEscape, fmt.Sprintf("%s of pid %d to %q (observed: %v)", kind, pid, target, observed), func(e audit.EscapeAttempt) bool {
		return int(e.Process.PID) == pid && e.Kind == kind && e.Target == target && e.Observed == observed
	})
}

// counter reads one of the kernel side's.
func (r *bareRig) counter(name string) uint64 {
	r.t.Helper()
	status, err := control.NewClient(r.socket).Status(r.t.Context())
	check(r.t, err)
	return status.Counters[name]
}
