package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/policytest"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
)

// packs are the policies that people may use as they are.
const packs = "../../policies"

func TestPacksSayWhatTheyPromise(t *testing.T) {
	suites, err := config.LoadPolicyTests(packs)
	if err != nil {
		t.Fatal(err)
	}
	report, err := testOptions(all.Protocols(protocol.Settings{})).Run(suites...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range report.Results {
		r := &report.Results[i]
		t.Run(filepath.Base(r.File)+"/"+r.Name, func(t *testing.T) {
			for _, failure := range r.Failures {
				t.Errorf("%s: %s", r.At, failure)
			}
		})
	}
	for _, c := range report.Coverage {
		if c.Tests == 0 {
			t.Errorf("%s: %s %s is in no test", c.At, c.Kind, c.Name)
		}
	}
}

func TestEveryPackHasTestsAndStandsAlone(t *testing.T) {
	files, err := config.LoadPolicies(packs)
	if err != nil {
		t.Fatal(err)
	}
	suites, err := config.LoadPolicyTests(packs)
	if err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, s := range suites {
		tested[s.Tests.Name()] = true
	}
	for _, f := range files {
		if beside := strings.TrimSuffix(f.Name(), ".yaml") + policytest.Suffix; !tested[beside] {
			t.Errorf("%s has no tests", f.Name())
		}
		if _, err := compileOptions(all.Protocols(protocol.Settings{})).Compile(f); err != nil {
			t.Errorf("alone: %v", err)
		}
	}
}

func TestPacksGoTogether(t *testing.T) {
	files, err := config.LoadPolicies(packs)
	if err != nil {
		t.Fatal(err)
	}
	options := compileOptions(all.Protocols(protocol.Settings{}))
	if _, err := options.Compile(files...); err != nil {
		t.Fatal(err)
	}
	// What a rule of one pack denies, no other lets pass.
	suites, err := config.LoadPolicyTests(packs)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := testOptions(all.Protocols(protocol.Settings{})).Run(suites...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range suites {
		suites[i].Policies = files
	}
	together, err := testOptions(all.Protocols(protocol.Settings{})).Run(suites...)
	if err != nil {
		t.Fatal(err)
	}
	denials := 0
	for i, r := range alone.Results {
		if r.Decision != policy.Deny.String() || r.Rule == policy.DefaultRule {
			continue
		}
		denials++
		if now := together.Results[i]; now.Decision != r.Decision {
			t.Errorf("%s: %s: denied by rule %s, and with all packs %s by rule %s", r.At, r.Name, r.Rule, now.Decision, now.Rule)
		}
	}
	if denials == 0 {
		t.Error("no pack denies anything")
	}
}
