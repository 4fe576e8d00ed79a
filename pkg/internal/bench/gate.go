package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/internal/pgtest"
)

const policyHead = `
version: 1
agents:
  - {name: ci}
  - {name: other}
resources:
  - {name: plain, protocol: postgres, hosts: ["%[1]s:%[5]s"], credential: shop, tls: {verify: off}}
  - {name: masked, protocol: postgres, hosts: ["%[3]s:%[5]s", "%[3]s:%[6]d"], credential: shop, tls: {verify: off}}
  - {name: relayed, protocol: tcp, hosts: ["%[2]s:%[5]s", "%[2]s:%[6]d", "%[2]s:%[7]d"]}
  - {name: in-kernel, protocol: tcp, inspection: none, hosts: ["%[4]s:%[7]d"]}
masks:
  - {name: ids, resources: [masked], columns: ["*.*.ssn"], with: keep-last-4}
  - {name: people, resources: [masked], detect: [pan, email, ssn], with: keep-last-4}
defaults: {mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}
rules:
  - {name: work, effect: allow, resources: [plain, masked], operations: [select, set, show, transaction]}
  - {name: opaque, effect: allow, resources: [relayed, in-kernel]}
`

// policyRules is how many rules the policy has.
const policyRules = 100

// rulesOfFile is how many rules a file of the policy has at most: a file may be
// 1 MiB long.
const rulesOfFile = 2000

// policyTexts returns the files of a policy of so many rules. Of its rules two
// allow what the measurements do. The others are of the kinds that policies have,
// for other principals, other agents and other operations.
func policyTexts(port string, rules int) []string {
	var files []string
	var b strings.Builder
	fmt.Fprintf(&b, policyHead, plainHost, relayHost, maskedHost, kernelHost, port, stubPort, echoPort)
	for i := 2; i < rules; i++ {
		if i%rulesOfFile == 0 {
			files = append(files, b.String())
			b.Reset()
			b.WriteString("version: 1\nrules:\n")
		}
		effect := []string{"allow", "deny"}[i%2]
		who := []string{
			fmt.Sprintf("principals: ['group:team-%d', 'group:on-call-%d']", i, i),
			"agents: [other]",
			"message: Ask the people who own the data.",
		}[i%3]
		verbs := []string{"drop", "truncate", "delete", "insert, update", "ddl", "copy_in, copy_out"}[i%6]
		if i%3 == 2 {
			effect = "deny"
		}
		fmt.Fprintf(&b, "  - {name: rule-%03d, effect: %s, resources: [plain, masked], operations: [%s], %s}\n", i, effect, verbs, who)
	}
	return append(files, b.String())
}

const gateConfig = `
version: 1
intercept: {cgroup: %[1]q, pin_dir: "", port: %[2]d, heartbeat: %[11]s}
policies: %[3]q
state: %[4]q
control: {socket: %[5]q}
metrics: {listen: ""}
audit: {durability: %[6]s}
record: {level: %[7]s}
limits: {sessions: 20000, sessions_per_tree: 20000}
log: {level: warn}
credentials:
  %[12]s: {from: "file:%[8]s", username: %[9]s, hosts: [%[10]s]}
`

// gated is one daemon: its folder and cgroup, its port, its policy, and where
// its credential may be sent to.
type gated struct {
	name       string
	port       int
	heartbeat  string
	policies   []string
	credential string
	hosts      []string
}

// restingGate is a daemon under the demonstration's policy, as it is configured
// where nobody says otherwise.
func restingGate(policy, port string) gated {
	return gated{"rest", restPort, "5s", []string{strings.ReplaceAll(policy, "PORT", port)}, "toy-db", []string{"127.0.0.1:" + port}}
}

func (r *rig) startGate(ctx context.Context) (err error) {
	var hosts []string
	for _, host := range []string{plainHost, maskedHost} {
		hosts = append(hosts, fmt.Sprintf("%s:%s", host, r.port), fmt.Sprintf("%s:%d", host, stubPort))
	}
	r.gate, err = r.daemon(ctx, gated{"gate", gatePort, "30s", policyTexts(r.port, r.rules), "shop", hosts})
	return err
}

// freshGate starts the gate again: what it did before leaves memory that is not
// given back, and the next measurement would not see itself take any.
func (r *rig) freshGate(ctx context.Context) error {
	if err := r.gate.end(); err != nil {
		return err
	}
	return r.startGate(ctx)
}

// daemon starts a gate and waits until it answers.
func (r *rig) daemon(ctx context.Context, g gated) (*process, error) {
	r.daemons++
	secret, err := r.write(g.name+"/secret", pgtest.AppPassword)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(secret, 0o600); err != nil {
		return nil, fmt.Errorf("hide secret: %w", err)
	}
	policies := filepath.Join(r.dir, g.name, "policies")
	if err := os.RemoveAll(policies); err != nil {
		return nil, fmt.Errorf("remove the policy before: %w", err)
	}
	for i, text := range g.policies {
		if _, err := r.write(fmt.Sprintf("%s/policies/policy-%d.yaml", g.name, i), text); err != nil {
			return nil, err
		}
	}
	for i, h := range g.hosts {
		g.hosts[i] = fmt.Sprintf("%q", h)
	}
	config, err := r.write(g.name+"/headgate.yaml", fmt.Sprintf(gateConfig, filepath.Join(r.cgroup, g.name), g.port, policies,
		filepath.Join(r.dir, g.name, fmt.Sprintf("state-%d", r.daemons)), r.socket(g.name), r.o.Durability, r.o.Recording, secret, pgtest.App, strings.Join(g.hosts, ", "), g.heartbeat, g.credential))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(r.program(), "daemon", "--config", config)
	answers := func() bool {
		status, err := control.NewClient(r.socket(g.name)).Status(ctx)
		return err == nil && status.PID == cmd.Process.Pid
	}
	return r.spawn(ctx, "headgate-"+g.name, cmd, answers)
}

func (r *rig) program() string           { return filepath.Join(r.dir, "headgate") }
func (r *rig) socket(name string) string { return filepath.Join(r.dir, name, "control.sock") }
