package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// emptyPolicy names an agent and nothing else.
const emptyPolicy = `
version: 1
agents: [{name: ci}]
defaults: {mode: observe, unmatched: deny, unknown_operation: deny, on_failure: closed}
# port %[1]d, %[2]s
`

// ciScript is what a build does, each step in a process of its own below others.
const ciScript = `set -e
sh -c 'psql -X -A -t -c "insert into orders (customer, note) values (1, '"'built'"')"'
sh -c 'sh -c "psql -X -A -t -c \"select count(*) > 0 from orders\""'
sh -c 'curl -fsS http://%[1]s/artifact'
sh -c 'git ls-remote http://%[1]s/repo.git HEAD'
psql -X -A -t -c "$STATEMENT"
`

// sites serves an artifact and a repository.
func sites(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "artifact"), []byte("artifact 1.2.3\n"), 0o600))
	work, bare := filepath.Join(dir, "work"), filepath.Join(dir, "repo.git")
	for _, args := range [][]string{
		{"init", "-q", work}, {"-C", work, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "--allow-empty", "-m", "first"},
		{"clone", "-q", "--bare", work, bare}, {"-C", bare, "update-server-info"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	l, err := net.Listen("tcp", elsewhereV4+":0")
	check(t, err)
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute}
	go func() {
		// It ends with the test.
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { check(t, server.Close()) })
	return l.Addr().String()
}

// From an empty policy: what a build does is observed, a policy is suggested from
// it, tested and enforced. The build then passes, and a changed statement is refused
// in words for somebody who has never heard of headgate.
func TestPrivilegedAWorkloadBecomesAPolicyThatIsEnforced(t *testing.T) {
	withAddresses(t, elsewhereV4)
	r := newRig(t, emptyPolicy)
	address := sites(t)
	build := func(statement string) outcome {
		t.Helper()
		login := []string{"env", "PGUSER=" + pgtest.App, "PGPASSWORD=" + pgtest.AppPassword, "STATEMENT=" + statement, "HOME=" + r.dir}
		return r.agent(append(login, "sh", "-c", fmt.Sprintf(ciScript, address))...)
	}
	passes := []string{"INSERT 0 1", "artifact 1.2.3", "HEAD", "Ada Lovelace"}
	const usual, changed = "select name from customers order by id", "drop table customers"
	build(usual).want(t, 0, passes...)

	suggested := r.cli("policy", "suggest", filepath.Join(r.dir, "policies"), "--state", r.state, "--enforce")
	suggested.want(t, 0, fmt.Sprintf("hosts: [%q]", fmt.Sprintf("%s:%d", serverV4, r.server.Port)), "operations: [insert, select]", "psql <- ", "/usr/bin/curl")
	suggested.wantNot(t, pgtest.AppPassword, "built", usual)
	r.write("suggested/ci.yaml", suggested.text)
	r.cli("policy", "check", filepath.Join(r.dir, "suggested")).want(t, 0, "1 files, 1 agents, 2 resources: enforce")
	r.cli("policy", "replay", filepath.Join(r.dir, "suggested"), "--state", r.state).want(t, 0, " 0 would be refused or held")

	r.write("suggested/ci_test.yaml", fmt.Sprintf(`version: 1
given: {resource: postgres-%s-%d, agent: ci}
tests:
  - {name: what the build does passes, statement: %s, expect: allow}
  - {name: it drops nothing, statement: %s, expect: deny}
`, serverV4, r.server.Port, usual, changed))
	r.cli("policy", "test", filepath.Join(r.dir, "suggested")).want(t, 0, "2 tests, 2 passed, 0 failed")

	check(t, os.WriteFile(filepath.Join(r.dir, "policies", "policy.yaml"), []byte(suggested.text), 0o600))
	r.cli("reload", "--socket", r.socket).want(t, 0)
	build(usual).want(t, 0, passes...)
	o := build(changed)
	o.want(t, 1, "INSERT 0 1", "artifact 1.2.3", "ERROR", "no rule of this host's policy allows all that it does: ddl, drop", "HINT", "Ask the operators of this host to allow it", "headgate policy explain --op ")
	if got := r.sql("select count(*) from customers"); got != "3" {
		t.Errorf("the table has %s rows", got)
	}
	_, op, _ := strings.Cut(o.text, "headgate policy explain --op ")
	op, _, _ = strings.Cut(op, " ")
	o = r.cli("policy", "explain", filepath.Join(r.dir, "policies"), "--state", r.state, "--op", op)
	o.want(t, 0, changed, "no rule matched; defaults.unmatched is deny", "it is about operations [insert, select]; this is [ddl, drop]")
	o.wantNot(t, "differs")
}
