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
