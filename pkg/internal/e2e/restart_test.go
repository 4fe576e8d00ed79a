package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager does what systemd does for a unit with a descriptor store
// (sd_notify(3)): it takes descriptors and passes them to the next daemon.
type manager struct {
	t    *testing.T
	conn *net.UnixConn

	mu    sync.Mutex
	names []string
	files []*os.File
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	check(t, err)
	m := &manager{t: t, conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.listen()
	}()
	t.Cleanup(func() {
		check(t, conn.Close())
		<-done
		m.forget(func(string) bool { return true })
	})
	return m
}

func (m *manager) listen() {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(64*4))
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(text, rights)
		if err != nil {
			return
		}
		m.take(strings.Split(string(text[:n]), "\n"), rights[:oobn])
	}
}

func (m *manager) take(lines []string, rights []byte) {
	name := ""
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "FDNAME="); ok {
			name = v
		}
	}
	if slices.Contains(lines, "FDSTOREREMOVE=1") {
		m.forget(func(n string) bool { return n == name })
		return
	}
	if !slices.Contains(lines, "FDSTORE=1") {
		return
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		m.t.Errorf("descriptors of %q: %v", name, err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			m.t.Errorf("descriptors of %q: %v", name, err)
		}
		for _, fd := range fds {
			m.names, m.files = append(m.names, name), append(m.files, os.NewFile(uintptr(fd), name))
		}
	}
}

func (m *manager) forget(match func(name string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.files) - 1; i >= 0; i-- {
		if !match(m.names[i]) {
			continue
		}
		if err := m.files[i].Close(); err != nil {
			m.t.Errorf("close descriptor: %v", err)
		}
		m.names, m.files = slices.Delete(m.names, i, i+1), slices.Delete(m.files, i, i+1)
	}
}

func (m *manager) kept() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.files)
}

// prepare has a daemon started with what is kept. LISTEN_PID is its own: the
// shell becomes it.
func (m *manager) prepare(cmd *exec.Cmd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.conn.LocalAddr().String())
	if len(m.files) == 0 {
		return
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
	cmd.ExtraFiles = slices.Clone(m.files)
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// newKeptRig is a rig whose daemon leaves its sockets with a manager.
func newKeptRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, rigPolicy)
	r.stop()
	r.manager = newManager(t)
	r.start()
	return r
}

// untilTold is a shell that ends pgbench, as its own clock would, once a file is
// there: how long the restarts take, the machine says.
const untilTold = `"$0" -n -C -c 4 -j 4 -T 600 -f "$1" & while [ ! -e "$2" ]; do sleep 0.1; done; kill -ALRM $!; wait $!`

// A new connection for each transaction, and none fails while the daemon is
// replaced under it.
func TestPrivilegedRestartFailsNoNewConnection(t *testing.T) {
	r := newKeptRig(t)
	pgbench, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	check(t, err)
	if len(pgbench) == 0 {
		t.Fatal("no pgbench; scripts/test-deps.sh installs it")
	}
	script := r.write("select.sql", "select 1;\n")
	done := make(chan outcome, 1)
	go func() {
		done <- r.agent("/bin/sh", "-c", untilTold, pgbench[0], script, filepath.Join(r.dir, "enough"))
	}()
	restarts := 0
	for ; restarts < 4; restarts++ {
		opened := r.opened()
		r.until("connections are made", func() bool {
			select {
			case o := <-done:
				t.Fatalf("pgbench ended after %d restarts:\n%s", restarts, o.text)
			default:
			}
			return r.opened() > opened+20
		})
		r.stop()
		if r.manager.kept() != 4 {
			t.Errorf("%d sockets are kept, want 4", r.manager.kept())
		}
		r.start()
	}
	r.write("enough", "")
	o := <-done
	o.want(t, 0, "number of failed transactions: 0")
	o.wantNot(t, "aborted", "connection to server")
	t.Logf("%d restarts:\n%s", restarts, o.text)
	r.cli("sessions", "verify", "--state", r.state).want(t, 0, "nobody edited the record")
	if n := r.metric("headgate_unaccounted_connections"); n != 0 {
		t.Errorf("%v connections are in no session", n)
	}
}

// opened counts the sessions of the running daemon.
func (r *rig) opened() float64 { return r.metric("headgate_sessions_total") }

// until waits for something that is certain to come.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	r.t.Fatalf("not within 30 s: %s", what)
}

// What connects while no daemon runs waits for the next one.
func TestPrivilegedConnectionsWaitForTheNextDaemon(t *testing.T) {
	r := newKeptRig(t)
	r.kill()
	done := make(chan outcome, 1)
	// The kernel enrols it by its cgroup, without a daemon.
	go func() { done <- r.treeIn("by-rule", nobody, psql("-c", "select 'served'")...) }()
	r.start()
	o := <-done
	o.want(t, 0, "served")
}
