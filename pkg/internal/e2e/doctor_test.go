package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/control"
)

// doctor asks the doctor once.
func (r *rig) doctor(args ...string) outcome {
	r.t.Helper()
	return r.cli(append([]string{"doctor", "--config", r.config}, args...)...)
}

// diagnosed asks until the doctor's status is the wanted one.
func (r *rig) diagnosed(status int) outcome {
	r.t.Helper()
	var o outcome
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if o = r.doctor(); o.status == status {
			return o
		}
	}
	o.want(r.t, status)
	r.t.FailNow()
	return o
}

func TestPrivilegedDoctorFindsAHealthyDaemonWell(t *testing.T) {
	r := newRig(t, rigPolicy)
	r.agent(psql("-c", "select 1")...).want(t, 0)
	o := r.diagnosed(0)
	o.want(t, 0, "well: agents are mediated; no problems", "cgroup/connect", "mediation is proven", "headgate_connect4", "the daemon's own", "0 connections unaccounted for")
	// What the machine of the tests lacks, and that the rig is below the root, is
	// told, and does not count unless that is asked for.
	o.want(t, 0, "NOTE", "only agents below "+r.cgroup)
	r.doctor("--strict").want(t, 1, "well: agents are mediated")

	var said struct {
		Findings []struct{ Level, About string }
		Machine  []struct{ Name, State, Cause, Remedy string }
		Daemon   control.Health
	}
	text, err := exec.Command(r.bin, "doctor", "--config", r.config, "--output", "json").Output()
	check(t, err)
	check(t, json.Unmarshal(text, &said))
	if len(said.Machine) < 20 || said.Daemon.PID != r.daemon.Process.Pid || !said.Daemon.Canary.Active {
		t.Errorf("told: %s", text)
	}
	id, err := cgroup.ID(r.cgroup)
	check(t, err)
	for _, p := range said.Daemon.Programs {
		if p.LinkID == 0 || !p.Pinned || p.AtRoot || strings.HasPrefix(p.Attach, "C") != (p.Cgroup == id) {
			t.Errorf("link: %+v", p)
		}
		if p.Name == "headgate_connect4" && p.Hits == 0 {
			t.Errorf("an agent connected: %+v", p)
		}
	}
	for _, m := range said.Machine {
		if m.State == "unknown" || m.State == "lost" && (m.Cause == "" || m.Remedy == "") {
			t.Errorf("%+v", m)
		}
	}

	t.Run("nobody else is told of the daemon", func(t *testing.T) {
		out, err := r.command(nobody, r.bin, "doctor", "--config", r.config).CombinedOutput()
		outcome{string(out), exitCode(err)}.want(t, 1, "only root may look at the daemon's health", "sudo", "not tried for want of privileges")
	})
	t.Run("a canary that died is a problem until it is replaced", func(t *testing.T) {
		check(t, syscall.Kill(r.canary(), syscall.SIGKILL))
		o := r.diagnosed(1)
		o.want(t, 1, "PROBLEM canary: mediation is not proven", "no proof")
		r.diagnosed(0)
	})
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// canary returns the pid of the daemon's canary.
func (r *rig) canary() int {
	r.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.daemon.Process.Pid))
	check(r.t, err)
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		check(r.t, err)
		for _, pid := range strings.Fields(string(children)) {
			argv, err := os.ReadFile("/proc/" + pid + "/cmdline")
			if err == nil && strings.Contains(string(argv), "\x00canary") {
				n, err := strconv.Atoi(pid)
				check(r.t, err)
				return n
			}
		}
	}
	r.t.Fatal("the daemon has no canary")
	return 0
}

func TestPrivilegedDoctorFindsWhatWasTakenAway(t *testing.T) {
	r := newRig(t, rigPolicy)
	r.diagnosed(0)
	pins, err := filepath.Glob(filepath.Join(r.pins, "v*", "link_headgate_sock_release"))
	check(t, err)
	check(t, os.Remove(pins[0]))
	// The daemon soon puts it back, and somebody should still ask who it was.
	r.until("the pin is back", func() bool {
		return strings.Contains(r.doctor().text, "PROBLEM pins_restored: 1 pins had been taken away")
	})
	_, err = os.Lstat(pins[0])
	check(t, err)

	l, err := link.LoadPinnedLink(filepath.Join(filepath.Dir(pins[0]), "link_headgate_connect4"), nil)
	check(t, err)
	check(t, l.Detach())
	check(t, l.Close())
	o := r.doctor()
	o.want(t, 1, "not well", "PROBLEM headgate_connect4: the link was detached", "! headgate_connect4", "systemctl restart headgate")
	o.wantNot(t, "! headgate_connect6")

	r.kill()
	r.doctor().want(t, 3, "no daemon answers", "machine\n", "cgroup/connect", "hint: start it with: headgate daemon")
}

// heldBy lists the links, and the programs in them, that are pinned below dir.
func heldBy(t *testing.T, dir string) (links []link.ID, programs []ebpf.ProgramID) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "v*", "link_*"))
	check(t, err)
	for _, path := range paths {
		l, err := link.LoadPinnedLink(path, nil)
		check(t, err)
		info, err := l.Info()
		check(t, err)
		check(t, l.Close())
		links, programs = append(links, info.ID), append(programs, info.Program)
	}
	return links, programs
}

func TestPrivilegedUninstallLeavesNothingAndLetsAgentsGo(t *testing.T) {
	r := newRig(t, rigPolicy)
	uninstall := func(args ...string) outcome {
		return r.cli(append([]string{"uninstall", "--config", r.config}, args...)...)
	}
	port := freePort(t)
	cmd := r.command(nobody, r.bin, "run", "--socket", r.socket, "--agent", "ci", "--", "/bin/bash", "-c",
		fmt.Sprintf(`while read; do if (exec 3<>/dev/tcp/%s/%d) 2>/dev/null; then echo through; else echo refused; fi; done`, serverV4, port))
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	connects := func() string {
		t.Helper()
		_, err := io.WriteString(in, "\n")
		check(t, err)
		answer := make([]byte, len("through\n"))
		_, err = io.ReadFull(out, answer)
		check(t, err)
		return strings.TrimSpace(string(answer))
	}
	witness := r.listen(port)
	defer witness()

	connects() // it is enrolled by now, whatever becomes of the connection
	uninstall("--yes").want(t, 1, "a daemon runs", "systemctl stop headgate")
	if links, _ := heldBy(t, r.pins); len(links) < 20 {
		t.Fatalf("%d links are pinned", len(links))
	}
	r.kill()
	if got := connects(); got != "refused" {
		t.Fatalf("without a daemon the agent's connection is %s", got)
	}
	links, programs := heldBy(t, r.pins)
	uninstall().want(t, 2, "say --yes")
	if got := connects(); got != "refused" {
		t.Fatalf("before anything was removed the agent's connection is %s", got)
	}
	// The agent is in a cgroup of the daemon's still.
	uninstall("--yes").want(t, 1, "removed   programs and maps pinned in "+r.pins, "removed   "+r.cgroup+"/daemon", "removed   "+r.socket,
		"kept      "+r.cgroup+"/agents: processes", "kept      "+r.state, "rm -r "+r.state)
	if got := connects(); got != "through" {
		t.Errorf("after it, what was an agent's connection is %s", got)
	}
	r.nothingIsLeft(links, programs)
	check(t, in.Close())
	check(t, cmd.Wait())
	o := uninstall("--yes")
	o.want(t, 0, "removed   "+r.cgroup+"/agents", "kept      "+r.cgroup)
	o.wantNot(t, "pinned", r.socket)
	for _, path := range []string{r.pins, r.socket, filepath.Join(r.cgroup, "agents"), filepath.Join(r.cgroup, "daemon")} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
	r.cli("sessions", "verify", "--state", r.state).want(t, 0)
}

// nothingIsLeft asks the kernel for every link and program by its number; it
// frees them in the background.
func (r *rig) nothingIsLeft(links []link.ID, programs []ebpf.ProgramID) {
	r.t.Helper()
	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		if left = r.left(links, programs); len(left) == 0 {
			return
		}
	}
	r.t.Errorf("the kernel still has %v", left)
}

func (r *rig) left(links []link.ID, programs []ebpf.ProgramID) []string {
	r.t.Helper()
	var left []string
	for _, id := range links {
		if l, err := link.NewFromID(id); !errors.Is(err, os.ErrNotExist) {
			left = append(left, fmt.Sprintf("link %d (%v)", id, err))
			if err == nil {
				check(r.t, l.Close())
			}
		}
	}
	for _, id := range programs {
		if p, err := ebpf.NewProgramFromID(id); !errors.Is(err, os.ErrNotExist) {
			left = append(left, fmt.Sprintf("program %d (%v)", id, err))
			if err == nil {
				check(r.t, p.Close())
			}
		}
	}
	// Also what no pin told of.
	ours, err := cgroup.ID(r.cgroup)
	check(r.t, err)
	all := new(link.Iterator)
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		check(r.t, err)
		if cg := info.Cgroup(); cg != nil && cg.CgroupId == ours {
			left = append(left, fmt.Sprintf("link %d to our cgroup", info.ID))
		}
	}
	check(r.t, all.Err())
	return left
}

// listen accepts, and closes, what comes to a port of the server's address.
func (r *rig) listen(port int) (stop func()) {
	r.t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", serverV4, port))
	check(r.t, err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close() // that it came is all
		}
	}()
	return func() { check(r.t, l.Close()) }
}
