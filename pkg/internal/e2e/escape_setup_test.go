package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/control"
)

func newEscapes(t *testing.T) *escapes {
	e := &escapes{whole: t}
	e.rig = newRig(t, e.policyFor(t))
	// One that the kernel might give to anybody: the case that is worse.
	e.stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, l.Close())
	e.write("conf.d/port.yaml", fmt.Sprintf("intercept: {port: %d}\n", l.Addr().(*net.TCPAddr).Port))
	e.start()
	e.program = filepath.Join(e.dir, "escape")
	e.copyProgram(e.program, 0o755)
	e.witness = newWitness(t, e.daemon.Process.Pid)
	e.openWitness()
	e.openSystem()
	status, err := control.NewClient(e.socket).Status(t.Context())
	check(t, err)
	e.proxy = strconv.Itoa(int(status.Port))
	_, scrapePort, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(e.scrape, "http://"), "/metrics"))
	e.words = strings.NewReplacer("{v4}", serverV4+":7007", "{v6}", "["+serverV6+"]:7007", "{patient}", serverV4+":7011", "{mapped}", "[::ffff:"+serverV4+"]:7007",
		"{unnamed}", serverV4+":7098", "{udp4}", serverV4+":7009", "{udp6}", "["+serverV6+"]:7009", "{udpmapped}", "[::ffff:"+serverV4+"]:7009",
		"{quic}", serverV4+":443", "{dns}", serverV4+":53", "{dns6}", "["+serverV6+"]:53", "{dnsmapped}", "[::ffff:"+serverV4+"]:53", "{stub}", "127.0.0.53:53", "{dir}", e.dir, "{sockets}", e.denied, "{proxy}", e.proxy, "{metrics}", scrapePort,
		"{daemon}", strconv.Itoa(e.daemon.Process.Pid), "{pins}", e.pins, "{bin}", e.bin, "{socket}", e.socket, "{escape}", e.program,
		"{cgroup}", e.cgroup, "{neighbour}", e.neighbour)
	return e
}

// policyFor returns the policy. The directory of the rig is not known yet: the
// denied sockets are in one of their own.
func (e *escapes) policyFor(t *testing.T) string {
	dir, err := os.MkdirTemp("", "headgate-sock")
	check(t, err)
	check(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	e.denied = dir
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "enrolled"), "./testdata/escape")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build escape: %v\n%s", err, text)
	}
	full := strings.NewReplacer("{extra}", escapeResources, "{extraRules}", escapeRules, "{extraAgents}", escapeAgents).Replace(escapePolicy)
	full = strings.ReplaceAll(full, "{dir}", dir)
	bin, _ := programs(t)
	path := t.TempDir()
	check(t, os.WriteFile(filepath.Join(path, "policy.yaml"), fmt.Appendf(nil, full, 5432, "/x"), 0o644))
	if out, err := exec.Command(bin, "policy", "check", path).CombinedOutput(); err != nil {
		t.Errorf("the policy of the ways out is not understood, those that need it will fail: %s", out)
		return strings.NewReplacer("{extra}", "", "{extraRules}", "", "{extraAgents}", "").Replace(escapePolicy)
	}
	return full
}

// openWitness listens at every address that rows name.
func (e *escapes) openWitness() {
	w := e.witness
	for _, local := range []string{serverV4 + ":7007", "127.0.0.1:7007", "127.0.0.1:7008", serverV4 + ":7098"} {
		w.stream("tcp4", local, greet)
	}
	w.stream("tcp4", serverV4+":7011", greetPatiently)
	for _, local := range []string{"[" + serverV6 + "]:7007", "[::1]:7007"} {
		w.stream("tcp6", local, greet)
	}
	echo := func([]byte) []byte { return []byte("witness udp\n") }
	for _, local := range []string{serverV4 + ":7009", "127.0.0.1:7009", serverV4 + ":443"} {
		w.datagrams("udp4", local, echo)
	}
	w.datagrams("udp6", "["+serverV6+"]:7009", echo)
	for _, local := range []string{serverV4 + ":53", "127.0.0.53:53"} {
		w.datagrams("udp4", local, dnsAnswer)
		w.stream("tcp4", local, dnsStream)
	}
	w.datagrams("udp6", "["+serverV6+"]:53", dnsAnswer)
	w.stream("unix", filepath.Join(e.denied, "denied"), greet)
	w.stream("unix", filepath.Join(e.denied, "open"), greet)
	w.stream("unix", filepath.Join(e.denied, ".s.PGSQL.5432"), greet)
	w.stream("unix", "@headgate-escape", greet)
	w.sniff()
	w.datagrams("unixgram", filepath.Join(e.denied, "denied-dgram"), echo)
}

// openSystem allows in this network namespace what hosts allow, and makes the
// setuid program and the outsiders' cgroup.
func (e *escapes) openSystem() {
	e.t.Helper()
	for name, value := range map[string]string{
		"net/ipv4/ping_group_range": "0 2147483647",
		"net/ipv4/tcp_fastopen":     "3",
	} {
		check(e.t, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
	}
	e.copyProgram(filepath.Join(e.dir, "escape-setuid"), 0o755|os.ModeSetuid)
	check(e.t, os.Mkdir(filepath.Join(e.cgroup, "outside"), 0o755))
	t := e.t
	t.Cleanup(func() {
		for _, name := range []string{"outside", "elsewhere", "agents/own", "by-rule-later", "by-rule-at-once"} {
			if err := os.Remove(filepath.Join(e.cgroup, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("remove cgroup: %v", err)
			}
		}
	})
	e.openNeighbour()
}

// copyProgram copies the escape program.
func (e *escapes) copyProgram(to string, mode os.FileMode) {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join(e.denied, "enrolled"))
	check(e.t, err)
	check(e.t, os.WriteFile(to, text, 0o755))
	check(e.t, os.Chmod(to, mode))
}
