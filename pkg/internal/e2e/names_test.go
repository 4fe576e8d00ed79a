package e2e

import (
	"bytes"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
)

// Addresses that the names of the tests lead to.
const (
	dbV4        = "192.0.2.20"
	forbiddenV4 = "192.0.2.30"
	elsewhereV4 = "192.0.2.40"
	trusted     = serverV4 + ":53"
	untrustedV4 = "192.0.2.11"
)

const namePolicy = `
version: 1
agents: [{name: ci}]
resources:
  - {name: db, protocol: tcp, hosts: ["db.internal:7107", "both.internal:7107"]}
  - {name: forbidden, protocol: tcp, hosts: ["192.0.2.30:7107"]}
  - {name: open-names, protocol: dns, names: ["*.open.internal"], servers: ["192.0.2.10:53"]}
  - {name: hidden-names, protocol: dns, names: ["hidden.internal"]}
rules:
  - {name: use-db, effect: allow, resources: [db], operations: ["*"]}
  - {name: not-there, effect: deny, resources: [forbidden], operations: ["*"]}
  - {name: look-up, effect: allow, resources: [open-names], operations: [address]}
  - {name: no-hidden, effect: deny, resources: [hidden-names], operations: ["*"], message: That name is nobody's business.}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
`

// nameServer starts a name server in a network namespace, or where the test is.
// Records are as dnsmasq's options have them.
func nameServer(t *testing.T, ns, address string, records ...string) {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("needs dnsmasq")
	}
	argv := append([]string{path, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-poll", "--bind-interfaces",
		"--listen-address=" + address, "--user=root", "--pid-file=", "--log-facility=-"}, records...)
	if ns != "" {
		argv = append(entering(ns), argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	var text bytes.Buffer
	cmd.Stderr = &text
	check(t, cmd.Start())
	t.Cleanup(func() {
		// Its end is asked for.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("name server at %s:\n%s", address, text.String())
		}
	})
	within(t, 10*time.Second, "name server ready", func() bool {
		var c net.Conn
		inside(t, ns, func() error {
			// Not yet is no error.
			c, _ = net.Dial("tcp", address+":53")
			return nil
		})
		if c == nil {
			return false
		}
		return c.Close() == nil
	})
}

// withAddresses gives the tests' namespace more addresses, for the time of a
// test.
func withAddresses(t *testing.T, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		ip(t, "addr", "add", a+"/32", "dev", "lo")
		t.Cleanup(func() { ip(t, "addr", "del", a+"/32", "dev", "lo") })
	}
}

func newNameRig(t *testing.T) *bareRig {
	t.Helper()
	r := prepareBareRig(t)
	withAddresses(t, dbV4, forbiddenV4, elsewhereV4, untrustedV4)
	nameServer(t, "", serverV4, "--host-record=db.internal,"+dbV4, "--host-record=both.internal,"+dbV4, "--host-record=both.internal,"+forbiddenV4,
		"--host-record=one.open.internal,"+elsewhereV4, "--host-record=hidden.internal,"+elsewhereV4, "--host-record=other.internal,"+elsewhereV4,
		"--cname=alias.open.internal,db.internal", "--txt-record=db.internal,text")
	nameServer(t, "", untrustedV4, "--host-record=db.internal,"+elsewhereV4)
	for address, text := range map[string]string{
		dbV4 + ":7107": "db", dbV4 + ":7108": "another port", forbiddenV4 + ":7107": "forbidden", elsewhereV4 + ":7107": "elsewhere",
	} {
		greeting(t, "", address, text)
	}
	r.policy(namePolicy)
	r.start()
	return r
}

func (w *worker) wantNo(words ...string) {
	w.t.Helper()
	if got := w.do(words...); !strings.HasPrefix(got, "no ") {
		w.t.Errorf("%v: %q", words, got)
	}
}

// A resource by name is reached by whoever asked for the name, and by nobody else.
func TestPrivilegedResourceIsReachedByItsName(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			r := newNameRig(t)
			asks, silent := r.worker(whereabouts{run: "ci"}), r.worker(whereabouts{run: "ci"})
			asks.wantNo(hearing(dbV4 + ":7107")...)
			asks.want("ok db", "find", network, trusted, "db.internal:7107")
			open := soonEvent(r, audit.KindSessionOpen, "a session by name", func(s audit.SessionOpen) bool {
				return int(s.Origin.Process.PID) == asks.pid && s.Origin.Target.String() == dbV4+":7107" && s.Resource == "db"
			})
			if !slices.Equal(open.Names, []string{"db.internal"}) || open.NameSource != audit.NameSourceDNS {
				t.Errorf("the record has the names %q from %q", open.Names, open.NameSource)
			}
			// A child is of the same tree.
			asks.want("ok ok db", append([]string{"child"}, hearing(dbV4+":7107")...)...)
			silent.wantNo(hearing(dbV4 + ":7107")...)
			open = r.opened(silent.pid, dbV4+":7107")
			if open.Resource != "" || open.Names != nil || open.NameSource != audit.NameSourceNone {
				t.Errorf("the record of who did not ask: %+v", open)
			}
			// A name that is open to ask for opens nothing by itself.
			silent.want("ok "+elsewhereV4, "ask", network, trusted, "one.open.internal.")
			silent.wantNo(hearing(elsewhereV4 + ":7107")...)
			// Nor is another port of the name's.
			asks.wantNo(hearing(dbV4 + ":7108")...)
			// By an alias the name is known as well.
			silent.want("ok db", "find", network, trusted, "alias.open.internal:7107")
		})
	}
}

// What a server says can restrict, and widens only what the policy gives by name.
func TestPrivilegedAnswersCannotWidenThePolicy(t *testing.T) {
	r := newNameRig(t)
	w := r.worker(whereabouts{run: "ci"})
	w.want("ok "+dbV4+" "+forbiddenV4, "ask", "udp", trusted, "both.internal.")
	w.wantNo(hearing(forbiddenV4 + ":7107")...)
	w.want("ok db", hearing(dbV4+":7107")...)
	// A server that nobody trusts may be asked for what may be asked for, and is not believed.
	other := r.worker(whereabouts{run: "ci"})
	other.want("ok "+elsewhereV4, "ask", "udp", untrustedV4+":53", "db.internal.")
	other.wantNo(hearing(elsewhereV4 + ":7107")...)
	open := r.opened(other.pid, elsewhereV4+":7107")
	if open.Resource != "" || open.Names != nil {
		t.Errorf("the record: %+v", open)
	}
}

// Where a policy allows no name, the answer says who refused, and why.
func TestPrivilegedRefusedNamesSayWhichRule(t *testing.T) {
	r := newNameRig(t)
	dig := func(args ...string) outcome {
		return r.agent(append([]string{"/usr/bin/dig", "+tries=1", "+time=5", "@" + serverV4}, args...)...)
	}
	dig("db.internal", "A").want(t, 0, "status: NOERROR", dbV4)
	dig("+tcp", "db.internal", "A").want(t, 0, "status: NOERROR", dbV4)
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"a rule":                           {[]string{"hidden.internal", "A"}, []string{"status: REFUSED", "EDE: 15 (Blocked)", "no-hidden", "nobody's business"}},
		"a rule, TCP":                      {[]string{"+tcp", "hidden.internal", "A"}, []string{"status: REFUSED", "EDE: 15 (Blocked)", "no-hidden"}},
		"no rule":                          {[]string{"other.internal", "A"}, []string{"status: REFUSED", "EDE: 15 (Blocked)"}},
		"another type":                     {[]string{"db.internal", "TXT"}, []string{"status: REFUSED", "EDE: 15 (Blocked)"}},
		"all types":                        {[]string{"db.internal", "ANY", "+notcp"}, []string{"status: REFUSED"}},
		"data in a name":                   {[]string{"c2VjcmV0.db.internal", "A"}, []string{"status: REFUSED"}},
		"type that was allowed for others": {[]string{"one.open.internal", "TXT"}, []string{"status: REFUSED"}},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			o := dig(c.args...)
			o.want(t, 0, c.says...)
			o.wantNot(t, elsewhereV4, "\"text\"")
		})
	}
	r.t = t
	transfer := dig("internal", "AXFR")
	transfer.want(t, 0, "Transfer failed")
	transfer.wantNot(t, dbV4, elsewhereV4)
	soonEvent(r, audit.KindDecision, "the rule's decision", func(d audit.Decision) bool {
		return d.Rule == "no-hidden" && d.Verdict == "deny"
	})
}

// The system's own resolver asks from a socket of its own kind.
func TestPrivilegedSystemResolverIsMediated(t *testing.T) {
	r := newNameRig(t)
	conf := r.write("resolv.conf", "nameserver "+serverV4+"\noptions timeout:3 attempts:1\n")
	private := func(argv ...string) outcome {
		script := "mount --bind " + conf + " /etc/resolv.conf && exec \"$@\""
		return r.tree([]string{r.bin, "run", "--socket", r.socket, "--agent", "ci", "--", "unshare", "--mount", "sh", "-c", script, "sh"}, 0, argv...)
	}
	private("getent", "ahostsv4", "db.internal").want(t, 0, dbV4)
	private("getent", "ahostsv4", "hidden.internal").want(t, 2)
	private("bash", "-c", "read -r line < <(exec 3<>/dev/tcp/db.internal/7107 && head -n 1 <&3); echo got $line").want(t, 0, "got db")
	private(filepath.Join(r.dir, "errand"), "hear", "tcp", "db.internal:7107").want(t, 0, "ok db")
	private(filepath.Join(r.dir, "errand"), "hear", "tcp", "other.internal:7107").wantNot(t, "elsewhere")
}

// What is asked in a namespace is answered there. Nobody there is trusted.
func TestPrivilegedNamesAreThoseOfTheNamespace(t *testing.T) {
	r := newNameRig(t)
	ns := namespace(t, "names", serverV4+"/32", insideV4+"/32")
	nameServer(t, ns, serverV4, "--host-record=one.open.internal,"+insideV4, "--host-record=db.internal,"+insideV4)
	greeting(t, ns, insideV4+":7107", "inside")
	home, in := r.worker(whereabouts{run: "ci"}), r.worker(whereabouts{run: "ci"}, entering(ns)...)
	for _, network := range []string{"udp", "tcp"} {
		home.want("ok "+elsewhereV4, "ask", network, trusted, "one.open.internal.")
		within(t, 10*time.Second, "name server of the namespace", func() bool {
			return in.do("ask", network, trusted, "one.open.internal.") == "ok "+insideV4
		})
		in.wantNo("ask", network, trusted, "hidden.internal.")
	}
	in.want("ok "+insideV4, "ask", "udp", trusted, "db.internal.")
	in.wantNo(hearing(insideV4 + ":7107")...)
	// Questions over UDP keep nothing alive for long.
	inode := inodeOf(t, ns)
	in.stop()
	started := time.Now()
	within(t, 100*time.Second, "namespace given up", func() bool { return !r.daemonHolds(inode) })
	t.Logf("given up after %v", time.Since(started).Round(time.Second))
}
