package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
)

// letting is a policy that lets agents reach one resource past the proxy.
func letting(t *testing.T, rule string) *policy.Engine {
	t.Helper()
	dir := t.TempDir()
	text := "version: 1\nagents: [{name: ci}]\nresources: [{name: unread, protocol: tcp, inspection: none, hosts: [\"192.0.2.20:7107\"]}]\n" +
		"rules: [{name: " + rule + ", effect: allow, resources: [unread], operations: [\"*\"]}]\n"
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.OpenLog(t.TempDir(), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := newPolicies(dir, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(t.Context(), func(*policy.Engine) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return p.Engine()
}

// Policies come and go, also before this daemon ran: the kernel's figures go on,
// and no counter falls.
func TestDirectFlowsKeepTheirRulesName(t *testing.T) {
	var r directRules
	total := func(n uint64) kernel.DirectFlows {
		return kernel.DirectFlows{Begun: 2 * n, Flows: n, Up: 10 * n, Down: 100 * n, Microseconds: 1000 * n}
	}
	check := func(when string, first, second uint64, want map[string]uint64) {
		t.Helper()
		counted := map[uint64]kernel.DirectFlows{ruleNumber("first"): total(first), ruleNumber("second"): total(second), kernel.OtherRules: total(1)}
		var named map[string]metrics.DirectFlows
		if want != nil {
			named = map[string]metrics.DirectFlows{}
		}
		for rule, n := range want {
			named[rule] = metrics.DirectFlows(total(n))
		}
		if diff := cmp.Diff(named, r.name(counted)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("before the first policy", 5, 5, nil)
	r.learn(letting(t, "first"))
	check("an earlier daemon's rule has no name", 5, 7, map[string]uint64{"first": 5, metrics.Other: 8})
	check("who read earlier is told later, and no figure is less", 5, 4, map[string]uint64{"first": 5, metrics.Other: 8})
	r.learn(letting(t, "second"))
	check("it came back", 6, 9, map[string]uint64{"first": 6, "second": 2, metrics.Other: 8})
	check("who read earlier is told later", 6, 6, map[string]uint64{"first": 6, "second": 0, metrics.Other: 8})
}
