package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/headgate/headgate/pkg/control"
)

// Two policies that say it differently: both allow to read, and neither to drop.
const (
	reloadDenies = `
rules:
  - {name: work, effect: allow, resources: [shop], operations: ["*"]}
  - {name: no-drop, effect: deny, resources: [shop], operations: [drop], when: "process.uid != 0"}
`
	reloadLists = `
rules:
  - {name: reads, effect: allow, resources: [shop], operations: [select], when: "size(lineage) > 1"}
masks:
  - {name: cards, resources: [shop], columns: ["public.customers.card"], with: keep-last-4}
`
)

const reloadHead = `
version: 1
agents: [{name: ci}]
resources:
  - name: shop
    protocol: postgres
    hosts: ["192.0.2.10:%[1]d", "127.0.0.1:%[1]d"]
    credential: shop
    tls: {verify: "off"}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
# %[2]s
`

// brokenPolicies are refused, each for a reason of its own.
func brokenPolicies() []string {
	return []string{
		"rules: [",
		"rulez: []\n",
		"rules: [{name: a, effect: deny, resources: [nobody]}]\n",
		"rules: [{name: a, effect: allow, resources: [shop], when: \"nothing.known\"}]\n",
		"rules: [{name: a, effect: allow, resources: [shop], operations: [dorp]}]\n",
		"rules:\n  - {name: a, effect: allow, resources: [shop]}\n  - {name: a, effect: allow, resources: [shop]}\n",
	}
}

// reloads is how often the policy is loaded; half of the files are broken.
const reloads = 100

// While the policy is loaded a hundred times, half of the time from files that are
// broken, no statement fails that both policies allow, and none is carried out that
// both deny, in sessions that stay and in new ones.
func TestPrivilegedReloadsUnderLoadFailNothingAndAllowNothing(t *testing.T) {
	r := newRig(t, reloadHead+reloadDenies)
	head := fmt.Sprintf(reloadHead, r.server.Port, "")
	done := filepath.Join(r.dir, "done")
	staying := "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo 'select name from customers where id = 1; drop table customers;'; done"
	loads := []string{
		"while [ ! -e " + done + " ]; do psql -X -A -t -c 'select name from customers where id = 1'; psql -X -A -t -c 'drop table customers'; done",
		"while [ ! -e " + done + " ]; do " + staying + " | psql -X -A -t; done",
		"(while [ ! -e " + done + " ]; do " + staying + "; sleep 0.05; done) | psql -X -A -t",
	}
	outcomes := make([]outcome, len(loads))
	var busy sync.WaitGroup
	for i, script := range loads {
		busy.Go(func() { outcomes[i] = r.agent("/bin/sh", "-c", script) })
	}
	client := control.NewClient(r.socket)
	broken, taken := brokenPolicies(), uint64(1)
	for i := range reloads {
		body := head + []string{reloadLists, reloadDenies}[i/2%2]
		if i%2 == 1 {
			body = head + broken[i/2%len(broken)]
		}
		check(t, os.WriteFile(filepath.Join(r.dir, "policies", "policy.yaml"), []byte(body), 0o600))
		status, err := client.Reload(t.Context())
		switch {
		case i%2 == 1 && err == nil:
			t.Errorf("reload %d took a broken file:\n%s", i, body)
		case i%2 == 0 && err != nil:
			t.Errorf("reload %d: %v", i, err)
		case i%2 == 0 && status.Generation <= taken:
			t.Errorf("reload %d is generation %d, after %d", i, status.Generation, taken)
		case i%2 == 0:
			taken = status.Generation
		}
		r.sql("select 1") // time for what is busy
	}
	check(t, os.WriteFile(done, nil, 0o644))
	busy.Wait()
	for i, o := range outcomes {
		read, refused, failed := 0, 0, ""
		for line := range strings.Lines(o.text) {
			switch {
			case strings.HasPrefix(line, "Ada Lovelace"):
				read++
			case strings.HasPrefix(line, "ERROR:  headgate: denied by rule \"no-drop\""), strings.HasPrefix(line, "ERROR:  headgate: denied by rule \"default\": no rule"):
				refused++
			case strings.HasPrefix(line, "DETAIL:"), strings.HasPrefix(line, "HINT:"), strings.TrimSpace(line) == "":
			default:
				failed += line
			}
		}
		t.Logf("load %d: %d reads, %d refused", i, read, refused)
		if failed != "" || read == 0 || read != refused {
			t.Errorf("load %d: %d reads, %d refused, and:\n%s", i, read, refused, failed)
		}
	}
	if got := r.sql("select count(*) from customers"); got != "3" {
		t.Errorf("the table has %s rows", got)
	}
	if n := r.metric("headgate_policy_last_load_successful"); n != 0 {
		t.Errorf("the last load was broken, and the metric is %v", n)
	}
}
