package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
)

// What could not be told to the kernel, or not be written down, does not come
// into force, and the kernel is told the policy that does. Before there is one,
// nothing is told that would let an earlier daemon's agents go.
func TestFailedLoadLeavesTheKernelWithThePolicyInForce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte("version: 1\nagents: [{name: ci, users: [\"1000\"]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.OpenLog(t.TempDir(), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPolicies(dir, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	var told []uint64 // generations; 0 for none
	var refuse uint64
	tell := func(e *policy.Engine) error {
		told = append(told, e.Generation())
		if e.Generation() == refuse {
			return errors.New("too many destinations")
		}
		return nil
	}
	check := func(what string, load error, wantErr bool, generation uint64, want ...uint64) {
		t.Helper()
		if (load != nil) != wantErr || p.Engine().Generation() != generation || !slices.Equal(told, want) {
			t.Errorf("%s: error %v, generation %d, told %v; want %d and %v", what, load, p.Engine().Generation(), told, generation, want)
		}
		told = nil
	}
	refuse = 1
	check("the kernel refuses the first", p.Load(t.Context(), tell), true, 0, 1)
	refuse = 0
	check("good", p.Load(t.Context(), tell), false, 1, 1)
	refuse = 2
	check("the kernel refuses the second", p.Load(t.Context(), tell), true, 1, 2, 1)
	refuse = 0
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	check("nothing can be written down", p.Load(t.Context(), tell), true, 1, 2, 1)
	if p.LastError() == nil {
		t.Error("status would say that all is well")
	}
	first, err := newPolicies(dir, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	p = first
	check("nothing can be written down at the first", p.Load(t.Context(), tell), true, 0, 1)
}

// The kernel enrols by the next policy before that is in force: whoever it enrols
// then has a name already, and nobody loses the one that he has.
func TestAgentsHaveNamesBeforeTheKernelKnowsThem(t *testing.T) {
	dir := t.TempDir()
	write := func(agent string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte("version: 1\nagents: [{name: "+agent+", users: [\"1000\"]}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := audit.OpenLog(t.TempDir(), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPolicies(dir, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := func(when string, agents ...string) {
		t.Helper()
		for _, name := range []string{"ci", "backup", defaultAgent} {
			got, ok := p.Agent(enrolmentOf(name))
			if ok != slices.Contains(agents, name) || ok && got != name {
				t.Errorf("%s: agent %q is known: %v as %q", when, name, ok, got)
			}
		}
	}
	var refuse error
	load := func(while ...string) error {
		first := true
		return p.Load(t.Context(), func(*policy.Engine) error {
			want("while the kernel is told", while...)
			if first {
				first = false
				return refuse
			}
			return nil
		})
	}
	write("ci")
	refuse = errors.New("no room")
	if err := load("ci", defaultAgent); err == nil {
		t.Error("loaded")
	}
	want("after the first was refused")
	refuse = nil
	if err := load("ci", defaultAgent); err != nil {
		t.Error(err)
	}
	want("after the first", "ci", defaultAgent)
	write("backup")
	refuse = errors.New("no room")
	if err := load("ci", "backup", defaultAgent); err == nil {
		t.Error("loaded")
	}
	want("after the second was refused", "ci", defaultAgent)
	refuse = nil
	if err := load("ci", "backup", defaultAgent); err != nil {
		t.Error(err)
	}
	want("after the second", "backup", defaultAgent)
	write("ci")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := load("ci", "backup", defaultAgent); err == nil {
		t.Error("loaded what could not be written down")
	}
	want("after nothing could be written down", "backup", defaultAgent)
}
